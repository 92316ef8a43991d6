//! How many restarts are too many: a pure sliding window.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// At most so many restarts within a window; one more and the supervisor gives up.
///
/// Pure: time comes in. Remembers at most `limit` instants.
#[derive(Clone, Debug)]
pub struct Intensity {
    limit: u32,
    within: Duration,
    restarts: VecDeque<Instant>,
}

impl Intensity {
    /// `limit` restarts within `within` are allowed. A limit of 0 allows none.
    pub const fn new(limit: u32, within: Duration) -> Self {
        Self { limit, within, restarts: VecDeque::new() }
    }

    /// Asks for one restart at `now`: grants and remembers it, or refuses and changes nothing.
    ///
    /// An instant exactly `within` ago does not count any more.
    pub fn admit(&mut self, now: Instant) -> bool {
        while self
            .restarts
            .front()
            .is_some_and(|&at| now.saturating_duration_since(at) >= self.within)
        {
            self.restarts.pop_front();
        }
        if self.restarts.len() >= self.limit as usize {
            return false;
        }
        self.restarts.push_back(now);
        true
    }

    /// The window.
    pub const fn within(&self) -> Duration {
        self.within
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use snakehouse_base::{Clock, ManualClock};

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_counting_all_granted_restarts(
            limit in 0u32..5,
            within in 1u64..50,
            steps in prop::collection::vec(0u64..20, 0..100),
        ) {
            let clock = ManualClock::new();
            let window = Duration::from_millis(within);
            let mut intensity = Intensity::new(limit, window);
            let mut granted: Vec<Instant> = Vec::new();
            for step in steps {
                clock.advance(Duration::from_millis(step));
                let now = clock.now();
                let recent = granted.iter().filter(|&&at| now - at < window).count();
                let expected = recent < limit as usize;
                prop_assert_eq!(intensity.admit(now), expected);
                if expected {
                    granted.push(now);
                }
            }
        }
    }
}
