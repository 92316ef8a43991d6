//! Several calls at once on one worker: eight that can only end when all eight have begun.
//!
//! ```sh
//! cargo run -p snakehouse-pool --example together
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use futures_util::future::try_join_all;
use snakehouse_pool::{Args, CallOptions, Host, Mode, PoolConfig, WorkerSpec, script};

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tools/together.py");

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    script(together)
}

async fn together(host: &Host) -> Result<(), Box<dyn Error>> {
    // Threads are for tools that wait in C code or for the network. `Mode::Asyncio` runs `async`
    // tools as tasks of one event loop. The default is one call at a time.
    let spec =
        WorkerSpec::python("together", host.python()).module(TOOLS).capacity(8, Mode::Threads);
    let pool = host.pool(spec, PoolConfig::default()).await?;
    let calls = (0..8).map(|_| pool.call("meet", Args::none(), CallOptions::default()));
    let mut places: Vec<_> =
        try_join_all(calls).await?.iter().filter_map(|place| place.as_i64()).collect();
    places.sort_unstable();
    println!("they arrived in the places {places:?}");
    assert_eq!(places, (0..8).collect::<Vec<_>>());
    Ok(())
}
