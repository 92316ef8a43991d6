//! What goes wrong, and what the caller sees: failures, deadlines, cancelling, dead workers.
//!
//! ```sh
//! cargo run -p snakehouse-pool --example trouble
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use snakehouse_base::Coded;
use snakehouse_pool::{Args, CallError, CallOptions, Host, PoolConfig, WorkerSpec, script};

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tools/trouble.py");

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    script(trouble)
}

async fn trouble(host: &Host) -> Result<(), Box<dyn Error>> {
    let spec = WorkerSpec::python("trouble", host.python()).module(TOOLS);
    let pool = host.pool(spec, PoolConfig::default()).await?;

    // A tool that raises: its code, message, hint and traceback. The worker serves on.
    let failed = pool.call("fails", Args::none(), CallOptions::default()).await;
    let Err(CallError::Tool { failure, .. }) = failed else { return Err("it raises".into()) };
    println!("{}: {} ({:?})", failure.code, failure.message, failure.hint);
    assert_eq!(failure.code, "disk_full");

    // A deadline covers waiting in the queue, the way there and back, and the tool itself. The
    // worker is free again once Python says so, and is killed if that takes over two seconds.
    let late = CallOptions::within(Duration::from_millis(200));
    let error = pool.call("forever", Args::none(), late).await.err().ok_or("it never ends")?;
    println!("{}: {error}", error.code());
    assert_eq!(error.code(), "deadline");

    // Dropping a call cancels it.
    let call = pool.call("forever", Args::none(), CallOptions::default());
    tokio::select! {
        biased;
        _ = call => return Err("it never ends".into()),
        () = tokio::task::yield_now() => println!("given up"),
    }

    // A worker that dies fails the call that it ran, and no other. The next one gets a new worker.
    let error = pool.call("crashes", Args::none(), CallOptions::default()).await;
    let error = error.err().ok_or("its worker dies")?;
    println!("{}: {error}", error.code());
    assert!(matches!(error, CallError::WorkerDied { started: true, .. }));
    let works = pool.call("works", Args::none(), CallOptions::default()).await?;
    println!("{works:?}");

    // A call that may run twice is given to a second worker.
    let marker = std::env::temp_dir().join(format!("snakehouse-example-{}", std::process::id()));
    let args = Args::none().arg(marker.display().to_string());
    let done = pool.call("crashes_once", args, CallOptions::default().idempotent(true)).await;
    std::fs::remove_file(marker)?;
    println!("{:?} at the second try", done?);
    assert_eq!(pool.stats().repeated, 1);
    Ok(())
}
