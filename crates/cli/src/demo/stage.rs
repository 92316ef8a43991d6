//! Where the demo happens: a directory of its own, a service on a free port, a pool of tools.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use snakehouse_base::id::RunToken;
use snakehouse_base::{Kind, Secret};
use snakehouse_pool::{
    Args, CallOptions, Interpreter, Pool, PoolConfig, Reaper, ReaperConfig, Value, WorkerSpec,
    sweep,
};
use snakehouse_service::Service;
use snakehouse_service::core::CoreStatus;
use snakehouse_supervise::{Lane, Scope};
use snakehouse_tinker::{ClientConfig, ServiceClient};
use tempfile::TempDir;

use crate::config::Config;
use crate::error::CliError;

/// The tools that the demo calls.
const TOOLS: &str = include_str!("../../../../examples/tools/text.py");
/// A local service that is silent for this long will not come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that the demo starts. The scope given to [`set_up`](Self::set_up) owns it.
#[derive(Debug)]
pub(crate) struct Stage {
    service: Service,
    pub(crate) client: ServiceClient,
    tools: Pool,
}

impl Stage {
    /// Starts reaper, service, tools and a client, in this order, with all files below `dir`.
    pub(crate) async fn set_up(
        scope: &Scope,
        config: &Config,
        dir: &Path,
        token: &RunToken,
    ) -> Result<Self, CliError> {
        let lane = Lane::new(scope, "demo-files", 1, 4);
        let (named, place) = (config.python.value.clone(), dir.to_owned());
        let python = lane
            .run(move || {
                let python = Interpreter::find(named.as_deref())?;
                write(&place.join("text.py"), TOOLS)?;
                snakehouse_engine::make_tiny(&place.join("tiny"), snakehouse_engine::TINY_SEED)?;
                Ok::<_, CliError>(python)
            })
            .await??;
        let reaper = ReaperConfig {
            python: python.clone(),
            run_token: token.clone(),
            cache: Some(dir.join("cache")),
        };
        let reaper = Reaper::start(scope, reaper).await?;
        let service = start_service(scope, reaper.clone(), dir).await?;
        let tools = dir.join("text.py");
        let spec = WorkerSpec::python("tools", python).module(tools.display().to_string());
        let tools = Pool::start(scope, reaper, spec, PoolConfig::default()).await?;
        let address = format!("http://{}", service.local_addr());
        let mut client = ClientConfig::new(address, Secret::new("tml-demo"));
        client.patience = PATIENCE;
        client.display_name = Some("demo".to_owned());
        let client = ServiceClient::connect(scope, client).await?;
        Ok(Self { service, client, tools })
    }

    /// Numbers about the service's core at this moment.
    pub(crate) fn status(&self) -> CoreStatus {
        self.service.core().status()
    }

    /// Kills the engine's process and says which it was.
    pub(crate) fn kill_engine(&self) -> Result<u32, CliError> {
        let pid = self.status().engine_pid.ok_or_else(|| cannot("there is no engine to kill"))?;
        let raw = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let target = raw.ok_or_else(|| cannot("the engine has no process id"))?;
        rustix::process::kill_process(target, rustix::process::Signal::KILL)
            .map_err(|error| cannot(&format!("the engine cannot be killed: {error}")))?;
        Ok(pid)
    }

    /// Calls the Python tool that compares an answer with the expected one.
    pub(crate) async fn score(&self, answer: &str, expected: &str) -> Result<f64, CliError> {
        let args = Args::none().arg(answer).kwarg("expected", expected);
        match self.tools.call("score", args, CallOptions::default()).await? {
            Value::Float(score) => Ok(score),
            other => Err(cannot(&format!("the tool answered {other:?}, which is no float"))),
        }
    }
}

async fn start_service(scope: &Scope, reaper: Reaper, dir: &Path) -> Result<Service, CliError> {
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let models = vec![("tiny".to_owned(), dir.join("tiny"))];
    crate::up::service(scope, reaper, &dir.join("state"), models, free).await
}

/// Ends what still runs and removes the directory; says how many processes and files were left.
pub(crate) fn clear(dir: TempDir, token: &RunToken) -> usize {
    let ended = sweep(token);
    for process in &ended {
        tracing::error!(pid = process.pid, command = %process.command, "left behind");
    }
    let path = dir.path().to_owned();
    let kept = match dir.close() {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(dir = %path.display(), %error, "left behind");
            1
        }
    };
    ended.len() + kept
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    std::fs::write(path, text).map_err(|error| crate::home::not_writable(path, &error))
}

fn cannot(message: &str) -> CliError {
    CliError::new(Kind::Internal, "demo_failed", message)
}
