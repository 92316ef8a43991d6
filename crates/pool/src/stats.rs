//! What came of a pool's calls, as their callers see it, and how its workers died.
//!
//! Every call and stream has exactly one outcome, and it is counted where the caller gets it: one
//! atomic addition, so that the counts are exact whatever happens at once. A call that is refused
//! with [`CallError::Saturated`] is counted too, one whose arguments cannot be encoded is not: it
//! never reached the pool. Latencies go into buckets whose width is an eighth of their value.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::call::{CallError, Where};
use crate::counters::PoolCounters;
use crate::death::Death;
use crate::devices::{DeviceInfo, DevicePool};
use crate::output::OutputCounts;
use crate::pool::Pool;
use crate::telemetry::TelemetryCounts;

/// A pool at one moment, as numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PoolStats {
    /// Its name.
    pub pool: String,
    /// Workers that have a process.
    pub workers: u64,
    /// Calls that workers have, those sent ahead included.
    pub in_flight: u64,
    /// Calls that wait for a worker.
    pub waiting: u64,
    /// How long the first of them has waited, in microseconds; `None` if none waits.
    pub oldest_wait_us: Option<u64>,
    /// What the pool did.
    pub counters: PoolCounters,
    /// What callers got.
    pub outcomes: Outcomes,
    /// Idempotent calls that were given to a second worker because the first died.
    pub repeated: u64,
    /// Host tools that its workers called.
    pub callbacks: u64,
    /// Callbacks that were refused: too many at once, of no such tool, or of a call that was over.
    pub callbacks_refused: u64,
    /// What came for callbacks that were over, and was dropped: outcomes of host tools that were given
    /// up, and cancels.
    pub callbacks_late: u64,
    /// Deaths that nobody asked for, by [`Death::code`].
    pub deaths: BTreeMap<&'static str, u64>,
    /// From the call to its answer, of calls that a tool answered, with a result or a failure.
    pub latency: Latency,
    /// The devices that its workers are bound to, if they are.
    pub devices: Vec<DeviceInfo>,
    /// What became of what workers printed.
    pub output: OutputCounts,
    /// What became of its telemetry.
    pub telemetry: TelemetryCounts,
}

/// What callers got, counted since the pool's start. A stream is counted when its handle is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Outcomes {
    /// A result.
    pub ok: u64,
    /// The tool's failure.
    pub tool_failed: u64,
    /// The worker stopped it because it was asked to.
    pub cancelled: u64,
    /// Nothing: the caller went away.
    pub dropped: u64,
    /// The deadline passed before a worker had it.
    pub deadline_in_queue: u64,
    /// The deadline passed at the worker.
    pub deadline_at_worker: u64,
    /// The deadline passed, and no worker lived.
    pub no_worker: u64,
    /// The worker died.
    pub worker_died: u64,
    /// The worker died, and whether the call ran is not known.
    pub outcome_unknown: u64,
    /// Its session's worker died before it ran.
    pub session_lost: u64,
    /// As many calls waited as may wait.
    pub saturated: u64,
    /// There was no such tool.
    pub unknown_tool: u64,
    /// The pool stopped.
    pub stopped: u64,
    /// The breaker was open.
    pub breaker_open: u64,
    /// Anything else.
    pub other: u64,
}

impl Outcomes {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.ok
            + self.tool_failed
            + self.cancelled
            + self.dropped
            + self.deadline_in_queue
            + self.deadline_at_worker
            + self.no_worker
            + self.worker_died
            + self.outcome_unknown
            + self.session_lost
            + self.saturated
            + self.unknown_tool
            + self.stopped
            + self.breaker_open
            + self.other
    }
}

