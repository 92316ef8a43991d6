//! `bench pool`: calls of one worker, beside the fixed limit program, in one run.
//!
//! What is measured and how stands in `bench/limit/README.md`.

mod cpu;
mod limit;
mod payload;
mod sample;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::future::try_join_all;
use serde::Serialize;
use snakehouse_base::id::RunToken;
use snakehouse_base::{Clock, Kind, SystemClock};
use snakehouse_pool::{
    Args, CallError, CallOptions, Interpreter, Pool, PoolConfig, Reaper, ReaperConfig, Value,
    WorkerSpec,
};
use snakehouse_supervise::{Lane, Root, Scope};

use crate::args::BenchPoolArgs;
use crate::config::Config;
use crate::error::CliError;
use crate::output::Output;
use cpu::Pinned;
use limit::Limit;
use payload::Payload;
use sample::Sample;

const LIMIT_WORKER: &str = include_str!("../../../bench/limit/worker.py");
const TOOLS: &str = include_str!("../../../bench/limit/tools.py");

const IN_FLIGHT: [u32; 2] = [1, 64];
/// Measurements of each side per cell; an odd number, so that the median is one of them.
const ROUNDS: usize = 5;
/// Calls that a worker runs at once.
const CAPACITY: u32 = 1;
/// Most calls that are sent to a worker ahead of its idleness.
const WINDOW: u32 = 64;

/// One cell, as it is printed.
#[derive(Debug, Serialize)]
struct Row {
    payload_bytes: usize,
    workers: usize,
    in_flight: u32,
    capacity: u32,
    window: u32,
    pinned: bool,
    calls_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us_per_call: f64,
    host_cpu_us_per_call: f64,
    limit_calls_per_s: f64,
    limit_p50_us: f64,
    limit_cpu_us_per_call: f64,
    limit_host_cpu_us_per_call: f64,
    ratio_to_limit: f64,
    p50_ratio_to_limit: f64,
    cpu_ratio_to_limit: f64,
}

/// Prints one row per cell.
pub(crate) async fn run(config: &Config, args: BenchPoolArgs, out: Output) -> Result<(), CliError> {
    let during = Duration::try_from_secs_f64(args.seconds)
        .ok()
        .filter(|time| (0.01..=60.0).contains(&time.as_secs_f64()))
        .ok_or_else(|| {
            let message = format!("{} s is no time for a measurement", args.seconds);
            CliError::new(Kind::InvalidInput, "bad_seconds", message)
                .with_hint("choose between 0.01 and 60 seconds")
        })?;
    let root = Root::new("bench");
    let result = measure(config, during, root.scope(), out).await;
    root.stop().await;
    result
}

async fn measure(
    config: &Config,
    during: Duration,
    scope: &Scope,
    out: Output,
) -> Result<(), CliError> {
    let lane = Lane::new(scope, "limit", 1, 1);
    let named = config.python.value.clone();
    let dir = tempfile::tempdir().map_err(|error| cannot("make a directory", &error))?;
    let place = dir.path().to_owned();
    let (python, mut limit) = lane.run(move || start_limit(named.as_deref(), &place)).await??;
    let pool = start_pool(scope, &python, dir.path()).await?;

    let mut rows = Vec::new();
    for payload in [Payload::record(), Payload::blob(64 << 10)].into_iter().flatten() {
        for in_flight in IN_FLIGHT {
            let mut samples = (Vec::new(), Vec::new());
            for round in 0..=ROUNDS {
                let pinned = (in_flight == 1).then(|| pin(&limit, &pool)).transpose()?;
                let encoded = payload.encoded.clone();
                let (back, sample) = lane
                    .run(move || {
                        let sample = limit.measure(&encoded, in_flight, during);
                        (limit, sample)
                    })
                    .await?;
                limit = back;
                let theirs = sample.map_err(|error| cannot("measure the limit", &error))?;
                let ours = measure_pool(scope, &pool, &payload.value, in_flight, during).await?;
                drop(pinned);
                // The first round warms both up.
                if round > 0 {
                    samples.0.push(ours);
                    samples.1.push(theirs);
                }
            }
            let row = Row::new(payload.size, in_flight, &samples.0, &samples.1);
            if out.is_json() {
                out.data(&row, String::new)?;
            } else {
                out.note(format!("{} B, {in_flight} in flight: done", payload.size));
            }
            rows.push(row);
        }
    }
    if out.is_json() { Ok(()) } else { out.data(&rows, || table(&rows)) }
}

