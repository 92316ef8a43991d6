//! `pool serve`.

use serde::Serialize;
use snakehouse_base::Kind;
use snakehouse_grpc::{Server, ServerConfig, ServerTls, Services};
use snakehouse_pool::{Attachments, Pool, PoolConfig, Reaper, WorkerSpec};
use snakehouse_supervise::{Root, Scope};

use crate::args::PoolServeArgs;
use crate::config::Config;
use crate::error::CliError;
use crate::output::Output;
use crate::own_pool::{tool_spec, with_packages};
use crate::stop_signal;
use crate::telemetry::Watch;

use super::{Begun, begin, read, token};

/// The line that says that it serves.
#[derive(Debug, Serialize)]
struct Ready {
    event: &'static str,
    url: String,
    pid: u32,
    /// `None` where the workers come from elsewhere.
    tools: Option<Vec<String>>,
    /// How many workers of other machines it takes in.
    attached: u16,
    /// Where the numbers of the pool are.
    metrics: Option<String>,
}

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn run(config: &Config, args: PoolServeArgs, out: Output) -> Result<(), CliError> {
    let stop = stop_signal::listen()?;
    let root = Root::new("serve");
    let listen = listening(&args);
    let begun = begin(root.scope(), config, listen).await;
    let served = match &begun {
        Ok(begun) => tokio::select! {
            served = serve(root.scope(), config, begun, &args, out) => served,
            () = stop => Ok(()),
        },
        Err(_) => Ok(()),
    };
    root.stop().await;
    begun?.run.end();
    served
}

/// Reads what the server needs.
fn listening(
    args: &PoolServeArgs,
) -> impl FnOnce() -> Result<ServerConfig, CliError> + Send + use<> {
    let mut server = ServerConfig::new(args.listen);
    server.plaintext = args.plaintext;
    let (token_file, worker_token_file) = (args.token_file.clone(), args.worker_token_file.clone());
    let client_ca = args.client_ca.clone();
    let pair = args.tls_cert.clone().zip(args.tls_key.clone());
    move || {
        server.token = token_file.map(|file| token("--token-file", &file)).transpose()?;
        let of_workers = worker_token_file.map(|file| token("--worker-token-file", &file));
        server.worker_token = of_workers.transpose()?;
        if let Some((certificate, key)) = pair {
            let ca = client_ca.map(|file| read("--client-ca", &file)).transpose()?;
            let (certificate, key) = (read("--tls-cert", &certificate)?, read("--tls-key", &key)?);
            server.tls = Some(ServerTls::from_pem(&certificate, &key, ca.as_deref())?);
        }
        Ok(server)
    }
}

async fn serve(
    scope: &Scope,
    config: &Config,
    begun: &Begun<ServerConfig>,
    args: &PoolServeArgs,
    out: Output,
) -> Result<(), CliError> {
    let reaper = begun.reaper(scope).await?;
    // What stops first was opened last: the door before the pool, so that calls find it as they finish;
    // but a pool of attached workers before the door that they hang on, so that they finish too.
    let (pool_scope, door) = match args.attached {
        None => (scope.open("pool"), scope.open("door")),
        Some(_) => {
            let door = scope.open("door");
            (scope.open("pool"), door)
        }
    };
    let watch = Watch::start(&pool_scope, config)?;
    let (pool, workers) = pool(&pool_scope, config, begun, reaper, args, &watch, out).await?;
    let metrics = watch.serve(&pool_scope, &pool).await?;
    let tools = workers.is_none().then(|| pool.tools());
    let services = Services { front_door: Some(pool), workers };
    let server = Server::start(&door, begun.files.clone(), services).await?;
    let scheme = if args.tls_cert.is_some() { "https" } else { "http" };
    let ready = Ready {
        event: "ready",
        url: format!("{scheme}://{}", server.local_addr()),
        pid: std::process::id(),
        tools: tools.map(|tools| tools.iter().map(|tool| tool.name.clone()).collect()),
        attached: args.attached.unwrap_or_default(),
        metrics,
    };
    out.data(&ready, || ready.text())?;
    let failure = scope.failed().await;
    Err(CliError::new(Kind::Internal, "server_failed", format!("the server failed: {failure}")))
}

/// The pool to serve, and where its workers come in if they come from elsewhere.
async fn pool(
    scope: &Scope,
    config: &Config,
    begun: &Begun<ServerConfig>,
    reaper: Reaper,
    args: &PoolServeArgs,
    watch: &Watch,
    out: Output,
) -> Result<(Pool, Option<Attachments>), CliError> {
    let (spec, workers, attachments) = match (&args.tools, args.attached) {
        (Some(file), _) => {
            let python = with_packages(scope, &reaper, begun.python.clone(), config, out).await?;
            (tool_spec(python, file)?, args.workers, None)
        }
        (None, attached) => {
            let workers = attached.unwrap_or(1);
            let attachments = Attachments::new(workers.into());
            (WorkerSpec::attached("attached", &attachments), workers, Some(attachments))
        }
    };
    let sizes = PoolConfig { workers: workers.into(), ..watch.pool_config() };
    Ok((Pool::start(scope, reaper, spec, sizes).await?, attachments))
}

impl Ready {
    fn text(&self) -> String {
        let mut text = match &self.tools {
            Some(tools) => format!("Serving {} at {} (Ctrl-C stops)", tools.join(", "), self.url),
            None => format!(
                "Taking in {} workers at {} (Ctrl-C stops)\n\n  snakehouse worker attach {} --tools FILE",
                self.attached, self.url, self.url
            ),
        };
        if let Some(metrics) = &self.metrics {
            text.push_str(&format!("\n\nNumbers of the pool: {metrics}"));
        }
        text
    }
}
