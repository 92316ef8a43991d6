//! A worker on another host, looking like a program: for the check that every worker must pass.
//!
//! Between its standard input and the worker are a server, two addresses of the loopback device, an
//! agent and a reaper, all in this process.
//!
//! ```sh
//! cargo build -p snakehouse-grpc --example conformance_relay
//! PYTHONPATH=python python3 -m snakehouse.conformance -- \
//!     target/debug/examples/conformance_relay snakehouse._conformance_tools
//! ```

use std::error::Error;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use snakehouse_base::Secret;
use snakehouse_base::id::RunToken;
use snakehouse_grpc::{Agent, AgentConfig, Dial, Server, ServerConfig, Services};
use snakehouse_pool::{Attachments, Death, Interpreter, Reaper, ReaperConfig, WorkerSpec};
use snakehouse_supervise::{Root, Scope};
use tokio::net::UnixStream;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let tools = std::env::args().nth(1).ok_or("the module with the tools?")?;
    let control =
        std::os::unix::net::UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    control.set_nonblocking(true)?;
    snakehouse_supervise::run(async {
        let root = Root::new("relay");
        let done = relay(root.scope(), &tools, UnixStream::from_std(control)?).await;
        root.stop().await;
        done
    })
}

async fn relay(
    scope: &Scope,
    tools: &str,
    control: UnixStream,
) -> Result<ExitCode, Box<dyn Error>> {
    let python = Interpreter::find(None)?;
    let config = ReaperConfig { python: python.clone(), run_token: RunToken::fresh(), cache: None };
    let reaper = Reaper::start(scope, config).await?;
    let attachments = Attachments::new(1);
    let token = Secret::new(RunToken::fresh().as_str());
    let mut config = ServerConfig::new(([127, 0, 0, 2], 0).into());
    config.worker_token = Some(token.clone());
    let services = Services { workers: Some(attachments.clone()), ..Services::default() };
    let server = Server::start(scope, config, services).await?;

    let dial = Dial { token: Some(token), ..Dial::new(format!("http://{}", server.local_addr())) };
    let worker = WorkerSpec::python("tools", python).module(tools);
    let (host, start_within) = ("relay".to_owned(), Duration::from_secs(60));
    let agent = Agent::new(AgentConfig { dial, worker, host, start_within }, reaper);
    let agents = scope.open("agent");
    let (inner, stop) = (agents.clone(), agents.cancelled());
    drop(agents.task("agent", async move {
        tokio::select! {
            _gave_up = agent.run(&inner, |_| ()) => {}
            () = stop.cancelled() => {}
        }
    }));

    let mut taken = attachments.take().await;
    let (mut from_host, mut to_host) = control.into_split();
    let (mut from_worker, mut to_worker) = tokio::io::split(taken.socket());
    tokio::select! {
        // The host hung up.
        _ = tokio::io::copy(&mut from_host, &mut to_worker) => return Ok(ExitCode::SUCCESS),
        _ = tokio::io::copy(&mut from_worker, &mut to_host) => {}
    }
    Ok(match taken.death().await {
        Death::Exited { code } => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        _ => ExitCode::FAILURE,
    })
}