/// Finds an interpreter with the package of the limit program, and starts the program on it.
fn start_limit(named: Option<&Path>, dir: &Path) -> Result<(Interpreter, Limit), CliError> {
    let python = Interpreter::find(named)?;
    let has_package = Command::new(python.path())
        .args(["-c", "from msgpack import _cmsgpack"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_package {
        let path = python.path().display();
        let message =
            format!("{path} has no package msgpack with its C part, which the limit program needs");
        return Err(CliError::new(Kind::Environment, "msgpack_missing", message).with_hint(
            "python3 -m venv /tmp/bench && /tmp/bench/bin/pip install msgpack, then add \
             --python /tmp/bench/bin/python",
        ));
    }
    let script = written(dir, "limit_worker.py", LIMIT_WORKER)?;
    let limit = Limit::start(python.path(), &script)
        .map_err(|error| cannot("start the limit program", &error))?;
    Ok((python, limit))
}

async fn start_pool(scope: &Scope, python: &Interpreter, dir: &Path) -> Result<Pool, CliError> {
    let tools = written(dir, "bench_tools.py", TOOLS)?;
    let reaper = ReaperConfig {
        python: python.clone(),
        run_token: RunToken::fresh(),
        cache: Some(dir.join("cache")),
    };
    let reaper = Reaper::start(scope, reaper).await?;
    let spec = WorkerSpec::python("bench", python.clone()).module(tools.display().to_string());
    Ok(Pool::start(scope, reaper, spec, PoolConfig::default()).await?)
}

fn pin(limit: &Limit, pool: &Pool) -> Result<Pinned, CliError> {
    let mut processes = vec![std::process::id(), limit.pid()];
    processes.extend(worker_pid(pool));
    Pinned::to_one_core(&processes).map_err(|error| cannot("pin to one core", &error))
}

fn worker_pid(pool: &Pool) -> Option<u32> {
    pool.workers().first().and_then(|worker| worker.pid)
}

/// Keeps `in_flight` echoes going through the pool for a while.
async fn measure_pool(
    scope: &Scope,
    pool: &Pool,
    payload: &Value,
    in_flight: u32,
    during: Duration,
) -> Result<Sample, CliError> {
    let pid = worker_pid(pool).unwrap_or_default();
    let cpu = |pid| cpu::used(pid).map_err(|error| cannot("read CPU times", &error));
    let (worker, host) = (cpu(pid)?, cpu(std::process::id())?);
    let (began, calling, value) = (SystemClock.now(), pool.clone(), payload.clone());
    let callers = scope.task("callers", async move {
        let callers = (0..in_flight).map(|_| async {
            let mut latencies = Vec::with_capacity(1 << 16);
            let (mut sent, mut value) = (began, value.clone());
            while sent - began < during {
                // The answer is the next argument, so that the measurement itself copies nothing.
                let args = Args::none().arg(value);
                value = calling.call("echo", args, CallOptions::default()).await?;
                let now = SystemClock.now();
                latencies.push(now - sent);
                sent = now;
            }
            Ok::<_, CallError>(latencies)
        });
        try_join_all(callers).await
    });
    let latencies = callers
        .await
        .map_err(|error| CliError::new(Kind::Internal, "bench_task", error.to_string()))??;
    let elapsed = SystemClock.now() - began;
    let (worker, host) = (cpu(pid)? - worker, cpu(std::process::id())? - host);
    Ok(Sample::new(latencies.concat(), elapsed, worker, host))
}

fn written(dir: &Path, name: &str, text: &str) -> Result<PathBuf, CliError> {
    let path = dir.join(name);
    std::fs::write(&path, text).map_err(|error| cannot("write a program", &error))?;
    Ok(path)
}

fn cannot(what: &str, error: &io::Error) -> CliError {
    CliError::new(Kind::Environment, "bench_failed", format!("cannot {what}: {error}"))
}

// === impl Row ===

impl Row {
    fn new(payload: usize, in_flight: u32, ours: &[Sample], limit: &[Sample]) -> Self {
        let (ours, limit) = (Sample::median(ours), Sample::median(limit));
        Self {
            payload_bytes: payload,
            workers: 1,
            in_flight,
            capacity: CAPACITY,
            window: WINDOW,
            pinned: in_flight == 1,
            calls_per_s: ours.calls_per_s,
            p50_us: ours.p50_us,
            p99_us: ours.p99_us,
            cpu_us_per_call: ours.worker_cpu_us,
            host_cpu_us_per_call: ours.host_cpu_us,
            limit_calls_per_s: limit.calls_per_s,
            limit_p50_us: limit.p50_us,
            limit_cpu_us_per_call: limit.worker_cpu_us,
            limit_host_cpu_us_per_call: limit.host_cpu_us,
            ratio_to_limit: ours.calls_per_s / limit.calls_per_s,
            p50_ratio_to_limit: ours.p50_us / limit.p50_us,
            cpu_ratio_to_limit: ours.worker_cpu_us / limit.worker_cpu_us,
        }
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "PAYLOAD",
        "IN FLIGHT",
        "CALLS/S",
        "P50 us",
        "P99 us",
        "WORKER us",
        "HOST us",
        "LIMIT CALLS/S",
        "LIMIT P50 us",
        "CALLS/S x LIMIT",
        "P50 x LIMIT",
        "CPU x LIMIT",
    ]);
    for row in rows {
        table.add_row([
            format!("{} B", row.payload_bytes),
            format!("{}{}", row.in_flight, if row.pinned { ", one core" } else { "" }),
            format!("{:.0}", row.calls_per_s),
            format!("{:.1}", row.p50_us),
            format!("{:.1}", row.p99_us),
            format!("{:.2}", row.cpu_us_per_call),
            format!("{:.2}", row.host_cpu_us_per_call),
            format!("{:.0}", row.limit_calls_per_s),
            format!("{:.1}", row.limit_p50_us),
            format!("{:.2}", row.ratio_to_limit),
            format!("{:.2}", row.p50_ratio_to_limit),
            format!("{:.2}", row.cpu_ratio_to_limit),
        ]);
    }
    table.to_string()
}
