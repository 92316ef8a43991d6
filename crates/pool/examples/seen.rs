//! What a call does, seen while it runs: its spans from the host into Python, and events.
//!
//! ```sh
//! cargo run -p snakehouse-pool --example seen
//! ```
//!
//! To send the same to a collector, and numbers to Prometheus: the crate `snakehouse-telemetry`, or
//! `snakehouse up --otlp http://127.0.0.1:4318 --metrics 127.0.0.1:9464`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::Arc;

use snakehouse_pool::{
    Args, CallOptions, Host, PoolConfig, Telemetry, TelemetryConfig, TelemetryFilter, WorkerSpec,
    script,
};
use tokio::sync::mpsc;

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tools/seen.py");

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    script(seen)
}

async fn seen(host: &Host) -> Result<(), Box<dyn Error>> {
    // A sink is anything that takes a piece at once or not at all; here a channel for 1,000.
    let (sink, mut told) = mpsc::channel(1000);
    let telemetry = Some(TelemetryConfig::new(Arc::new(sink)));
    let spec = WorkerSpec::python("seen", host.python()).module(TOOLS);
    let pool = host.pool(spec, PoolConfig { telemetry, ..PoolConfig::default() }).await?;

    pool.call("train", Args::none().arg(2), CallOptions::default()).await?;
    // The call on the host, the call in Python, `load`, two times `step`, and two losses.
    for _ in 0..7 {
        match told.recv().await.ok_or("nothing more is told")? {
            Telemetry::Span(span) => {
                let took = (span.end - span.start) / 1000;
                println!("{:?} {} below {:016x}: {took} us", span.kind, span.name, span.parent);
            }
            Telemetry::Event(event) => println!("{} {:?}", event.name, event.values),
            _ => {}
        }
    }

    // From here on, of this pool, only losses; workers hear of it before the next call.
    let filter = TelemetryFilter { allow: vec!["loss".to_owned()], ..TelemetryFilter::default() };
    pool.set_telemetry(filter)?;
    pool.call("train", Args::none().arg(1), CallOptions::default()).await?;
    let Some(Telemetry::Event(event)) = told.recv().await else { return Err("no event".into()) };
    assert_eq!(event.name, "loss");
    assert_eq!(pool.stats().telemetry.dropped, 0);
    Ok(())
}
