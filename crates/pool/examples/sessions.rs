//! Sessions: state that stays in one worker, found by name, lost by name, ended on time.
//!
//! ```sh
//! cargo run -p snakehouse-pool --example sessions
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use snakehouse_pool::{
    Affinity, Args, CallError, CallOptions, Host, PoolConfig, SessionEnd, SessionOptions,
    WorkerSpec, script,
};

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tools/chat.py");

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    script(sessions)
}

async fn sessions(host: &Host) -> Result<(), Box<dyn Error>> {
    let spec = WorkerSpec::python("chat", host.python()).module(TOOLS);
    let pool = host.pool(spec, PoolConfig { workers: 2, ..PoolConfig::default() }).await?;
    let say = |text: &str| Args::none().arg(text);

    // Made when it is first named; bound to a worker with its first call.
    let ann = pool.named_session("ann", SessionOptions::default())?;
    ann.call("say", say("hello"), CallOptions::default()).await?;
    // Whoever names it has the same one.
    let again = pool.named_session("ann", SessionOptions::default())?;
    let said = again.call("say", say("goodbye"), CallOptions::default()).await?;
    println!("{said:?}");
    assert_eq!(said.as_str(), Some("ann: hello, goodbye"));

    // One that does not wait for its worker, and one that lives for a moment only.
    let options =
        SessionOptions::default().affinity(Affinity::FailFast).ttl(Duration::from_millis(10));
    let short = pool.named_session("short", options)?;
    short.call("say", say("quick"), CallOptions::default()).await?;
    assert_eq!(short.ended().await, SessionEnd::Expired);
    let error = short.call("say", say("late"), CallOptions::default()).await;
    println!("{error:?}");
    assert!(matches!(error, Err(CallError::SessionEnded { .. })));
    // The same name is a new session.
    let short = short.recreate()?;
    short.call("say", say("quick again"), CallOptions::default()).await?;

    for session in pool.sessions() {
        println!("{:?} has had {} calls", session.name, session.calls);
    }
    // No new calls; Python drops the state when the last is over, after its hooks have seen it.
    ann.close();
    Ok(())
}
