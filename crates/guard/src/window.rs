//! The shared "not now" of a target.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::event;
use crate::sync::{Mutex, lock};

/// What a request observed before it was sent; only this may be cleared by its success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u64);

/// A back-off window that all callers of a target share.
///
/// Somebody who was told to wait [sets](Window::set) it; everybody [waits](Window::wait). It is
/// never shortened, except that a success may [clear](Window::clear) the window it saw before it
/// was sent: a late success of an older request cannot erase a newer window. When it ends, waiters
/// are released on a ramp (1, 2, 4, ... per step) instead of all at once. A handle: clones share it.
#[derive(Clone, Debug)]
pub struct Window {
    shared: Arc<Shared>,
    ramp: Duration,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Tells waiters that the end has moved.
    moved: watch::Sender<()>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    until: Option<Instant>,
    generation: u64,
    /// How many have waited for the current window.
    waiters: u64,
}

impl State {
    fn active(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| now < *until)
    }

    /// Sets or extends; a new generation begins whenever the end moves.
    fn set(&mut self, now: Instant, pause: Duration) -> bool {
        let Some(end) = now.checked_add(pause) else { return false };
        let moved = self.until.is_none_or(|until| end > until) && end > now;
        if moved {
            if self.active(now).is_none() {
                self.waiters = 0;
            }
            self.until = Some(end);
            self.generation += 1;
        }
        moved
    }

    fn clear(&mut self, seen: Generation) -> bool {
        let clears = self.generation == seen.0 && self.until.is_some();
        if clears {
            self.until = None;
        }
        clears
    }
}

impl Window {
    /// An inactive window that releases its waiters in steps of `ramp`.
    pub fn new(ramp: Duration) -> Self {
        let state = State { until: None, generation: 0, waiters: 0 };
        let shared = Shared { state: Mutex::new(state), moved: watch::Sender::new(()) };
        Self { shared: Arc::new(shared), ramp }
    }

    /// Nobody should send for `pause` from `now`. Only ever extends.
    pub fn set(&self, now: Instant, pause: Duration) {
        let moved = lock(&self.shared.state).set(now, pause);
        if moved {
            self.shared.moved.send_replace(());
            event::window_set(pause);
        }
    }

    /// What to pass to [`clear`](Window::clear) after a success: take it before sending.
    pub fn observe(&self) -> Generation {
        Generation(lock(&self.shared.state).generation)
    }

    /// A request that saw `seen` before it was sent has succeeded: ends that window, and no other.
    pub fn clear(&self, seen: Generation) {
        let cleared = lock(&self.shared.state).clear(seen);
        if cleared {
            self.shared.moved.send_replace(());
            event::window_cleared();
        }
    }

    /// When the window ends, if it is active at `now`.
    pub fn active(&self, now: Instant) -> Option<Instant> {
        lock(&self.shared.state).active(now)
    }

    /// Waits until the window is over and this waiter's step of the ramp has come. Returns at once
    /// if it is not active. Cancel safe.
    pub async fn wait(&self) {
        // Listening begins before the look, so that no change falls in between.
        let mut changes = self.shared.moved.subscribe();
        let now = tokio::time::Instant::now().into_std();
        let Some(position) = self.queue(now) else { return };
        // Positions 0 | 1, 2 | 3 to 6 | ... leave one step after another.
        let step = self.ramp.saturating_mul((position + 1).ilog2());
        loop {
            changes.mark_unchanged();
            let until = lock(&self.shared.state).until;
            let now = tokio::time::Instant::now();
            let end = match until {
                Some(until) => tokio::time::Instant::from_std(until),
                // Cleared: the ramp begins now.
                None => return tokio::time::sleep_until(now + step).await,
            };
            tokio::select! {
                biased;
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(end + step) => return,
            }
        }
    }

    /// Takes the next position behind an active window.
    fn queue(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.shared.state);
        state.active(now)?;
        let position = state.waiters;
        state.waiters += 1;
        Some(position)
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use proptest::prelude::*;
    use snakehouse_base::{Clock as _, ManualClock};

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Wait(u64),
        Set(u64),
        Observe,
        Clear(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0u64..20).prop_map(Op::Wait),
            (0u64..30).prop_map(Op::Set),
            Just(Op::Observe),
            any::<usize>().prop_map(Op::Clear),
        ]
    }

    proptest! {
        /// The naive law: a window ends at the latest end of all sets since the last effective
        /// clear, and a clear is effective only if nothing extended the window since it looked.
        #[test]
        fn only_the_window_that_was_seen_is_cleared(ops in prop::collection::vec(op(), 0..100)) {
            let clock = ManualClock::new();
            let start = clock.now();
            let window = Window::new(Duration::ZERO);
            let (mut now, mut end) = (0u64, 0u64);
            // For each observation: whether the window was extended after it.
            let mut seen: Vec<(Generation, bool)> = Vec::new();
            for op in ops {
                match op {
                    Op::Wait(step) => {
                        clock.advance(Duration::from_secs(step));
                        now += step;
                    }
                    Op::Set(pause) => {
                        window.set(clock.now(), Duration::from_secs(pause));
                        if now + pause > end && pause > 0 {
                            end = now + pause;
                            seen.iter_mut().for_each(|(_, stale)| *stale = true);
                        }
                    }
                    Op::Observe => seen.push((window.observe(), false)),
                    Op::Clear(n) if !seen.is_empty() => {
                        let (generation, stale) = seen[n % seen.len()];
                        window.clear(generation);
                        if !stale {
                            end = 0;
                        }
                    }
                    Op::Clear(_) => {}
                }
                let expected = (now < end).then(|| start + Duration::from_secs(end));
                prop_assert_eq!(window.active(clock.now()), expected);
            }
        }
    }
}
