//! Calls whose callers are gone and that the worker has not answered yet: when it is reminded of
//! them, and when it is killed for one. Decisions only; tested below.
//!
//! A worker is reminded because a signal that lands just before a system call blocks is noticed only
//! when that returns: ever more rarely, until the answer or the end of the grace. It is killed when it
//! still runs a cancelled call after the grace. A call that waits behind others is given more time,
//! and so is one that was answered into a batch that is not written yet: the call that runs then is
//! another one, and innocent. So a call must be seen running twice, a grace apart: one that starts at
//! this very moment is about to end.

use std::time::Duration;

use tokio::time::Instant;

/// How long after a cancel the doorbell rings for the second time.
const RING_AGAIN: Duration = Duration::from_millis(2);

/// The cancelled calls of one worker.
#[derive(Debug, Default)]
pub(crate) struct Cancels {
    calls: Vec<Cancelled>,
}

#[derive(Debug)]
struct Cancelled {
    stream: u32,
    /// When it has had its grace.
    overdue: Option<Instant>,
    /// When the doorbell rings again, and how long it waits after that.
    ring_again: Option<(Instant, Duration)>,
    /// Whether it was seen running after its cancel.
    seen_running: bool,
}

impl Cancels {
    /// A call is cancelled. `grace` is how long it may go on, `can_ring` whether the worker hears the
    /// doorbell.
    pub(crate) fn add(
        &mut self,
        stream: u32,
        runs: bool,
        grace: Option<Duration>,
        can_ring: bool,
        now: Instant,
    ) {
        self.calls.push(Cancelled {
            stream,
            overdue: grace.map(|grace| now + grace),
            ring_again: can_ring.then(|| (now + RING_AGAIN, 2 * RING_AGAIN)),
            seen_running: runs,
        });
    }

    /// Whether the call is among them.
    pub(crate) fn has(&self, stream: u32) -> bool {
        self.calls.iter().any(|call| call.stream == stream)
    }

    /// The call is answered.
    pub(crate) fn answered(&mut self, stream: u32) {
        self.calls.retain(|call| call.stream != stream);
    }

    /// When there is something to decide.
    pub(crate) fn wake(&self) -> Option<Instant> {
        let times = |call: &Cancelled| [call.overdue, call.ring_again.map(|(at, _)| at)];
        self.calls.iter().flat_map(times).flatten().min()
    }

    /// Whether the doorbell is to be rung now.
    pub(crate) fn ring(&mut self, now: Instant, runs: impl Fn(u32) -> bool) -> bool {
        let mut ring = false;
        for call in &mut self.calls {
            let Some((_, wait)) = call.ring_again.filter(|(at, _)| *at <= now) else { continue };
            call.ring_again = Some((now + wait, 2 * wait));
            call.seen_running |= runs(call.stream);
            ring = true;
        }
        ring
    }

    /// Whether a call ignored its cancel for a whole grace.
    pub(crate) fn is_ignored(
        &mut self,
        now: Instant,
        grace: Option<Duration>,
        runs: impl Fn(u32) -> bool,
    ) -> bool {
        let mut ignored = false;
        for call in self.calls.iter_mut().filter(|call| call.overdue.is_some_and(|by| by <= now)) {
            let runs = runs(call.stream);
            ignored |= runs && call.seen_running;
            call.seen_running = runs;
            // A grace of nothing is no reason to look all the time.
            call.overdue = Some(now + grace.unwrap_or_default().max(RING_AGAIN));
        }
        ignored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(2);

    /// One cancelled call, its doorbell out of the way.
    fn one(runs: bool) -> (Cancels, Instant) {
        let (mut cancels, now) = (Cancels::default(), Instant::now());
        cancels.add(5, runs, Some(GRACE), false, now);
        (cancels, now)
    }

    #[test]
    fn a_call_that_runs_from_its_cancel_to_the_end_of_its_grace_is_ignored() {
        let (mut cancels, now) = one(true);
        assert_eq!(cancels.wake(), Some(now + GRACE));
        assert!(!cancels.is_ignored(now + GRACE / 2, Some(GRACE), |_| true));
        assert!(cancels.is_ignored(now + GRACE, Some(GRACE), |stream| stream == 5));
    }

    #[test]
    fn a_call_that_waited_or_just_began_has_another_grace() {
        let (mut cancels, now) = one(false);
        assert!(!cancels.is_ignored(now + GRACE, Some(GRACE), |_| false), "it waits");
        assert!(!cancels.is_ignored(now + 2 * GRACE, Some(GRACE), |_| true), "it just began");
        assert!(cancels.is_ignored(now + 3 * GRACE, Some(GRACE), |_| true));
        cancels.answered(5);
        assert_eq!(cancels.wake(), None);
        assert!(!cancels.is_ignored(now + 4 * GRACE, Some(GRACE), |_| true));
    }

    #[test]
    fn without_a_grace_it_is_still_looked_at_now_and_then_only() {
        let (mut cancels, now) = (Cancels::default(), Instant::now());
        cancels.add(5, false, Some(Duration::ZERO), false, now);
        assert_eq!(cancels.wake(), Some(now));
        assert!(!cancels.is_ignored(now, Some(Duration::ZERO), |_| false));
        assert_eq!(cancels.wake(), Some(now + RING_AGAIN));
    }

    #[test]
    fn the_doorbell_rings_ever_more_rarely() {
        let (mut cancels, start) = (Cancels::default(), Instant::now());
        cancels.add(5, false, None, true, start);
        let mut rung = Vec::new();
        while rung.len() < 6 {
            let at = cancels.wake().unwrap();
            assert!(!cancels.ring(at - Duration::from_micros(1), |_| false));
            assert!(cancels.ring(at, |_| false));
            rung.push((at - start).as_millis());
        }
        assert_eq!(rung, [2, 6, 14, 30, 62, 126]);
    }

    #[test]
    fn a_worker_that_is_never_killed_and_hears_no_bell_is_left_alone() {
        let mut cancels = Cancels::default();
        cancels.add(5, true, None, false, Instant::now());
        assert_eq!(cancels.wake(), None);
    }
}
