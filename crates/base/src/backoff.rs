//! How long to wait before the next attempt: a pure law.

use std::time::Duration;

/// Exponential back-off with a cap and jitter: `min(cap, base · 2^attempt)`, then jittered.
///
/// Pure: chance comes in as a number in `[0, 1)`, so tests replay it. Attempts count from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    jitter: Jitter,
}

/// How chance changes a delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jitter {
    /// Exactly the delay.
    None,
    /// Uniform between three quarters of the delay and all of it.
    Quarter,
    /// Uniform between half of the delay and all of it.
    Half,
    /// Uniform between zero and the delay.
    Full,
}

/// Why a [`Backoff`] cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackoffError {
    /// `base` is zero, which would make a tight loop.
    #[error("back-off base must be longer than zero")]
    ZeroBase,
    /// `cap` is shorter than `base`.
    #[error("back-off cap must not be shorter than its base")]
    CapBelowBase,
}

impl Backoff {
    /// A law with these bounds.
    ///
    /// # Errors
    /// [`BackoffError`] names the rule that `base` and `cap` break.
    pub const fn new(base: Duration, cap: Duration, jitter: Jitter) -> Result<Self, BackoffError> {
        if base.is_zero() {
            return Err(BackoffError::ZeroBase);
        }
        if cap.as_nanos() < base.as_nanos() {
            return Err(BackoffError::CapBelowBase);
        }
        Ok(Self { base, cap, jitter })
    }

    /// The delay before attempt `attempt + 1`, with `chance` in `[0, 1)`; other values are clamped.
    pub fn delay(&self, attempt: u32, chance: f64) -> Duration {
        let factor = 1u32.checked_shl(attempt).unwrap_or(u32::MAX);
        let full = self.base.saturating_mul(factor).min(self.cap);
        let chance = if chance.is_nan() { 0.0 } else { chance.clamp(0.0, 1.0) };
        match self.jitter {
            Jitter::None => full,
            Jitter::Quarter => full.mul_f64(0.75 + 0.25 * chance),
            Jitter::Half => full.mul_f64(0.5 + 0.5 * chance),
            Jitter::Full => full.mul_f64(chance),
        }
    }

    /// The longest delay this law gives.
    pub const fn cap(&self) -> Duration {
        self.cap
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_delay_stays_within_its_bounds(attempt: u32, chance in 0.0f64..1.0) {
            let base = Duration::from_millis(10);
            let cap = Duration::from_secs(5);
            for jitter in [Jitter::None, Jitter::Quarter, Jitter::Half, Jitter::Full] {
                let delay = Backoff::new(base, cap, jitter).unwrap().delay(attempt, chance);
                prop_assert!(delay <= cap);
                if jitter != Jitter::Full {
                    prop_assert!(delay >= base / 2);
                }
            }
        }
    }

    #[test]
    fn the_law_doubles_up_to_the_cap() {
        let law = Backoff::new(Duration::from_millis(10), Duration::from_millis(50), Jitter::None)
            .unwrap();
        let delays: Vec<_> = (0..5).map(|n| law.delay(n, 0.0).as_millis()).collect();
        assert_eq!(delays, [10, 20, 40, 50, 50]);
    }

    #[test]
    fn bad_bounds_are_named() {
        let ms = Duration::from_millis;
        assert_eq!(Backoff::new(ms(0), ms(1), Jitter::None), Err(BackoffError::ZeroBase));
        assert_eq!(Backoff::new(ms(2), ms(1), Jitter::None), Err(BackoffError::CapBelowBase));
    }
}
