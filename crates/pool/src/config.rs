//! How a pool works: sizes, bounds and times, all with defaults.

use std::time::Duration;

use snakehouse_base::ByteSize;
use snakehouse_guard::BreakerConfig;

use crate::session::SessionLimits;
use crate::telemetry::TelemetryConfig;

/// As good as never: about a hundred years.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How a pool works. The default is one worker that lives for as long as it can.
///
/// Two workers that become up to eight while calls wait, one more that is warm and takes over at once,
/// and each replaced after about ten thousand calls or when it holds two gigabytes:
///
/// ```
/// use snakehouse_base::ByteSize;
/// use snakehouse_pool::{PoolConfig, Recycle};
///
/// let recycle = Recycle {
///     calls: Some(10_000),
///     memory: Some(ByteSize::mib(2048)),
///     ..Recycle::default()
/// };
/// let config = PoolConfig {
///     workers: 8,
///     min_workers: Some(2),
///     standby: 1,
///     recycle,
///     ..PoolConfig::default()
/// };
/// # let _ = config;
/// ```
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Workers that run calls, at most. Default 1; at least 1.
    pub workers: usize,
    /// Workers that run calls, at least; `None` is as many as [`workers`](Self::workers) in an eager
    /// pool and none in a lazy one. Between the two, the waiting of calls decides
    /// ([`grow_after`](Self::grow_after), [`shrink_after`](Self::shrink_after)).
    pub min_workers: Option<usize>,
    /// When the first workers start. Default [`Start::Eager`].
    pub start: Start,
    /// Spare workers beside those: started, warm, without calls. One takes over at once when a
    /// worker dies, when the pool grows, and when a worker is replaced. Default 0.
    pub standby: usize,
    /// A call that has waited for longer than this asks for one more worker. Default 100 ms.
    pub grow_after: Duration,
    /// A worker that has had neither a call nor a session for longer than this is let go, down to
    /// [`min_workers`](Self::min_workers). Default 60 s.
    pub shrink_after: Duration,
    /// When workers are replaced. Default: never.
    pub recycle: Recycle,
    /// When calls are refused because workers die of them; `None` is never, and the default: most
    /// pools serve several tools, and one that kills its worker should not stop the others. A pool of
    /// one tool, or in front of a device that may be gone, fails at once instead of after a start.
    /// Deaths of workers open it, failures of tools do not. Costs less than 1 µs per call.
    pub breaker: Option<BreakerConfig>,
    /// How many sessions there may be, how long they live, and what they may hold in workers.
    pub sessions: SessionLimits,
    /// Calls that may wait; one more is [`CallError::Saturated`](crate::CallError::Saturated).
    /// Default 10,000.
    pub queue: usize,
    /// Host tools that run at once for all its workers; one more fails with `too_many_callbacks`.
    /// Default 4,096; at least 1. One worker may have 1,024, with 256 MiB of arguments, and 64 MiB of
    /// large answers that it has not read: others wait for it.
    pub callbacks: usize,
    /// From the start of a worker's process to its hello. Default 60 s: an import of a large
    /// library on a loaded machine takes 20 s. The reaper has as long to start the process, and is
    /// replaced if it does not take the request within 10 s.
    pub start_within: Duration,
    /// That it tells of its calls while they run, and to whom. Default: it tells nothing, which costs
    /// nothing.
    pub telemetry: Option<TelemetryConfig>,
    /// From the pool's stop to the kill of a worker that is not gone by itself. Default 3 s.
    pub stop_grace: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            min_workers: None,
            start: Start::Eager,
            standby: 0,
            grow_after: Duration::from_millis(100),
            shrink_after: Duration::from_secs(60),
            sessions: SessionLimits::default(),
            recycle: Recycle::default(),
            breaker: None,
            queue: 10_000,
            callbacks: 4_096,
            start_within: Duration::from_secs(60),
            telemetry: None,
            stop_grace: Duration::from_secs(3),
        }
    }
}

