//! Rows of streams: small chunks of one generator per worker, each sent as it is yielded.

use std::time::Duration;

use futures_util::future::try_join_all;
use serde::Serialize;
use snakehouse_base::{Clock, SystemClock};
use snakehouse_pool::{Args, CallError, CallOptions, Pool, Value};

use super::calls::calling;
use super::rig::{Rig, pin};
use super::sample::Sample;
use crate::args::BenchPoolArgs;
use crate::error::CliError;
use crate::output::Output;

/// What a chunk carries: about a token of text.
const CHUNK: &str = "a token of text ";
/// Chunks of one stream: so many that its beginning and end do not count.
const PER_STREAM: i64 = 100_000;
/// Chunks between two looks at the clock.
const LOOK: u64 = 256;

/// One row, as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct StreamRow {
    row: &'static str,
    payload_bytes: usize,
    workers: u16,
    /// Over all workers, one stream each.
    chunks_per_s: f64,
    cpu_us_per_chunk: f64,
    host_cpu_us_per_chunk: f64,
    /// From the opening of a stream to its first chunk, one stream at a time.
    first_chunk_p50_us: f64,
    /// A call that gives the same chunk back, measured beside it.
    call_p50_us: f64,
    /// Whether the last two were taken on one core.
    pinned: bool,
}

/// The row of so many workers.
pub(crate) async fn row(
    rig: &Rig,
    pool: &Pool,
    workers: u16,
    args: &BenchPoolArgs,
    out: Output,
) -> Result<StreamRow, CliError> {
    let mut samples = [const { Vec::new() }; 3];
    for round in rig.rounds() {
        let taking = take(pool.clone(), workers, rig.during);
        let chunks = rig.sample(pool, taking, Sample::counted).await?;
        let pinned = (!args.unpinned).then(|| pin(&[], pool)).transpose()?;
        let first = rig.sample(pool, first(pool.clone(), rig.during), Sample::new).await?;
        let calling = calling(pool.clone(), chunk(), 1, rig.during);
        let calls = rig.sample(pool, calling, Sample::new).await?;
        drop(pinned);
        if round.counts {
            samples.iter_mut().zip([chunks, first, calls]).for_each(|(of, sample)| of.push(sample));
        }
    }
    let [chunks, first, calls] = samples.map(|samples| Sample::median(&samples));
    let row = StreamRow {
        row: "stream",
        payload_bytes: CHUNK.len(),
        workers,
        chunks_per_s: chunks.calls_per_s,
        cpu_us_per_chunk: chunks.worker_cpu_us,
        host_cpu_us_per_chunk: chunks.host_cpu_us,
        first_chunk_p50_us: first.p50_us,
        call_p50_us: calls.p50_us,
        pinned: !args.unpinned,
    };
    if out.is_json() {
        out.data(&row, String::new)?;
    } else {
        out.note(format!("streams of {workers} workers: done"));
    }
    Ok(row)
}

/// The chunk as an argument.
fn chunk() -> Value {
    Value::from(CHUNK)
}

/// Takes chunks of as many streams as there are workers, for a while; how many.
async fn take(pool: Pool, workers: u16, during: Duration) -> Result<u64, CallError> {
    let until = SystemClock.now() + during;
    let taking = (0..workers).map(|_| async {
        let mut taken = 0;
        while SystemClock.now() < until {
            let args = Args::none().arg(chunk()).arg(PER_STREAM);
            let stream = pool.stream("chunks", args, CallOptions::stream()).await?;
            while let Some(chunk) = stream.next_bytes().await {
                chunk?;
                taken += 1;
                if taken % LOOK == 0 && SystemClock.now() >= until {
                    break;
                }
            }
        }
        Ok::<u64, CallError>(taken)
    });
    Ok(try_join_all(taking).await?.into_iter().sum())
}

/// Opens streams of one chunk, one after the other; how long each took to give it.
async fn first(pool: Pool, during: Duration) -> Result<Vec<Duration>, CallError> {
    let mut sent = SystemClock.now();
    let until = sent + during;
    let mut latencies = Vec::new();
    while sent < until {
        let args = Args::none().arg(chunk()).arg(1);
        let stream = pool.stream("chunks", args, CallOptions::stream()).await?;
        if let Some(chunk) = stream.next_bytes().await {
            chunk?;
            latencies.push(SystemClock.now() - sent);
        }
        // The end of a stream is not what is measured.
        stream.result_bytes().await?;
        sent = SystemClock.now();
    }
    Ok(latencies)
}

/// The rows for people.
pub(crate) fn table(rows: &[StreamRow]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "CHUNK",
        "WORKERS",
        "CHUNKS/S",
        "WORKER us",
        "HOST us",
        "FIRST P50 us",
        "CALL P50 us",
    ]);
    for row in rows {
        table.add_row([
            format!("{} B", row.payload_bytes),
            row.workers.to_string(),
            format!("{:.0}", row.chunks_per_s),
            format!("{:.2}", row.cpu_us_per_chunk),
            format!("{:.2}", row.host_cpu_us_per_chunk),
            format!("{:.1}", row.first_chunk_p50_us),
            format!("{:.1}", row.call_p50_us),
        ]);
    }
    table.to_string()
}
