//! How many calls a worker may have at once: a pure law.

use std::time::Duration;

/// Calls are sent ahead while that is at most this much work by what recent calls took, so that a
/// short call never waits for the socket. How long a call will take nobody knows: the first long one
/// after many short ones holds up those that were sent with it until they are taken back
/// (`connection/recall.rs`), and closes the window.
const AHEAD: Duration = Duration::from_millis(1);

/// Most calls at a worker.
const MOST: u64 = 64;

/// The adaptive window: 1 until recent calls were short, at most 64.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// Moving average of the time between two answers of a busy worker.
    mean_nanos: u64,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self { mean_nanos: nanos(AHEAD) }
    }

    /// `count` calls were answered in `busy` of working time.
    pub(crate) fn record(&mut self, count: usize, busy: Duration) {
        let count = count.max(1) as u64;
        let each = nanos(busy) / count;
        // A batch counts as its calls would one after the other; 16 of them forget everything.
        for _ in 0..count.min(16) {
            self.mean_nanos = self.mean_nanos - self.mean_nanos / 4 + each / 4;
        }
    }

    /// Calls that the worker may have now.
    pub(crate) fn size(&self) -> usize {
        usize::try_from((nanos(AHEAD) / self.mean_nanos.max(1)).clamp(1, MOST)).unwrap_or(1)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_calls_open_it_and_one_long_call_closes_it() {
        let mut window = Window::new();
        assert_eq!(window.size(), 1);
        for _ in 0..32 {
            window.record(1, Duration::from_micros(3));
        }
        assert_eq!(window.size(), 64);
        window.record(1, Duration::from_millis(100));
        assert_eq!(window.size(), 1);
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(
            records in prop::collection::vec((0usize..100, 0u64..u64::MAX), 0..50),
        ) {
            let mut window = Window::new();
            for (count, busy) in records {
                window.record(count, Duration::from_nanos(busy));
                prop_assert!((1..=64).contains(&window.size()));
            }
        }
    }
}
