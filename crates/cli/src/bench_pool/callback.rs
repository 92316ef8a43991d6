//! Rows of callbacks: a tool that asks a closure of the host for an echo, beside a call that gives the
//! same value back.

use std::time::Duration;

use serde::Serialize;
use snakehouse_base::Kind;
use snakehouse_pool::{
    Args, CallError, CallOptions, ConvertError, HostError, HostTool, Pool, Value,
};

use super::calls::calling;
use super::rig::{Rig, pin};
use super::sample::Sample;
use crate::args::BenchPoolArgs;
use crate::error::CliError;
use crate::output::Output;

/// What is sent both ways.
const TEXT: &str = "a token of text ";

/// More than a measurement takes.
const DEADLINE: Duration = Duration::from_secs(120);

/// One row, as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct CallbackRow {
    row: &'static str,
    payload_bytes: usize,
    workers: u16,
    pinned: bool,
    callbacks_per_s: f64,
    /// Measured in Python: from the call of the host's tool to its result.
    p50_us: f64,
    p99_us: f64,
    cpu_us_per_callback: f64,
    host_cpu_us_per_callback: f64,
    /// A call with the same value, measured beside it in the host.
    call_p50_us: f64,
    p50_ratio: f64,
}

/// What the tools of every measurement may ask the host for.
pub(crate) fn echo() -> HostTool {
    HostTool::raw("echo", |_, mut args: Args| async move {
        let none = || HostError::new(Kind::InvalidInput, "no_argument", "there is nothing to echo");
        args.args.pop().ok_or_else(none)
    })
}

/// One tool asks, one question after the other, whatever number of workers there are.
pub(crate) async fn row(
    rig: &Rig,
    pool: &Pool,
    workers: u16,
    args: &BenchPoolArgs,
    out: Output,
) -> Result<CallbackRow, CliError> {
    let mut samples = [const { Vec::new() }; 2];
    for round in rig.rounds() {
        let pinned = (!args.unpinned).then(|| pin(&[], pool)).transpose()?;
        let asking = rig.sample(pool, asking(pool.clone(), rig.during), Sample::new).await?;
        let calling = calling(pool.clone(), Value::from(TEXT), 1, rig.during);
        let calls = rig.sample(pool, calling, Sample::new).await?;
        drop(pinned);
        if round.counts {
            samples.iter_mut().zip([asking, calls]).for_each(|(of, sample)| of.push(sample));
        }
    }
    let [asking, calls] = samples.map(|samples| Sample::median(&samples));
    let row = CallbackRow {
        row: "callback",
        payload_bytes: TEXT.len(),
        workers,
        pinned: !args.unpinned,
        callbacks_per_s: asking.calls_per_s,
        p50_us: asking.p50_us,
        p99_us: asking.p99_us,
        cpu_us_per_callback: asking.worker_cpu_us,
        host_cpu_us_per_callback: asking.host_cpu_us,
        call_p50_us: calls.p50_us,
        p50_ratio: asking.p50_us / calls.p50_us,
    };
    if out.is_json() {
        out.data(&row, String::new)?;
    } else {
        out.note(format!("callbacks of {workers} workers: done"));
    }
    Ok(row)
}

/// Has a tool ask for a while; how long each answer took.
async fn asking(pool: Pool, during: Duration) -> Result<Vec<Duration>, CallError> {
    let args = Args::none().arg(TEXT).arg(during.as_secs_f64());
    let times = pool.call("callbacks", args, CallOptions::within(DEADLINE + during)).await?;
    let times = Vec::<f64>::try_from(times).map_err(|error: ConvertError| {
        CallError::ResultType { tool: "callbacks".to_owned(), error }
    })?;
    Ok(times.into_iter().map(Duration::from_secs_f64).collect())
}

/// The rows for people.
pub(crate) fn table(rows: &[CallbackRow]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "CALLBACK",
        "WORKERS",
        "CALLBACKS/S",
        "P50 us",
        "P99 us",
        "WORKER us",
        "HOST us",
        "CALL P50 us",
        "P50 x ITS",
    ]);
    for row in rows {
        table.add_row([
            format!("{} B", row.payload_bytes),
            row.workers.to_string(),
            format!("{:.0}", row.callbacks_per_s),
            format!("{:.1}", row.p50_us),
            format!("{:.1}", row.p99_us),
            format!("{:.2}", row.cpu_us_per_callback),
            format!("{:.2}", row.host_cpu_us_per_callback),
            format!("{:.1}", row.call_p50_us),
            format!("{:.2}", row.p50_ratio),
        ]);
    }
    table.to_string()
}
