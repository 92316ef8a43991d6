//! `bench pool`: calls of one worker or several, beside the fixed limit program, in one run.
//!
//! What is measured and how stands in `bench/limit/README.md`.

mod cpu;
mod limit;
mod payload;
mod row;
mod sample;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::future::try_join_all;
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
use row::{Cell, Row};
use sample::Sample;

const LIMIT_WORKER: &str = include_str!("../../../bench/limit/worker.py");
const TOOLS: &str = include_str!("../../../bench/limit/tools.py");

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
    let result = measure(config, during, &args, root.scope(), out).await;
    root.stop().await;
    result
}

async fn measure(
    config: &Config,
    during: Duration,
    args: &BenchPoolArgs,
    scope: &Scope,
    out: Output,
) -> Result<(), CliError> {
    let lane = Lane::new(scope, "limit", 1, 1);
    let named = config.python.value.clone();
    let dir = tempfile::tempdir().map_err(|error| cannot("make a directory", &error))?;
    let python = lane.run(move || interpreter(named.as_deref())).await??;
    let script = written(dir.path(), "limit_worker.py", LIMIT_WORKER)?;
    let reaper = start_reaper(scope, &python, dir.path()).await?;

    let mut rows = Vec::new();
    for &workers in &args.workers {
        let inner = scope.open("pool");
        let pool = start_pool(&inner, &reaper, &python, dir.path(), usize::from(workers)).await?;
        for &size in &args.payload {
            let size = size as usize;
            let payload = if size == 100 { Payload::record() } else { Payload::blob(size) };
            let payload = payload.ok_or_else(|| {
                let message = format!("no payload of {size} B can be encoded");
                CliError::new(Kind::InvalidInput, "bad_payload", message)
            })?;
            let mut limits = start_limits(&lane, &python, &script, workers, &payload).await?;
            for &in_flight in &args.in_flight {
                let cell = Cell { workers, in_flight, pinned: in_flight == 1 && !args.unpinned };
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                for round in 0..=args.rounds {
                    let pinned = cell.pinned.then(|| pin(&limits, &pool)).transpose()?;
                    let encoded = payload.encoded.clone();
                    let (back, sample) = lane
                        .run(move || {
                            let sample =
                                Limit::measure_all(&mut limits, &encoded, in_flight, during);
                            (limits, sample)
                        })
                        .await?;
                    limits = back;
                    let limit = sample.map_err(|error| cannot("measure the limit", &error))?;
                    let pool =
                        measure_pool(scope, &pool, &payload.value, in_flight, during).await?;
                    drop(pinned);
                    // The first round warms both up.
                    if round > 0 {
                        ours.push(pool);
                        theirs.push(limit);
                    }
                }
                let row = Row::new(payload.size, cell, &ours, &theirs);
                if out.is_json() {
                    out.data(&row, String::new)?;
                } else {
                    out.note(format!("{size} B, {workers} workers, {in_flight} in flight: done"));
                }
                rows.push(row);
            }
        }
        inner.stop().await;
    }
    if out.is_json() { Ok(()) } else { out.data(&rows, || row::table(&rows)) }
}

/// Finds an interpreter with the package of the limit program.
fn interpreter(named: Option<&Path>) -> Result<Interpreter, CliError> {
    let python = Interpreter::find(named)?;
    let has_package = Command::new(python.path())
        .args(["-c", "from msgpack import _cmsgpack"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if has_package {
        return Ok(python);
    }
    let path = python.path().display();
    let message =
        format!("{path} has no package msgpack with its C part, which the limit program needs");
    Err(CliError::new(Kind::Environment, "msgpack_missing", message).with_hint(
        "python3 -m venv /tmp/bench && /tmp/bench/bin/pip install msgpack, then add \
         --python /tmp/bench/bin/python",
    ))
}

/// Starts one limit program per worker.
async fn start_limits(
    lane: &Lane,
    python: &Interpreter,
    script: &Path,
    workers: u16,
    payload: &Payload,
) -> Result<Vec<Limit>, CliError> {
    let (python, script) = (python.path().to_owned(), script.to_owned());
    let size = payload.encoded.len();
    let start = move || (0..workers).map(|_| Limit::start(&python, &script, size)).collect();
    let started: io::Result<Vec<Limit>> = lane.run(start).await?;
    started.map_err(|error| cannot("start the limit program", &error))
}

async fn start_reaper(scope: &Scope, python: &Interpreter, dir: &Path) -> Result<Reaper, CliError> {
    let config = ReaperConfig {
        python: python.clone(),
        run_token: RunToken::fresh(),
        cache: Some(dir.join("cache")),
    };
    Ok(Reaper::start(scope, config).await?)
}

async fn start_pool(
    scope: &Scope,
    reaper: &Reaper,
    python: &Interpreter,
    dir: &Path,
    workers: usize,
) -> Result<Pool, CliError> {
    let tools = written(dir, "bench_tools.py", TOOLS)?;
    let spec = WorkerSpec::python("bench", python.clone()).module(tools.display().to_string());
    let config = PoolConfig { workers, ..PoolConfig::default() };
    Ok(Pool::start(scope, reaper.clone(), spec, config).await?)
}

fn pin(limits: &[Limit], pool: &Pool) -> Result<Pinned, CliError> {
    let mut processes = vec![std::process::id()];
    processes.extend(limits.iter().map(Limit::pid));
    processes.extend(worker_pids(pool));
    Pinned::to_one_core(&processes).map_err(|error| cannot("pin to one core", &error))
}

fn worker_pids(pool: &Pool) -> Vec<u32> {
    pool.workers().iter().filter_map(|worker| worker.pid).collect()
}

/// Keeps `in_flight` echoes going through the pool for a while.
async fn measure_pool(
    scope: &Scope,
    pool: &Pool,
    payload: &Value,
    in_flight: u32,
    during: Duration,
) -> Result<Sample, CliError> {
    let pids = worker_pids(pool);
    let cpu = |pids: &[u32]| -> Result<Duration, CliError> {
        let used = pids.iter().map(|&pid| cpu::used(pid)).sum::<io::Result<Duration>>();
        used.map_err(|error| cannot("read CPU times", &error))
    };
    let us = [std::process::id()];
    let (worker, host) = (cpu(&pids)?, cpu(&us)?);
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
    let (worker, host) = (cpu(&pids)? - worker, cpu(&us)? - host);
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
