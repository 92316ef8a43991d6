//! `bench recovery`: what `kill -9` of a worker costs.
//!
//! One worker runs a call that does not end; ten calls wait behind it. The worker is killed. Measured
//! from the kill: when the call that ran has its typed error, and when the first of those that
//! waited is answered by the replacement. Counted: calls that failed though they had not started, and
//! processes of the worker that are alive 200 ms later.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::Serialize;
use snakehouse_base::{Clock, Kind, SystemClock};
use snakehouse_pool::{Args, Birth, CallError, CallOptions, Pool, PoolConfig};
use snakehouse_supervise::Scope;

use crate::args::BenchRecoveryArgs;
use crate::bench_rig::{Rig, cannot};
use crate::config::Config;
use crate::error::CliError;
use crate::output::Output;

/// Calls that wait behind the one that is killed.
const WAITING: u32 = 10;

/// After this long nothing of a dead worker may live.
const GONE_WITHIN: Duration = Duration::from_millis(200);

/// One document, as it is printed.
#[derive(Debug, Serialize)]
struct Recovery {
    kills: u16,
    preload: Vec<String>,
    forked: bool,
    error_ms_p50: f64,
    error_ms_p99: f64,
    back_ms_p50: f64,
    back_ms_p99: f64,
    /// Calls that failed though they had not started.
    lost_other_calls: u32,
    /// Processes of a dead worker that were alive 200 ms after the kill.
    survivors: u32,
}

/// Prints one document.
pub(crate) async fn run(
    config: &Config,
    args: BenchRecoveryArgs,
    out: Output,
) -> Result<(), CliError> {
    Rig::with(config, async |rig| measure(rig, args, out).await).await
}

async fn measure(rig: &Rig, args: BenchRecoveryArgs, out: Output) -> Result<(), CliError> {
    let scope = &rig.scope;
    let spec = rig.spec("recovery", &args.preload);
    let pool = Pool::start(scope, rig.reaper(scope).await?, spec, PoolConfig::default()).await?;

    let (mut errors, mut backs) = (Vec::new(), Vec::new());
    let (mut lost, mut survivors, mut forked) = (0, 0, true);
    for kill in 0..args.kills {
        let one = one_kill(scope, &pool, rig.dir(), kill).await?;
        errors.push(one.error_ms);
        backs.push(one.back_ms);
        lost += one.lost;
        forked &=
            pool.workers().iter().all(|info| matches!(info.birth, Some(Birth::Forked { .. })));
        let survived = one.left;
        let patience = GONE_WITHIN.saturating_sub(SystemClock.now() - one.killed);
        survivors += u32::from(!rig.lane.run(move || is_gone(&survived, patience)).await?);
    }
    let result = Recovery {
        kills: args.kills,
        preload: args.preload,
        forked,
        error_ms_p50: percentile(&mut errors, 50),
        error_ms_p99: percentile(&mut errors, 99),
        back_ms_p50: percentile(&mut backs, 50),
        back_ms_p99: percentile(&mut backs, 99),
        lost_other_calls: lost,
        survivors,
    };
    out.data(&result, || {
        format!(
            "{} kills of a worker\ntyped error   p50 {:6.2} ms  p99 {:6.2} ms\n\
             back to work  p50 {:6.2} ms  p99 {:6.2} ms\n\
             other calls lost {}, survivors {}",
            result.kills,
            result.error_ms_p50,
            result.error_ms_p99,
            result.back_ms_p50,
            result.back_ms_p99,
            result.lost_other_calls,
            result.survivors
        )
    })
}

/// What one kill cost.
struct Cost {
    killed: std::time::Instant,
    error_ms: f64,
    back_ms: f64,
    lost: u32,
    /// A process that the worker had started and that left its session.
    left: OwnedFd,
}

async fn one_kill(scope: &Scope, pool: &Pool, dir: &Path, kill: u16) -> Result<Cost, CliError> {
    let file = dir.join(format!("held-{kill}"));
    let (holding, path) = (pool.clone(), file.display().to_string());
    let held = scope.task("held", async move {
        let outcome = holding.call("hold", Args::none().arg(path), CallOptions::default()).await;
        (outcome, SystemClock.now())
    });
    // Nothing tells the start of a call to a caller; the tool says it in a file.
    let left = loop {
        match fs::read_to_string(&file).ok().and_then(|pid| pid.parse().ok()) {
            Some(pid) => break open(pid)?,
            None => tokio::task::yield_now().await,
        }
    };
    let worker = pool.workers().first().and_then(|worker| worker.pid).unwrap_or_default();
    let worker = open(worker)?;
    let waiting = pool.clone();
    let waiting = scope.task("waiting", async move {
        let call = |n| waiting.call("echo", Args::none().arg(n), CallOptions::default());
        let mut calls: FuturesUnordered<_> = (0..WAITING).map(call).collect();
        let mut first = None;
        let mut lost = 0;
        while let Some(outcome) = calls.next().await {
            match outcome {
                Ok(_) => first = first.or_else(|| Some(SystemClock.now())),
                Err(_) => lost += 1,
            }
        }
        (first, lost)
    });
    // Some may have been sent ahead to the worker, behind the call that does not end.
    let held_up =
        || pool.waiting() + pool.workers().iter().map(|info| info.in_flight).sum::<usize>();
    while held_up() <= WAITING as usize {
        tokio::task::yield_now().await;
    }
    let killed = SystemClock.now();
    rustix::process::pidfd_send_signal(&worker, Signal::KILL)
        .map_err(|error| cannot("kill a worker", &error.into()))?;
    let task = |error: &dyn std::fmt::Display| {
        CliError::new(Kind::Internal, "bench_task", error.to_string())
    };
    let (outcome, failed) = held.await.map_err(|error| task(&error))?;
    if !matches!(outcome, Err(CallError::WorkerDied { started: true, .. })) {
        return Err(task(&format!("the call that ran ended with {outcome:?}")));
    }
    let (first, lost) = waiting.await.map_err(|error| task(&error))?;
    let since = |at: std::time::Instant| (at - killed).as_secs_f64() * 1e3;
    let back_ms = first.map_or(f64::NAN, since);
    Ok(Cost { killed, error_ms: since(failed), back_ms, lost, left })
}

fn open(pid: u32) -> Result<OwnedFd, CliError> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| cannot("name a process", &std::io::ErrorKind::NotFound.into()))?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(|error| cannot("watch a process", &error.into()))
}

/// Whether a process is dead, or is so in time. Blocks.
fn is_gone(process: &OwnedFd, within: Duration) -> bool {
    let within = Timespec::try_from(within).unwrap_or_default();
    let dead = rustix::event::poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&within));
    dead.is_ok_and(|ready| ready > 0)
}

fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let index = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or(f64::NAN)
}
