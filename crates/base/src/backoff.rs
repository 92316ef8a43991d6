//! How long to wait before the next attempt: a pure law.

use std::time::Duration;

/// A law of back-off: what grows from attempt to attempt, held below a cap, then jittered.
///
/// Pure: chance comes in as a number in `[0, 1)`, so tests replay it. Attempts count from 0. All
/// arithmetic is on whole nanoseconds and saturates at 584 years. No delay is longer than the cap,
/// and jitter is applied below it: callers that have all reached the cap still spread out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: u64,
    cap: u64,
    growth: Growth,
    jitter: Jitter,
}

/// How the delay grows before it is capped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// `base · 2^attempt`
    Exponential,
    /// `base · (attempt + 1)`
    Linear,
    /// `base`
    Constant,
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
    /// Uniform between the delay less this percentage of it (at most 100) and all of it.
    Less(u16),
    /// Uniform between the delay and this percentage more; the delay stays so far below the cap
    /// that the sum does not exceed it.
    More(u16),
    /// Uniform between these two percentages of the delay, the lower one first; as with `More`, the
    /// cap bounds the outcome.
    Range(u16, u16),
    /// Uniform between the base and three times the delay before; the law's growth does not count.
    Decorrelated,
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
    /// A percentage of the jitter is out of its range.
    #[error("back-off jitter takes at most all of the delay, and a range has its lower end first")]
    Jitter,
}

/// Where a row of attempts stands, for [`Backoff::next`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    attempt: u32,
    /// The last delay in nanoseconds; zero before the first.
    last: u64,
}

impl Backoff {
    /// An exponential law with these bounds.
    ///
    /// # Errors
    /// [`BackoffError`] names the rule that is broken.
    pub const fn new(base: Duration, cap: Duration, jitter: Jitter) -> Result<Self, BackoffError> {
        Self::growing(Growth::Exponential, base, cap, jitter)
    }

    /// A law that grows as `growth` says.
    ///
    /// # Errors
    /// [`BackoffError`] names the rule that is broken.
    pub const fn growing(
        growth: Growth,
        base: Duration,
        cap: Duration,
        jitter: Jitter,
    ) -> Result<Self, BackoffError> {
        if base.is_zero() {
            return Err(BackoffError::ZeroBase);
        }
        let (base, cap) = (nanos(base), nanos(cap));
        if cap < base {
            return Err(BackoffError::CapBelowBase);
        }
        let sound = match jitter {
            Jitter::Less(percent) => percent <= 100,
            Jitter::Range(from, to) => from <= to && to > 0,
            _ => true,
        };
        if sound { Ok(Self { base, cap, growth, jitter }) } else { Err(BackoffError::Jitter) }
    }

    /// The delay before attempt `attempt + 1`, with `chance` in `[0, 1)`; other values are clamped.
    ///
    /// A decorrelated law depends on the delay before; without a [`Row`] that is taken to have been
    /// the longest possible.
    pub fn delay(&self, attempt: u32, chance: f64) -> Duration {
        let longest = 3u64.checked_pow(attempt).map_or(u64::MAX, |f| self.base.saturating_mul(f));
        Duration::from_nanos(self.nanos(attempt, longest, chance))
    }

    /// The next delay of `row`, which moves on; with `chance` as in [`delay`](Backoff::delay).
    pub fn next(&self, row: &mut Row, chance: f64) -> Duration {
        let delay = self.nanos(row.attempt, row.last.max(self.base), chance);
        *row = Row { attempt: row.attempt.saturating_add(1), last: delay };
        Duration::from_nanos(delay)
    }

    /// The longest delay this law gives.
    pub const fn cap(&self) -> Duration {
        Duration::from_nanos(self.cap)
    }

    fn nanos(&self, attempt: u32, last: u64, chance: f64) -> u64 {
        let (low, high) = self.bounds(attempt, last);
        low + fraction(high - low, chance)
    }