/// How long answers took, in microseconds. Percentiles are the upper end of their bucket: at most an
/// eighth too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Latency {
    /// Answers.
    pub count: u64,
    /// Half of them came within this.
    pub p50_us: u64,
    /// Nine tenths came within this.
    pub p90_us: u64,
    /// All but one of a hundred came within this.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// How many answers took so long: a bucket whose width is an eighth of its upper end, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LatencyBucket {
    /// The longest time in it, in microseconds.
    pub upper_us: u64,
    /// The time in its middle, in microseconds.
    pub middle_us: u64,
    /// How many answers took so long.
    pub count: u64,
}

impl Pool {
    /// How long answers took, from the shortest: what [`PoolStats::latency`] is made of. Empty buckets
    /// are left out.
    pub fn latency_buckets(&self) -> Vec<LatencyBucket> {
        self.shared().tally.latency.buckets()
    }

    /// What it does and did. Reads everything at nearly, not exactly, the same moment; at rest all
    /// of it fits together.
    pub fn stats(&self) -> PoolStats {
        let shared = self.shared();
        let (counters, infos, waiting, oldest) = {
            let pool = shared.lock();
            (pool.counters(), pool.workers(), pool.waiting(), pool.oldest())
        };
        let in_flight: usize = infos.iter().map(|info| info.in_flight).sum();
        PoolStats {
            pool: self.name().to_owned(),
            workers: infos.iter().filter(|info| info.birth.is_some()).count() as u64,
            in_flight: in_flight as u64,
            waiting: waiting as u64,
            oldest_wait_us: oldest.map(|since| micros(since.elapsed())),
            counters,
            outcomes: shared.tally.outcomes(),
            repeated: shared.tally.repeated.load(Ordering::Relaxed),
            callbacks: shared.tally.callbacks.load(Ordering::Relaxed),
            callbacks_refused: shared.tally.callbacks_refused.load(Ordering::Relaxed),
            callbacks_late: shared.tally.callbacks_late.load(Ordering::Relaxed),
            deaths: shared.tally.deaths(),
            latency: shared.tally.latency.read(),
            devices: shared.devices.as_ref().map(DevicePool::all).unwrap_or_default(),
            output: self.output_counts(),
            telemetry: shared.telemetry.as_ref().map(|hub| hub.counts()).unwrap_or_default(),
        }
    }
}

/// What can come of a call; the place of its count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Ok,
    ToolFailed,
    Cancelled,
    Dropped,
    DeadlineInQueue,
    DeadlineAtWorker,
    NoWorker,
    WorkerDied,
    Unknown,
    SessionLost,
    Saturated,
    UnknownTool,
    Stopped,
    BreakerOpen,
    Other,
}

const OUTCOMES: usize = Outcome::Other as usize + 1;

impl Outcome {
    fn of<T>(outcome: &Result<T, CallError>) -> Self {
        let Err(error) = outcome else { return Self::Ok };
        match error {
            CallError::Tool { .. } => Self::ToolFailed,
            CallError::Cancelled => Self::Cancelled,
            CallError::Deadline { at: Where::Queue } => Self::DeadlineInQueue,
            CallError::Deadline { at: Where::Worker } => Self::DeadlineAtWorker,
            CallError::NoWorker { .. } => Self::NoWorker,
            CallError::WorkerDied { .. } => Self::WorkerDied,
            CallError::OutcomeUnknown { .. } => Self::Unknown,
            CallError::SessionLost { .. } => Self::SessionLost,
            CallError::Saturated { .. } => Self::Saturated,
            CallError::UnknownTool { .. } => Self::UnknownTool,
            CallError::Stopped => Self::Stopped,
            CallError::BreakerOpen { .. } => Self::BreakerOpen,
            _ => Self::Other,
        }
    }
}

/// The counts of one pool.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    outcomes: [AtomicU64; OUTCOMES],
    latency: Histogram,
    repeated: AtomicU64,
    callbacks: AtomicU64,
    callbacks_refused: AtomicU64,
    callbacks_late: AtomicU64,
    deaths: Mutex<BTreeMap<&'static str, u64>>,
}

