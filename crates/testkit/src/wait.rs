//! Waiting for conditions instead of sleeping.

use std::fmt::Debug;
use std::time::Duration;

use snakehouse_base::{Clock as _, SystemClock};

/// The pause between two looks at a condition that has no event.
const LOOK: Duration = Duration::from_millis(2);

/// Blocks until `condition` holds, for at most `bound` of real time. For conditions of the operating
/// system that announce nothing; async code uses [`eventually`].
///
/// # Panics
/// With `what`, when the bound has passed.
#[expect(clippy::disallowed_methods, reason = "law 8 binds programs; a test looks at the system")]
pub fn wait_until(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) {
    let start = SystemClock.now();
    while !condition() {
        assert!(SystemClock.now() - start < bound, "waited {bound:?} in vain until {what}");
        // audit(sleep): /proc announces nothing; this is where all tests wait for it
        std::thread::sleep(LOOK);
    }
}

/// Waits until `look` returns a value that `accept`s, for at most `bound` on the runtime's clock
/// (virtual or real); returns that value.
///
/// # Panics
/// With `what` and the last value, when the bound has passed.
pub async fn eventually<T: Debug>(
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> T,
    accept: impl Fn(&T) -> bool,
) -> T {
    let start = tokio::time::Instant::now();
    loop {
        let seen = look();
        if accept(&seen) {
            return seen;
        }
        assert!(start.elapsed() < bound, "waited {bound:?} in vain until {what}; last: {seen:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Lets every task that can run do so until all of them wait (virtual time: without moving the
/// clock).
pub async fn settle() {
    // Each turn of a current-thread runtime polls what is ready; chains of wake-ups that are
    // longer than this do not occur in tests.
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_condition_that_never_holds_names_itself_and_its_last_value() {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            crate::virtual_time(async {
                let mut n = 0;
                let look = || {
                    n += 1;
                    n.min(7)
                };
                eventually("pigs fly", Duration::from_secs(60), look, |n| *n > 7).await
            })
        }));
        let payload = outcome.expect_err("pigs do not fly");
        let text = payload.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(text.contains("pigs fly") && text.contains("last: 7"), "{text}");
    }

    #[test]
    fn a_condition_that_holds_ends_the_wait() {
        let mut looks = 0;
        wait_until("the third look", Duration::from_secs(10), || {
            looks += 1;
            looks == 3
        });
        assert_eq!(looks, 3);
    }
}
