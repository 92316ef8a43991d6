//! How a pool works: sizes, bounds and times, all with defaults.

use std::time::Duration;

use snakehouse_base::ByteSize;
use snakehouse_guard::BreakerConfig;

/// How a pool works. The default is one worker that lives for as long as it can.
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
    /// Calls that may wait; one more is [`CallError::Saturated`](crate::CallError::Saturated).
    /// Default 10,000.
    pub queue: usize,
    /// From the start of a worker's process to its hello. Default 60 s: an import of a large
    /// library on a loaded machine takes 20 s. The reaper has as long to start the process, but no
    /// longer than 10 s, or it is replaced.
    pub start_within: Duration,
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
            recycle: Recycle::default(),
            breaker: None,
            queue: 10_000,
            start_within: Duration::from_secs(60),
            stop_grace: Duration::from_secs(3),
        }
    }
}

impl PoolConfig {
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
    /// When its process group holds so much memory. It is measured after calls, at most every 20 ms
    /// and never while nothing runs; memory that processes share counts in parts where it matters.
    /// Default: never.
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
