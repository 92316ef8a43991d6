//! Workers on another host, here 127.0.0.1, of a pool that is at 127.0.0.2.
//!
//! ```sh
//! cargo run -p snakehouse-grpc --example remote_workers
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use snakehouse_base::Secret;
use snakehouse_grpc::{Agent, AgentConfig, Dial, Server, ServerConfig, Services};
use snakehouse_pool::{
    Args, Attachments, CallOptions, Host, PoolConfig, SessionOptions, WorkerSpec, script,
};

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tools/chat.py");

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    script(remote_workers)
}

async fn remote_workers(host: &Host) -> Result<(), Box<dyn Error>> {
    // On the pool's host: a door, and a pool of whoever comes in there. The pool is opened last, so
    // that it is stopped first and its workers finish what they have.
    let token = Secret::new("a-token-that-agents-know");
    let workers = Attachments::new(1);
    let mut config = ServerConfig::new(([127, 0, 0, 2], 0).into());
    config.worker_token = Some(token.clone());
    let services = Services { front_door: None, workers: Some(workers.clone()) };
    let server = Server::start(host.scope(), config, services).await?;
    let spec = WorkerSpec::attached("elsewhere", &workers);
    let pool = host.pool(spec, PoolConfig::default()).await?;

    // On the worker's host: an agent, which starts a worker as that host says and keeps it attached.
    // `snakehouse worker attach` is this as a program.
    let dial = Dial { token: Some(token), ..Dial::new(format!("http://{}", server.local_addr())) };
    let worker = WorkerSpec::python("chat", host.python()).module(TOOLS);
    let (name, start_within) = ("another host".to_owned(), Duration::from_secs(60));
    let config = AgentConfig { dial, worker, host: name, start_within };
    let agent = Agent::new(config, host.reaper().clone());
    let scope = host.scope().open("agent");
    let (inner, stop) = (scope.clone(), scope.cancelled());
    let agent = scope.task("agent", async move {
        tokio::select! {
            gave_up = agent.run(&inner, |pid| println!("worker {pid} is attached")) => Some(gave_up),
            () = stop.cancelled() => None,
        }
    });

    // Calls wait for the first worker, and do not know where it is.
    let ann = pool.named_session("ann", SessionOptions::default())?;
    for expected in ["ann: hello", "ann: hello, goodbye"] {
        let line = expected.split(' ').next_back().unwrap_or_default();
        let said = ann.call("say", Args::none().arg(line), CallOptions::default()).await?;
        assert_eq!(said.as_str(), Some(expected));
    }
    for worker in pool.workers() {
        println!("{} is {:?}", worker.id, worker.birth);
    }
    pool.stop().await;
    scope.stop().await;
    match agent.await? {
        Some(gave_up) => Err(gave_up.into()),
        None => Ok(()),
    }
}