    /// What the delay lies between.
    fn bounds(&self, attempt: u32, last: u64) -> (u64, u64) {
        let factor = match self.growth {
            Growth::Exponential => 1u64.checked_shl(attempt).unwrap_or(u64::MAX),
            Growth::Linear => u64::from(attempt) + 1,
            Growth::Constant => 1,
        };
        let full = self.base.saturating_mul(factor).min(self.cap);
        let range = |from: u64, to: u64| {
            // Above 100 %: the delay that leaves room for its jitter below the cap.
            let full = if to > 100 { full.min(scaled(self.cap, 100, to)) } else { full };
            (scaled(full, from, 100), scaled(full, to, 100).min(self.cap))
        };
        match self.jitter {
            Jitter::None => (full, full),
            Jitter::Quarter => range(75, 100),
            Jitter::Half => range(50, 100),
            Jitter::Full => (0, full),
            Jitter::Less(percent) => range(100 - u64::from(percent), 100),
            Jitter::More(percent) => range(100, 100 + u64::from(percent)),
            Jitter::Range(from, to) => range(u64::from(from), u64::from(to)),
            Jitter::Decorrelated => (self.base, last.saturating_mul(3).min(self.cap)),
        }
    }
}

/// Saturates at 584 years.
#[expect(clippy::cast_possible_truncation, reason = "the branch before bounds it")]
const fn nanos(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}

/// `value · numerator / denominator`, for quotients that fit.
fn scaled(value: u64, numerator: u64, denominator: u64) -> u64 {
    match value.checked_mul(numerator) {
        Some(product) => product / denominator,
        // Rare, and many times dearer.
        None => {
            let exact = u128::from(value) * u128::from(numerator) / u128::from(denominator);
            u64::try_from(exact).unwrap_or(u64::MAX)
        }
    }
}

