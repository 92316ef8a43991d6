//! How many workers there are, how they start, when they are replaced, and what they did.
//!
//! ```sh
//! cargo run -p snakehouse-pool --example size
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use snakehouse_base::ByteSize;
use snakehouse_pool::{Args, CallOptions, Host, Limits, PoolConfig, Recycle, WorkerSpec, script};

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tools/text.py");

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    script(size)
}

async fn size(host: &Host) -> Result<(), Box<dyn Error>> {
    // `json` is imported once; every worker is forked from there in milliseconds.
    let spec = WorkerSpec::python("text", host.python())
        .module(TOOLS)
        .preload(["json"])
        .limits(Limits { open_files: Some(256), ..Limits::default() });
    let config = PoolConfig {
        // One that always serves, up to three while calls wait, and a warm one that takes over
        // when another dies.
        workers: 3,
        min_workers: Some(1),
        standby: 1,
        grow_after: Duration::from_millis(50),
        // Replacements start first: no call fails because of them.
        recycle: Recycle {
            calls: Some(10_000),
            memory: Some(ByteSize::mib(512)),
            ..Recycle::default()
        },
        ..PoolConfig::default()
    };
    let pool = host.pool(spec, config).await?;
    let args = || Args::none().arg("to be or not to be");
    pool.call("word_count", args(), CallOptions::default()).await?;

    // New code without an interruption: one after the other, new workers take the places.
    println!("{} to be replaced", pool.recycle_all());
    pool.call("word_count", args(), CallOptions::default()).await?;

    for worker in pool.workers() {
        println!("worker {} life {} {:?}", worker.id, worker.incarnation, worker.state);
    }
    let stats = pool.stats();
    println!("{} calls, half within {} us", stats.outcomes.ok, stats.latency.p50_us);
    assert_eq!((stats.outcomes.ok, stats.counters.failed), (2, 0));
    Ok(())
}
