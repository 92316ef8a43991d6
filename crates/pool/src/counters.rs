//! What a pool has done since its start, as numbers.

use serde::Serialize;

/// Counts of a pool since its start. They only rise.
///
/// Every accepted call is counted in exactly one of [`answered`](Self::answered),
/// [`cancelled`](Self::cancelled) and [`failed`](Self::failed) once it is over for the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PoolCounters {
    /// Calls that were taken into the queue.
    pub accepted: u64,
    /// Calls that were refused because as many waited as may wait.
    pub saturated: u64,
    /// Calls that a worker answered, with a result or with an error of its own; also those whose
    /// caller was gone by then.
    pub answered: u64,
    /// Calls whose caller went, or whose deadline passed, before a worker began them: nothing of them
    /// ran.
    pub cancelled: u64,
    /// Calls that ended without an answer of a worker: it died, it could not be given them, or the
    /// pool stopped.
    pub failed: u64,
    /// Results that came for callers that were gone. They are dropped.
    pub late: u64,
    /// Items of streams that came for callers that were gone. They are dropped.
    pub late_items: u64,
    /// Calls that were given out again because their worker died before it began them.
    pub given_back: u64,
    /// Times that a call was taken back from a worker that was busy with a long one, before it began,
    /// because another worker had room.
    pub recalled: u64,
    /// Calls that were run by a worker in the middle of another one, which waited for a callback.
    pub nested: u64,
    /// Incarnations that were begun.
    pub starts: u64,
    /// Incarnations that said hello.
    pub served: u64,
    /// Incarnations that ended without having been told to.
    pub deaths: u64,
    /// Times that a spare worker took over.
    pub promoted: u64,
    /// Times that the pool became larger because calls waited.
    pub grown: u64,
    /// Times that it became smaller because a worker had nothing to do.
    pub shrunk: u64,
    /// Workers that were replaced because of their age.
    pub recycled_age: u64,
    /// Workers that were replaced because of their calls.
    pub recycled_calls: u64,
    /// Workers that were replaced because of their memory.
    pub recycled_memory: u64,
    /// Workers that held the memory to recycle at as soon as they began, or after their first call
    /// while none had ever held less. They are kept: those in their place would be the same.
    pub memory_too_low: u64,
    /// Workers that were replaced because somebody asked for it.
    pub recycled_asked: u64,
    /// Sessions that were made, with a name or without.
    pub sessions_made: u64,
    /// Sessions that were refused because there were as many as may be.
    pub sessions_refused: u64,
    /// Sessions that were closed.
    pub sessions_closed: u64,
    /// Sessions that expired.
    pub sessions_expired: u64,
    /// Sessions that were lost because their worker died.
    pub sessions_lost: u64,
    /// Times that a session which only prefers a worker went to another one.
    pub sessions_moved: u64,
    /// Sessions that were lost because their worker's replacement could wait no longer.
    pub sessions_recycled: u64,
    /// Steps of a worker's life that were refused because they are not possible. It is 0.
    pub refused_steps: u64,
}
