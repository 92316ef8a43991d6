//! A bound on the extra load that retries make.

use std::sync::Arc;

use crate::ConfigError;
use crate::event;
use crate::sync::{Mutex, lock};

/// Credit for retries, shared by all calls to one target.
///
/// Each first attempt earns a share of a retry, each retry spends one. When everything fails, the
/// extra load is at most that share of the calls, beyond a small reserve for quiet times.
#[derive(Clone, Debug)]
pub struct Budget {
    earned: u64,
    full: u64,
    credit: Arc<Mutex<u64>>,
}

/// Units of one retry.
const RETRY: u64 = 1000;

impl Budget {
    /// `percent` retries per hundred calls, and at most `reserve` saved up; starts full.
    ///
    /// # Errors
    /// [`ConfigError`] if `percent` is above 1000 or `reserve` is zero.
    pub fn new(percent: u32, reserve: u32) -> Result<Self, ConfigError> {
        if percent > 1000 {
            return Err(ConfigError("a retry budget must not exceed 1000 percent"));
        }
        if reserve == 0 {
            return Err(ConfigError("a retry budget needs a reserve of at least 1"));
        }
        let full = u64::from(reserve) * RETRY;
        let earned = u64::from(percent) * RETRY / 100;
        Ok(Self { earned, full, credit: Arc::new(Mutex::new(full)) })
    }

    /// A first attempt is made.
    pub(crate) fn earn(&self) {
        let mut credit = lock(&self.credit);
        *credit = (*credit + self.earned).min(self.full);
    }

    /// Asks for one retry; false if there is no credit. [`Retry`](crate::Retry) asks by itself.
    pub fn try_retry(&self) -> bool {
        let affordable = {
            let mut credit = lock(&self.credit);
            let affordable = *credit >= RETRY;
            if affordable {
                *credit -= RETRY;
            }
            affordable
        };
        if !affordable {
            event::budget_spent();
        }
        affordable
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the whole history, in hundredths of a retry; and the law that follows from it.
        #[test]
        fn agrees_with_its_history(
            percent in 0u32..300,
            reserve in 1u32..20,
            ops in prop::collection::vec(any::<bool>(), 0..300),
        ) {
            let budget = Budget::new(percent, reserve).unwrap();
            let full = 100 * u64::from(reserve);
            let (mut credit, mut calls, mut retries) = (full, 0, 0);
            for is_call in ops {
                if is_call {
                    budget.earn();
                    credit = full.min(credit + u64::from(percent));
                    calls += 1;
                } else {
                    prop_assert_eq!(budget.try_retry(), credit >= 100);
                    if credit >= 100 {
                        credit -= 100;
                        retries += 1;
                    }
                }
            }
            prop_assert!(100 * retries <= full + calls * u64::from(percent));
        }
    }

    #[test]
    fn retries_stay_within_their_share_and_the_reserve() {
        let budget = Budget::new(20, 10).unwrap();
        let mut retries = 0;
        for _ in 0..10_000 {
            budget.earn();
            while budget.try_retry() {
                retries += 1;
            }
        }
        assert_eq!(retries, 10_000 / 5 + 9, "the full reserve could not take the first share");
        assert!(Budget::new(20, 0).is_err());
    }
}
