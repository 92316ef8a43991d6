//! Seeds: chance that can be replayed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use snakehouse_base::Chance;

/// The environment variable that picks one seed, to replay a failure.
const SEED: &str = "SNAKEHOUSE_TEST_SEED";

/// How many seeds a long run has.
const SEEDS: &str = "SNAKEHOUSE_SEEDS";

/// Where a long run begins.
const FIRST: &str = "SNAKEHOUSE_FIRST_SEED";

/// Runs `test` with the seeds 0 to `count - 1`, each as its own stream of chance; on a failure the
/// seed is printed. With `SNAKEHOUSE_TEST_SEED=n` in the environment only that seed runs; a long run
/// has `SNAKEHOUSE_SEEDS` seeds from `SNAKEHOUSE_FIRST_SEED` on.
///
/// # Panics
/// With the panic of the first failing run, and when a variable is no number.
pub fn for_each_seed(count: u64, mut test: impl FnMut(Chance)) {
    let first = number(FIRST).unwrap_or(0);
    let long = first..first.saturating_add(number(SEEDS).unwrap_or(count));
    for seed in number(SEED).map_or(long, |seed| seed..seed.saturating_add(1)) {
        let outcome = catch_unwind(AssertUnwindSafe(|| test(Chance::seeded(seed))));
        if let Err(payload) = outcome {
            say(&format!("failing seed {seed}; replay with {SEED}={seed}"));
            resume_unwind(payload);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| match text.parse() {
        Ok(number) => number,
        Err(error) => panic!("{variable} must be a number: {error}"),
    })
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
        // A long run has other seeds.
        let first = number(FIRST).unwrap_or(0);
        let mut seen = Vec::new();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for_each_seed(10, |chance| {
                seen.push(chance.seed());
                assert!(chance.seed() < first + 3, "planted");
            });
        }));
        assert!(outcome.is_err());
        assert_eq!(seen, [first, first + 1, first + 2, first + 3]);
    }
}
