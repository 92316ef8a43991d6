//! Where randomness comes from.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// A seeded stream of chance, for jitter.
///
/// The same seed gives the same numbers, so a failure can be replayed from a printed seed. Not for
/// keys or tokens: the stream is predictable. Shared by reference; drawing takes one atomic step.
#[derive(Debug)]
pub struct Chance {
    seed: u64,
    state: AtomicU64,
}

impl Chance {
    /// The stream of this seed.
    pub const fn seeded(seed: u64) -> Self {
        Self { seed, state: AtomicU64::new(seed) }
    }

    /// A stream nobody can foresee, from the operating system's entropy.
    pub fn from_entropy() -> Self {
        // `RandomState` is keyed from the operating system; its empty hash depends on the keys.
        Self::seeded(RandomState::new().build_hasher().finish())
    }

    /// The seed, to print beside a failure.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The next 64 bits (SplitMix64: a Weyl sequence through a bijective mixer).
    pub fn next_u64(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The next number in `[0, 1)`, with 53 random bits.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    pub fn next_unit(&self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_stream() {
        let (a, b) = (Chance::seeded(7), Chance::seeded(7));
        for _ in 0..100 {
            assert_eq!(a.next_u64(), b.next_u64());
        }
        assert_ne!(Chance::seeded(7).next_u64(), Chance::seeded(8).next_u64());
    }

    #[test]
    fn units_fill_the_half_open_interval() {
        let chance = Chance::seeded(1);
        let draws: Vec<f64> = (0..100_000).map(|_| chance.next_unit()).collect();
        assert!(draws.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = draws.iter().sum::<f64>() / 100_000.0;
        assert!((mean - 0.5).abs() < 0.005, "mean {mean}");
    }
}
