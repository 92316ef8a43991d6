//! `worker attach`.

use std::time::Duration;

use serde::Serialize;
use snakehouse_base::Secret;
use snakehouse_grpc::{Agent, AgentConfig, ClientTls, Dial};
use snakehouse_supervise::{Root, Scope};

use crate::args::WorkerAttachArgs;
use crate::config::Config;
use crate::error::CliError;
use crate::output::Output;
use crate::own_pool::{tool_spec, with_packages};
use crate::stop_signal;

use super::{Begun, begin, read, token};

/// From the start of a worker's process to its being there: an import of a large library on a loaded
/// machine takes 20 s.
const START_WITHIN: Duration = Duration::from_secs(60);

/// Said of each worker that the pool let in.
#[derive(Debug, Serialize)]
struct Attached<'a> {
    event: &'static str,
    url: &'a str,
    pid: u32,
}

/// What the flags name.
struct Files {
    token: Option<Secret>,
    tls: Option<ClientTls>,
}

/// Keeps a worker attached until SIGINT or SIGTERM, or until that is of no use.
pub(crate) async fn run(
    config: &Config,
    args: WorkerAttachArgs,
    out: Output,
) -> Result<(), CliError> {
    let stop = stop_signal::listen()?;
    let root = Root::new("attach");
    let begun = begin(root.scope(), config, files(&args)).await;
    let attached = match &begun {
        Ok(begun) => tokio::select! {
            error = attach(root.scope(), config, begun, &args, out) => Err(error),
            () = stop => Ok(()),
        },
        Err(_) => Ok(()),
    };
    root.stop().await;
    begun?.run.end();
    attached
}

fn files(args: &WorkerAttachArgs) -> impl FnOnce() -> Result<Files, CliError> + Send + use<> {
    let (token_file, ca) = (args.token_file.clone(), args.ca.clone());
    let own = args.cert.clone().zip(args.key.clone());
    move || {
        let token = token_file.map(|file| token("--token-file", &file)).transpose()?;
        let Some(ca) = ca else { return Ok(Files { token, tls: None }) };
        let own = match own {
            Some((certificate, key)) => Some((read("--cert", &certificate)?, read("--key", &key)?)),
            None => None,
        };
        let pair = own.as_ref().map(|(certificate, key)| (certificate.as_slice(), key.as_slice()));
        let tls = Some(ClientTls::from_pem(&read("--ca", &ca)?, pair)?);
        Ok(Files { token, tls })
    }
}

/// Returns why it gave up.
async fn attach(
    scope: &Scope,
    config: &Config,
    begun: &Begun<Files>,
    args: &WorkerAttachArgs,
    out: Output,
) -> CliError {
    match agent(scope, config, begun, args, out).await {
        Ok(agent) => {
            let told = |pid| {
                let line = Attached { event: "attached", url: &args.url, pid };
                let text = || format!("Worker {pid} serves at {} (Ctrl-C stops)", args.url);
                if let Err(error) = out.data(&line, text) {
                    tracing::warn!(?error, "standard output is gone");
                }
            };
            agent.run(scope, told).await.into()
        }
        Err(error) => error,
    }
}

async fn agent(
    scope: &Scope,
    config: &Config,
    begun: &Begun<Files>,
    args: &WorkerAttachArgs,
    out: Output,
) -> Result<Agent, CliError> {
    let reaper = begun.reaper(scope).await?;
    let python = with_packages(scope, &reaper, begun.python.clone(), config, out).await?;
    let mut dial = Dial::new(args.url.clone());
    dial.token = begun.files.token.clone();
    dial.tls = begun.files.tls.clone();
    dial.plaintext = args.plaintext;
    let own_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host = args.name.clone().unwrap_or(own_name);
    let worker = tool_spec(python, &args.tools)?;
    Ok(Agent::new(AgentConfig { dial, worker, host, start_within: START_WITHIN }, reaper))
}
