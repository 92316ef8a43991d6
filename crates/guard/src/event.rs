//! What guards tell while they work: a closed list of `tracing` events.
//!
//! Every event has the target [`TARGET`] and a name of [`NAMES`] (in its metadata), so that a
//! subscriber can count and alert by name whatever the wording of logs. The `generation` of a breaker's event orders its changes. Levels: `WARN` for what an
//! operator wants to know, `INFO` for the way back to normal, `DEBUG` for what concerns one call,
//! `TRACE` for what every call does.
//!
//! No event is told under a lock, so a slow subscriber holds up only the call it is told of; one
//! that panics does not disturb the call at all. Without a subscriber an event costs a comparison.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::retry_core::Reason;

/// The target of every event of this crate.
pub const TARGET: &str = "snakehouse_guard";

macro_rules! events {
    ($($level:ident $name:literal $message:literal $tell:ident($($field:ident: $type:ty),*);)+) => {
        /// The name of every event there is:
        ///
        $(#[doc = concat!("* `", $name, "`: ", $message)])+
        pub const NAMES: &[&str] = &[$($name),+];

        $(
            #[inline]
            pub(crate) fn $tell($($field: $type),*) {
                undisturbed(|| {
                    tracing::event!(
                        name: $name,
                        target: TARGET,
                        tracing::Level::$level,
                        { $($field = ?$field),* },
                        $message
                    );
                });
            }
        )+
    };
}

events! {
    TRACE "guard.retry.started" "a call under a retry policy has begun"
        retry_started();
    DEBUG "guard.retry.paused" "an attempt failed; the next one begins after the pause"
        retry_paused(attempt: u32, pause: Duration);
    TRACE "guard.retry.succeeded" "the call has its value"
        retry_succeeded(attempts: u32, elapsed: Duration);
    DEBUG "guard.retry.gave_up" "the call has failed for good"
        retry_gave_up(reason: Reason, attempts: u32, elapsed: Duration);
    DEBUG "guard.retry.dropped" "the caller dropped the call"
        retry_dropped(attempts: u32, elapsed: Duration);
    WARN "guard.retry.clipped" "the server asked for a longer pause than the policy allows"
        retry_clipped(asked: Duration, ceiling: Duration);
    WARN "guard.budget.spent" "a retry was refused because the budget of its target is spent"
        budget_spent();

    TRACE "guard.poll.started" "a poll loop has begun"
        poll_started();
    TRACE "guard.poll.paused" "it is not done; the next poll begins after the pause"
        poll_paused(cause: &str, pause: Duration);
    TRACE "guard.poll.succeeded" "it is done"
        poll_succeeded(attempts: u32, elapsed: Duration);
    DEBUG "guard.poll.gave_up" "the loop has failed for good"
        poll_gave_up(reason: Reason, attempts: u32, elapsed: Duration);
    DEBUG "guard.poll.dropped" "the caller dropped the loop"
        poll_dropped(attempts: u32, elapsed: Duration);

    DEBUG "guard.breaker.refused" "a call was refused"
        breaker_refused(breaker: &str, retry_in: Duration);
    WARN "guard.breaker.opened" "the target is taken to be down"
        breaker_opened(breaker: &str, generation: u64);
    INFO "guard.breaker.half_open" "the open time is over, probes may go"
        breaker_half_open(breaker: &str, generation: u64);
    INFO "guard.breaker.closed" "the target works"
        breaker_closed(breaker: &str, generation: u64);
    DEBUG "guard.breaker.abandoned" "an admitted call ended without a verdict"
        breaker_abandoned(breaker: &str);
    DEBUG "guard.breaker.late" "a verdict came too late to count"
        breaker_late(breaker: &str);

    DEBUG "guard.limit.refused" "the rate is used up, or the cost can never fit"
        limit_refused(cost: u64);
    DEBUG "guard.limit.waiting" "a caller waits for the rate"
        limit_waiting(cost: u64, retry_in: Duration);
    TRACE "guard.limit.granted" "a caller that waited may go"
        limit_granted(cost: u64);
    WARN "guard.limit.keys_full" "there is no room for another key"
        limit_keys_full(keys: usize);

    TRACE "guard.permit.admitted" "a request was admitted at once"
        permit_admitted(bytes: u64);
    DEBUG "guard.permit.waiting" "a request waits behind so many"
        permit_waiting(bytes: u64, before: usize);
    TRACE "guard.permit.granted" "a request that waited was admitted"
        permit_granted();
    DEBUG "guard.permit.left" "a waiter left the queue"
        permit_left();
    TRACE "guard.permit.released" "an admitted request is over"
        permit_released();

    DEBUG "guard.http.odd_date" "a date was read whose weekday is not that of its day"
        http_odd_date();

    INFO "guard.window.set" "nobody should send for the pause"
        window_set(pause: Duration);
    INFO "guard.window.cleared" "a success ended the window before its time"
        window_cleared();
    WARN "guard.dispatch.throttled" "the smaller limits of a throttled target apply"
        dispatch_throttled(lasts: Duration);
    INFO "guard.dispatch.recovered" "the normal limits apply again"
        dispatch_recovered();

    DEBUG "guard.registry.made" "a key got its guard"
        registry_made();
    DEBUG "guard.registry.evicted" "so many idle guards made room"
        registry_evicted(guards: usize);
    WARN "guard.registry.full" "there is no room for another key"
        registry_full(capacity: usize);
}

/// Telling must not change what happens: a subscriber's panic ends here.
#[inline]
fn undisturbed(tell: impl FnOnce()) {
    // The subscriber's own state is all that its panic can have left half changed.
    let _panicked = catch_unwind(AssertUnwindSafe(tell));
}
