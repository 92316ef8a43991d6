//! Rows of large buffers: an argument by reference beside a small call, and a result that Python makes
//! in a reused slot beside the same through the socket.

use std::time::Duration;

use serde::Serialize;
use snakehouse_base::{Clock, Kind, SystemClock};
use snakehouse_pool::{Args, CallError, CallOptions, Pool, SharedBuffer};

use super::rig::{Rig, pin};
use super::sample::Sample;
use crate::args::BenchPoolArgs;
use crate::error::CliError;
use crate::output::Output;

/// Bytes of the argument and of the result.
const SIZE: usize = 8 << 20;

/// One row, as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct BufferRow {
    row: &'static str,
    payload_bytes: usize,
    workers: u16,
    in_flight: u32,
    pinned: bool,
    calls_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us_per_call: f64,
    host_cpu_us_per_call: f64,
    /// What stands beside it: `small call` or `socket`.
    beside: &'static str,
    beside_p50_us: f64,
    p50_ratio: f64,
}

/// What is measured, and what it is compared with.
struct Pair {
    row: &'static str,
    ours: (&'static str, Args),
    beside: (&'static str, &'static str, Args),
}

/// Both rows, over a pool of so many workers with one call in flight.
pub(crate) async fn rows(
    rig: &Rig,
    pool: &Pool,
    workers: u16,
    args: &BenchPoolArgs,
    out: Output,
) -> Result<Vec<BufferRow>, CliError> {
    let buffer = SharedBuffer::new(&vec![7; SIZE]).map_err(|error| {
        let message = format!("cannot make a shared buffer of {SIZE} B: {error}");
        CliError::new(Kind::Environment, "bench_failed", message)
    })?;
    let made = |how: &str| Args::none().arg(SIZE as u64).arg(how);
    let pairs = [
        Pair {
            row: "reference",
            ours: ("length", Args::none().arg(buffer.as_bytes())),
            beside: ("small call", "length", Args::none().arg("x")),
        },
        Pair {
            row: "slot",
            ours: ("made", made("slot")),
            beside: ("socket", "made", made("socket")),
        },
    ];
    let mut rows = Vec::new();
    for Pair { row, ours, beside: (name, tool, small) } in pairs {
        let mut samples = [const { Vec::new() }; 2];
        for round in rig.rounds() {
            let pinned = (!args.unpinned).then(|| pin(&[], pool)).transpose()?;
            let calling = calling(pool.clone(), ours.0, ours.1.clone(), rig.during);
            let one = rig.sample(pool, calling, Sample::new).await?;
            let calling = self::calling(pool.clone(), tool, small.clone(), rig.during);
            let other = rig.sample(pool, calling, Sample::new).await?;
            drop(pinned);
            if round.counts {
                samples.iter_mut().zip([one, other]).for_each(|(of, sample)| of.push(sample));
            }
        }
        let [one, other] = samples.map(|samples| Sample::median(&samples));
        let row = BufferRow {
            row,
            payload_bytes: SIZE,
            workers,
            in_flight: 1,
            pinned: !args.unpinned,
            calls_per_s: one.calls_per_s,
            p50_us: one.p50_us,
            p99_us: one.p99_us,
            cpu_us_per_call: one.worker_cpu_us,
            host_cpu_us_per_call: one.host_cpu_us,
            beside: name,
            beside_p50_us: other.p50_us,
            p50_ratio: one.p50_us / other.p50_us,
        };
        if out.is_json() {
            out.data(&row, String::new)?;
        } else {
            out.note(format!("{SIZE} B by {}, {workers} workers: done", row.row));
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Calls one after the other for a while; how long each took.
async fn calling(
    pool: Pool,
    tool: &'static str,
    args: Args,
    during: Duration,
) -> Result<Vec<Duration>, CallError> {
    let mut sent = SystemClock.now();
    let until = sent + during;
    let mut latencies = Vec::new();
    while sent < until {
        let answer = pool.call(tool, args.clone(), CallOptions::default()).await?;
        latencies.push(SystemClock.now() - sent);
        // Giving the memory of a large answer back is not part of the next call.
        drop(answer);
        sent = SystemClock.now();
    }
    Ok(latencies)
}

/// The rows for people.
pub(crate) fn table(rows: &[BufferRow]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "8 MiB BY",
        "WORKERS",
        "CALLS/S",
        "P50 us",
        "P99 us",
        "WORKER us",
        "HOST us",
        "BESIDE",
        "ITS P50 us",
        "P50 x ITS",
    ]);
    for row in rows {
        table.add_row([
            row.row.to_owned(),
            row.workers.to_string(),
            format!("{:.0}", row.calls_per_s),
            format!("{:.1}", row.p50_us),
            format!("{:.1}", row.p99_us),
            format!("{:.2}", row.cpu_us_per_call),
            format!("{:.2}", row.host_cpu_us_per_call),
            row.beside.to_owned(),
            format!("{:.1}", row.beside_p50_us),
            format!("{:.2}", row.p50_ratio),
        ]);
    }
    table.to_string()
}