impl PoolConfig {
    /// Names the first rule that is broken.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let recycle = &self.recycle;
        let rules = [
            ("a pool needs at least 1 worker", self.workers > 0),
            (
                "min_workers must not be more than workers",
                self.min_workers.is_none_or(|least| least <= self.workers),
            ),
            ("at least 1 call must be able to wait", self.queue > 0),
            ("the age to recycle at must be longer than zero", recycle.age != Some(Duration::ZERO)),
            ("the calls to recycle at must be at least 1", recycle.calls != Some(0)),
            (
                "the memory to recycle at must be at least 1 byte",
                recycle.memory != Some(ByteSize(0)),
            ),
            ("there must be room for at least 1 session", self.sessions.most > 0),
            ("jitter must be from 0 to 1", (0.0..=1.0).contains(&recycle.jitter)),
        ];
        rules.into_iter().find(|(_, holds)| !holds).map_or(Ok(()), |(rule, _)| Err(rule))?;
        self.telemetry.as_ref().map_or(Ok(()), |telemetry| telemetry.filter.check())
    }

    /// With no time in it that is too long to be added to a moment: [`Duration::MAX`] is a way to say
    /// never.
    #[must_use]
    pub(crate) fn bounded(mut self) -> Self {
        let recycle = &mut self.recycle;
        for time in [
            &mut self.grow_after,
            &mut self.shrink_after,
            &mut self.start_within,
            &mut self.stop_grace,
            &mut recycle.drain_within,
        ]
        .into_iter()
        .chain(&mut recycle.age)
        {
            *time = (*time).min(LONGEST);
        }
        self
    }

    /// Workers that run calls, at most.
    pub(crate) fn most(&self) -> usize {
        self.workers.max(1)
    }

    /// Workers that run calls, at least.
    pub(crate) fn least(&self) -> usize {
        let default = match self.start {
            Start::Eager => self.workers,
            Start::Lazy => 0,
        };
        self.min_workers.unwrap_or(default).min(self.most())
    }

    /// Places for workers: those that run calls, spare ones, and as many again for replacements
    /// that start before the old ones are gone.
    pub(crate) fn places(&self) -> usize {
        2 * (self.most() + self.standby)
    }
}

/// When the first workers of a pool start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the pool, which is there when they serve.
    #[default]
    Eager,
    /// With the first call or session. The pool is there at once, and a pool whose workers cannot
    /// start says so to its first caller.
    Lazy,
}

/// When a worker is replaced by a new one. Nothing is replaced by default.
///
/// The replacement is started first. Once it serves, the old one gets no new calls, finishes what it
/// has, waits for the sessions that are bound to it, and is stopped. At most a quarter of a pool's
/// workers is replaced at a time. [`Pool::recycle`](crate::Pool::recycle) asks for it by hand.
#[derive(Clone, Debug)]
pub struct Recycle {
    /// After so long from its hello. Default: never.
    pub age: Option<Duration>,
    /// After so many answered calls. Default: never.
    pub calls: Option<u64>,
    /// When its process group holds so much memory. It is measured when it begins and after calls,
    /// every 20 ms at most while that is far from the limit, and never while nothing runs. Near the
    /// limit it gets no more calls than the growth so far leaves room for before it is measured again:
    /// a leak is found within a tenth of the limit. Memory that processes share counts in parts where it
    /// matters. Workers that hold so much from the start are kept, since others would be the same
    /// ([`PoolCounters::memory_too_low`](crate::PoolCounters::memory_too_low), and a warning), and so are
    /// those on [other hosts](crate::WorkerSpec::attached), which nobody measures. Default: never.
    pub memory: Option<ByteSize>,
    /// By which part of them age and calls are shortened by chance, so that workers which were
    /// started together are not replaced together: from 0 to 1. Default 0.1.
    pub jitter: f64,
    /// The seed of that chance; `None` is one that nobody can foresee.
    pub seed: Option<u64>,
    /// How long the old worker may go on with what it has. After that its sessions are lost, with
    /// [`KillReason::Recycled`](crate::KillReason::Recycled) as the cause, and it is told to end.
    /// Default 60 s.
    pub drain_within: Duration,
}

impl Default for Recycle {
    fn default() -> Self {
        Self {
            age: None,
            calls: None,
            memory: None,
            jitter: 0.1,
            seed: None,
            drain_within: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a configuration that is the default but for this.
    fn wrong(change: impl FnOnce(&mut PoolConfig)) -> Option<&'static str> {
        let mut config = PoolConfig::default();
        change(&mut config);
        config.check().err()
    }

    #[test]
    fn a_configuration_that_cannot_work_is_refused_by_name() {
        assert_eq!(wrong(|_| {}), None);
        let names = |wrong: Option<&str>, word: &str| {
            assert!(wrong.is_some_and(|rule| rule.contains(word)), "{word}: {wrong:?}");
        };
        names(wrong(|config| config.workers = 0), "at least 1 worker");
        names(wrong(|config| config.min_workers = Some(2)), "min_workers");
        names(wrong(|config| config.queue = 0), "wait");
        names(wrong(|config| config.sessions.most = 0), "session");
        names(wrong(|config| config.recycle.age = Some(Duration::ZERO)), "age");
        names(wrong(|config| config.recycle.calls = Some(0)), "calls");
        names(wrong(|config| config.recycle.memory = Some(ByteSize(0))), "memory");
        for jitter in [-0.1, 1.1, f64::NAN] {
            names(wrong(|config| config.recycle.jitter = jitter), "jitter");
        }
    }

    #[test]
    fn the_least_number_follows_from_how_a_pool_starts() {
        let least = |start, min_workers| {
            PoolConfig { workers: 4, start, min_workers, ..PoolConfig::default() }.least()
        };
        assert_eq!(least(Start::Eager, None), 4);
        assert_eq!(least(Start::Lazy, None), 0);
        assert_eq!(least(Start::Lazy, Some(2)), 2);
        assert_eq!(least(Start::Eager, Some(1)), 1);
    }
}
