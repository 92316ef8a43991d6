//! The one source of time.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// Where time comes from.
///
/// Product code never calls `Instant::now` or `SystemTime::now` (a lint bans both). Async code
/// reads `tokio::time::Instant`, which a paused runtime controls; everything else takes a `Clock`.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Monotonic time: for measuring and for deadlines.
    fn now(&self) -> Instant;
    /// Wall time: for showing and storing, never for measuring.
    fn wall(&self) -> SystemTime;
}

/// The operating system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock everything else asks")]
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock everything else asks")]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that moves only when told to, for tests.
///
/// Monotonic and wall time advance together from the moment of construction.
#[derive(Debug)]
pub struct ManualClock {
    start: Instant,
    wall_start: SystemTime,
    elapsed: Mutex<Duration>,
}

impl ManualClock {
    /// A clock that stands at the Unix epoch (wall time).
    pub fn new() -> Self {
        Self {
            start: SystemClock.now(),
            wall_start: SystemTime::UNIX_EPOCH,
            elapsed: Mutex::new(Duration::ZERO),
        }
    }

    /// Moves both clocks forward. Saturates at the largest `Duration`.
    pub fn advance(&self, by: Duration) {
        let mut elapsed = self.lock();
        *elapsed = elapsed.saturating_add(by);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Duration> {
        // A panic while holding this lock cannot leave a torn `Duration`.
        self.elapsed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start + *self.lock()
    }

    fn wall(&self) -> SystemTime {
        self.wall_start + *self.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new();
        let (mono, wall) = (clock.now(), clock.wall());
        assert_eq!(clock.now(), mono);
        clock.advance(Duration::from_secs(3));
        assert_eq!(clock.now() - mono, Duration::from_secs(3));
        assert_eq!(clock.wall().duration_since(wall).unwrap(), Duration::from_secs(3));
    }
}