impl Tally {
    /// A call begins. It is counted when the measure ends, or as dropped when the measure is.
    pub(crate) fn begin(&self, since: Instant) -> Measure<'_> {
        Measure { tally: self, since: Some(since) }
    }

    /// The one outcome of a stream; `None` if its handle was dropped before.
    pub(crate) fn stream_over<T>(&self, outcome: Option<&Result<T, CallError>>) {
        self.count(outcome.map_or(Outcome::Dropped, Outcome::of));
    }

    /// A worker died, and nobody had asked for it.
    pub(crate) fn died(&self, death: &Death) {
        let mut deaths = self.deaths.lock().unwrap_or_else(PoisonError::into_inner);
        *deaths.entry(death.code()).or_default() += 1;
    }

    /// A call is tried for the second time.
    pub(crate) fn repeated(&self) {
        self.repeated.fetch_add(1, Ordering::Relaxed);
    }

    /// A host tool is called.
    pub(crate) fn callback(&self) {
        self.callbacks.fetch_add(1, Ordering::Relaxed);
    }

    /// A callback is refused.
    pub(crate) fn callback_refused(&self) {
        self.callbacks_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Something came for callbacks that were over.
    pub(crate) fn callbacks_late(&self, count: u64) {
        self.callbacks_late.fetch_add(count, Ordering::Relaxed);
    }

    fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn deaths(&self) -> BTreeMap<&'static str, u64> {
        self.deaths.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn outcomes(&self) -> Outcomes {
        let get = |outcome: Outcome| self.outcomes[outcome as usize].load(Ordering::Relaxed);
        Outcomes {
            ok: get(Outcome::Ok),
            tool_failed: get(Outcome::ToolFailed),
            cancelled: get(Outcome::Cancelled),
            dropped: get(Outcome::Dropped),
            deadline_in_queue: get(Outcome::DeadlineInQueue),
            deadline_at_worker: get(Outcome::DeadlineAtWorker),
            no_worker: get(Outcome::NoWorker),
            worker_died: get(Outcome::WorkerDied),
            outcome_unknown: get(Outcome::Unknown),
            session_lost: get(Outcome::SessionLost),
            saturated: get(Outcome::Saturated),
            unknown_tool: get(Outcome::UnknownTool),
            stopped: get(Outcome::Stopped),
            breaker_open: get(Outcome::BreakerOpen),
            other: get(Outcome::Other),
        }
    }
}

/// One call on its way.
#[derive(Debug)]
pub(crate) struct Measure<'a> {
    tally: &'a Tally,
    /// `None` once it is counted.
    since: Option<Instant>,
}

impl Measure<'_> {
    /// The caller gets this.
    pub(crate) fn end<T>(mut self, outcome: &Result<T, CallError>) {
        let Some(since) = self.since.take() else { return };
        let outcome = Outcome::of(outcome);
        if matches!(outcome, Outcome::Ok | Outcome::ToolFailed) {
            self.tally.latency.record(since.elapsed());
        }
        self.tally.count(outcome);
    }
}

impl Drop for Measure<'_> {
    fn drop(&mut self) {
        if self.since.is_some() {
            self.tally.count(Outcome::Dropped);
        }
    }
}

/// Buckets for 0 to 7 µs, and eight for each power of two from there to 2^40 µs (13 days).
const SUBS: u64 = 8;
const BUCKETS: usize = 8 * 39;

/// How long answers took.
#[derive(Debug)]
struct Histogram {
    buckets: Box<[AtomicU64; BUCKETS]>,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([const { AtomicU64::new(0) }; BUCKETS]), max: AtomicU64::new(0) }
    }
}

impl Histogram {
    fn record(&self, took: Duration) {
        let took = micros(took);
        self.buckets[bucket(took)].fetch_add(1, Ordering::Relaxed);
        self.max.fetch_max(took, Ordering::Relaxed);
    }

