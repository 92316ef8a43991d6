//! Seeds: chance that can be replayed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use snakehouse_base::Chance;

/// The environment variable that picks one seed, to replay a failure.
const SEED: &str = "SNAKEHOUSE_TEST_SEED";

/// Runs `test` with the seeds 0 to `count - 1`, each as its own stream of chance; on a failure the
/// seed is printed. With `SNAKEHOUSE_TEST_SEED=n` in the environment only that seed runs.
///
/// # Panics
/// With the panic of the first failing run.
pub fn for_each_seed(count: u64, mut test: impl FnMut(Chance)) {
    let chosen = std::env::var(SEED).ok().map(|text| match text.parse::<u64>() {
        Ok(seed) => seed,
        Err(error) => panic!("{SEED} must be a number: {error}"),
    });
    let seeds = chosen.map_or(0..count, |seed| seed..seed.saturating_add(1));
    for seed in seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| test(Chance::seeded(seed))));
        if let Err(payload) = outcome {
            say(&format!("failing seed {seed}; replay with {SEED}={seed}"));
            resume_unwind(payload);
        }
    }
}

#[expect(clippy::print_stderr, reason = "a failing test tells how to replay it")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_runs_once_and_a_failure_stops() {
        let mut seen = Vec::new();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for_each_seed(10, |chance| {
                seen.push(chance.seed());
                assert!(chance.seed() < 3, "planted");
            });
        }));
        assert!(outcome.is_err());
        assert_eq!(seen, [0, 1, 2, 3]);
    }
}