/// `span · chance`, never more than `span`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the chance is clamped to 0..=1, so its 32 bits and the product fit"
)]
fn fraction(span: u64, chance: f64) -> u64 {
    const BITS: u32 = 32;
    // Of a chance that is no number, `as` makes zero.
    let chance = (chance.clamp(0.0, 1.0) * (1u64 << BITS) as f64) as u64;
    ((u128::from(span) * u128::from(chance)) >> BITS) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Chance;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    const JITTERS: [Jitter; 8] = [
        Jitter::None,
        Jitter::Quarter,
        Jitter::Half,
        Jitter::Full,
        Jitter::Less(10),
        Jitter::More(25),
        Jitter::Range(80, 130),
        Jitter::Decorrelated,
    ];

    fn growth() -> impl Strategy<Value = Growth> {
        prop_oneof![Just(Growth::Exponential), Just(Growth::Linear), Just(Growth::Constant)]
    }

    fn jitter() -> impl Strategy<Value = Jitter> {
        prop_oneof![
            proptest::sample::select(&JITTERS[..]),
            (0u16..=100).prop_map(Jitter::Less),
            any::<u16>().prop_map(Jitter::More),
            (any::<u16>(), 1u16..).prop_map(|(a, b)| if a <= b {
                Jitter::Range(a, b)
            } else {
                Jitter::Range(b, a)
            }),
        ]
    }

    /// The delay without jitter, slowly and in wide numbers.
    fn raw(growth: Growth, base: u128, cap: u128, attempt: u32) -> u128 {
        let grown = match growth {
            Growth::Exponential => (0..attempt.min(70)).fold(base, |delay, _| (2 * delay).min(cap)),
            Growth::Linear => base * (u128::from(attempt) + 1),
            Growth::Constant => base,
        };
        grown.min(cap)
    }

    proptest! {
        /// BO1 to BO3 for any law: the delay lies in the support that its jitter names, and never
        /// above the cap.
        #[test]
        fn a_delay_stays_within_the_support_of_its_law(
            growth in growth(),
            jitter in jitter(),
            base in prop_oneof![1u64..100_000, any::<u64>()],
            more in prop_oneof![0u64..100_000, any::<u64>()],
            attempt in prop_oneof![0u32..70, any::<u32>()],
            chance in prop_oneof![0.0f64..1.0, any::<f64>(), Just(1.0)],
        ) {
            let base = base.max(1);
            let cap = base.saturating_add(more);
            let law = Backoff::growing(
                growth,
                Duration::from_nanos(base),
                Duration::from_nanos(cap),
                jitter,
            )
            .unwrap();
            let delay = law.delay(attempt, chance).as_nanos();
            let (base, cap) = (u128::from(base), u128::from(cap));
            prop_assert!(delay <= cap);
            let raw = raw(growth, base, cap, attempt);
            let room = |percent: u16| raw.min(cap * 100 / u128::from(percent.max(100)));
            let (low, high) = match jitter {
                Jitter::None => (raw, raw),
                Jitter::Quarter => (raw * 75 / 100, raw),
                Jitter::Half => (raw / 2, raw),
                Jitter::Full => (0, raw),
                Jitter::Less(percent) => (raw * (100 - u128::from(percent)) / 100, raw),
                Jitter::More(percent) => {
                    let low = raw.min(cap * 100 / (100 + u128::from(percent)));
                    (low, low * (100 + u128::from(percent)) / 100)
                }
                Jitter::Range(from, to) => {
                    (room(to) * u128::from(from) / 100, room(to) * u128::from(to) / 100)
                }
                Jitter::Decorrelated => (base, cap),
            };
            prop_assert!((low..=high).contains(&delay), "{low} <= {delay} <= {high}");
        }

        /// BO2: without jitter a later delay is never shorter.
        #[test]
        fn without_jitter_no_delay_is_shorter_than_the_one_before(
            growth in growth(),
            base in 1u64..,
            more: u64,
            attempt: u32,
        ) {
            let cap = Duration::from_nanos(base.saturating_add(more));
            let law = Backoff::growing(growth, Duration::from_nanos(base), cap, Jitter::None);
            let law = law.unwrap();
            prop_assert!(law.delay(attempt, 0.0) <= law.delay(attempt.saturating_add(1), 0.0));
        }

        /// A decorrelated row: each delay between the base and three times the one before.
        #[test]
        fn a_decorrelated_row_follows_its_own_past(seed: u64) {
            let law = Backoff::new(MS(10), MS(5000), Jitter::Decorrelated).unwrap();
            let (chance, mut row, mut before) = (Chance::seeded(seed), Row::default(), MS(10));
            for _ in 0..50 {
                let delay = law.next(&mut row, chance.next_unit());
                prop_assert!(delay >= MS(10) && delay <= MS(5000).min(3 * before));
                before = delay;
            }
        }
    }

    /// BO3: the mean of 100,000 draws is that of the law, within one percent; BO4: at the cap, no
    /// delay is common.
    #[test]
    fn jitter_is_uniform_also_at_the_cap() {
        for jitter in JITTERS {
            let law = Backoff::new(MS(10), MS(5000), jitter).unwrap();
            let (chance, mut delays) = (Chance::seeded(3), Vec::new());
            delays.extend((0..100_000).map(|_| law.delay(40, chance.next_unit()).as_nanos()));
            let mean = delays.iter().sum::<u128>() as f64 / 100_000.0;
            let (low, high) = law.bounds(40, u64::MAX);
            let expected = (low as f64 + high as f64) / 2.0;
            assert!((mean / expected - 1.0).abs() < 0.01, "{jitter:?}: {mean} of {expected}");
            let distinct: std::collections::BTreeSet<_> = delays[..1000].iter().collect();
            assert!(jitter == Jitter::None || distinct.len() >= 100, "{jitter:?}");
        }
    }

    #[test]
    fn each_law_grows_as_it_says() {
        let delays = |growth| {
            let law = Backoff::growing(growth, MS(10), MS(50), Jitter::None).unwrap();
            let mut row = Row::default();
            let by_row: Vec<_> = (0..7).map(|_| law.next(&mut row, 0.0)).collect();
            let by_attempt: Vec<_> = (0..7).map(|n| law.delay(n, 0.0)).collect();
            assert_eq!(by_row, by_attempt);
            by_row.into_iter().map(|delay| delay.as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(delays(Growth::Exponential), [10, 20, 40, 50, 50, 50, 50]);
        assert_eq!(delays(Growth::Linear), [10, 20, 30, 40, 50, 50, 50]);
        assert_eq!(delays(Growth::Constant), [10; 7]);
    }

    #[test]
    fn the_longest_law_does_not_overflow() {
        let law = Backoff::new(Duration::MAX, Duration::MAX, Jitter::Quarter).unwrap();
        assert_eq!(law.delay(u32::MAX, 1.0), law.cap());
    }

    #[test]
    fn bad_bounds_are_named() {
        assert_eq!(Backoff::new(MS(0), MS(1), Jitter::None), Err(BackoffError::ZeroBase));
        assert_eq!(Backoff::new(MS(2), MS(1), Jitter::None), Err(BackoffError::CapBelowBase));
        for jitter in [Jitter::Less(101), Jitter::Range(2, 1), Jitter::Range(0, 0)] {
            assert_eq!(Backoff::new(MS(1), MS(1), jitter), Err(BackoffError::Jitter));
        }
    }
}
