//! Whether anything at all gets done in a pool of calls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::{Mutex, lock};

/// The progress limit that calls to one pool share.
///
/// A call is stuck when nothing in its pool has progressed for the limit. Progress is a completed
/// operation or a changed answer of a poll; the machinery ([`Retry`](crate::Retry),
/// [`Poller`](crate::Poller)) records it, callers cannot. Heartbeats and telemetry use a policy
/// without a `Progress`, and answers of "not yet" that say nothing new do not count.
#[derive(Clone, Debug)]
pub struct Progress {
    limit: Duration,
    last: Arc<Mutex<Option<Instant>>>,
}

impl Progress {
    /// The limit unless said otherwise: 120 minutes.
    pub const LIMIT: Duration = Duration::from_secs(120 * 60);

    /// A pool's progress with this limit.
    pub fn new(limit: Duration) -> Self {
        Self { limit, last: Arc::new(Mutex::new(None)) }
    }

    /// Something got done at `now`.
    pub(crate) fn record(&self, now: Instant) {
        let mut last = lock(&self.last);
        *last = Some(last.map_or(now, |known| known.max(now)));
    }

    /// When a call that began at `since` will be stuck, if nothing gets done until then.
    pub(crate) fn stuck_at(&self, since: Instant) -> Option<Instant> {
        let last = lock(&self.last).map_or(since, |last| last.max(since));
        last.checked_add(self.limit)
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new(Self::LIMIT)
    }
}