    fn buckets(&self) -> Vec<LatencyBucket> {
        let counts = self.buckets.iter().map(|n| n.load(Ordering::Relaxed)).enumerate();
        let lower = |bucket: usize| if bucket == 0 { 0 } else { upper(bucket - 1) + 1 };
        let filled = counts.filter(|(_, count)| *count > 0).map(|(bucket, count)| LatencyBucket {
            upper_us: upper(bucket),
            middle_us: u64::midpoint(lower(bucket), upper(bucket)),
            count,
        });
        filled.collect()
    }

    fn read(&self) -> Latency {
        let counts: Vec<u64> = self.buckets.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        let count: u64 = counts.iter().sum();
        let max_us = self.max.load(Ordering::Relaxed);
        let within = |hundredths: u64| {
            let rank = (count * hundredths).div_ceil(100);
            let mut seen = 0;
            let found = counts.iter().position(|n| {
                seen += n;
                seen >= rank
            });
            found.map_or(0, |bucket| upper(bucket).min(max_us))
        };
        match count {
            0 => Latency::default(),
            _ => Latency {
                count,
                p50_us: within(50),
                p90_us: within(90),
                p99_us: within(99),
                max_us,
            },
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn bucket(micros: u64) -> usize {
    let number = match micros {
        0..SUBS => micros,
        _ => {
            let exponent = u64::from(micros.ilog2());
            (exponent - 2) * SUBS + ((micros >> (exponent - 3)) & (SUBS - 1))
        }
    };
    usize::try_from(number).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// The longest time of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    match bucket {
        0..SUBS => bucket,
        _ => {
            let (exponent, sub) = (bucket / SUBS + 2, bucket % SUBS);
            ((SUBS + sub + 1) << (exponent - 3)) - 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_a_bucket_that_is_an_eighth_too_long_at_most() {
        for micros in (0..5000).chain((0..41).map(|n| 1 << n)).chain((3..41).map(|n| (1 << n) - 1))
        {
            let upper = upper(bucket(micros));
            assert!(upper >= micros && upper - micros <= micros / 8, "{micros}: {upper}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let histogram = Histogram::default();
        assert_eq!(histogram.read(), Latency::default());
        for micros in (1..=1000).rev() {
            histogram.record(Duration::from_micros(micros));
        }
        let latency = histogram.read();
        assert_eq!((latency.count, latency.max_us), (1000, 1000));
        let buckets = histogram.buckets();
        assert_eq!(buckets.iter().map(|bucket| bucket.count).sum::<u64>(), 1000);
        assert!(buckets.is_sorted_by_key(|bucket| (bucket.upper_us, bucket.middle_us)));
        let sum: u64 = buckets.iter().map(|bucket| bucket.count * bucket.middle_us).sum();
        assert!(sum.abs_diff(500_500) < 500_500 / 16, "{sum}");
        for (found, exact) in [(latency.p50_us, 500), (latency.p90_us, 900), (latency.p99_us, 990)]
        {
            assert!((exact..=exact * 9 / 8).contains(&found), "{found} for {exact}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_counted_once_whatever_comes_of_it() {
        let tally = Tally::default();
        let now = Instant::now();
        tally.begin(now).end(&Ok(()));
        tally.begin(now).end::<()>(&Err(CallError::Saturated { limit: 1 }));
        tally.begin(now).end::<()>(&Err(CallError::Deadline { at: Where::Queue }));
        drop(tally.begin(now));
        tally.stream_over::<()>(None);
        tally.stream_over(Some(&Ok(())));
        let expected = Outcomes {
            ok: 2,
            saturated: 1,
            deadline_in_queue: 1,
            dropped: 2,
            ..Outcomes::default()
        };
        assert_eq!(tally.outcomes(), expected);
        assert_eq!(expected.total(), 6);
        assert_eq!(tally.latency.read().count, 1);
        tally.died(&Death::Exited { code: 3 });
        tally.died(&Death::Exited { code: 4 });
        tally.died(&Death::CpuLimit);
        assert_eq!(tally.deaths(), [("exit_error", 2), ("cpu_limit", 1)].into());
    }
}
