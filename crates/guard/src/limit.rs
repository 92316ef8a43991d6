//! Rates: how often something may happen, as one exact decision.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use snakehouse_base::{Coded, Deadline, Kind};

use crate::ConfigError;
use crate::by;
use crate::event;
use crate::sync::{AtomicU64, Mutex, lock};

/// `burst` at once, refilled at one per `per`.
///
/// For every interval of length T, what is admitted is at most `burst + T / per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per: u64,
    burst: u64,
}

/// Why something may not happen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// The rate is used up; nothing was consumed.
    #[error("rate limit reached; next in {retry_in:?}")]
    Limited {
        /// When the same cost will fit, if nothing else happens.
        retry_in: Duration,
    },
    /// The cost is larger than the burst: it can never fit.
    #[error("a cost of {cost} exceeds the burst of {burst}")]
    TooLarge {
        /// What was asked.
        cost: u64,
        /// What is allowed at most.
        burst: u64,
    },
    /// The limiter has no room for another key, because all keys it knows are in use.
    #[error("too many keys are being limited at once")]
    TooManyKeys,
    /// The deadline passes before it fits.
    #[error("rate limit reached and the deadline is before the next slot")]
    Deadline,
}

impl Coded for LimitError {
    fn kind(&self) -> Kind {
        match self {
            LimitError::Limited { .. } | LimitError::TooManyKeys => Kind::Saturated,
            LimitError::TooLarge { .. } => Kind::InvalidInput,
            LimitError::Deadline => Kind::Deadline,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            LimitError::Limited { .. } => "rate_limited",
            LimitError::TooLarge { .. } => "cost_exceeds_burst",
            LimitError::TooManyKeys => "too_many_keys",
            LimitError::Deadline => "rate_deadline",
        }
    }
}

impl Rate {
    /// One per `per`, `burst` at once.
    ///
    /// # Errors
    /// [`ConfigError`] if either is zero or their product exceeds 292 years.
    pub fn new(per: Duration, burst: u64) -> Result<Self, ConfigError> {
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        if per == 0 || burst == 0 {
            return Err(ConfigError("a rate needs an interval and a burst above zero"));
        }
        if per.checked_mul(burst).is_none_or(|window| window > i64::MAX.unsigned_abs()) {
            return Err(ConfigError("a rate's burst must refill within 292 years"));
        }
        Ok(Self { per, burst })
    }

    /// The decision (generic cell rate algorithm). `full_at` is when the burst will be whole again,
    /// in nanoseconds since some origin; so is `now`. Returns the new `full_at`.
    fn decide(self, full_at: u64, now: u64, cost: u64) -> Result<u64, LimitError> {
        if cost > self.burst {
            return Err(LimitError::TooLarge { cost, burst: self.burst });
        }
        let next = full_at.max(now).saturating_add(cost * self.per);
        let latest = now.saturating_add(self.burst * self.per);
        if next > latest {
            return Err(LimitError::Limited { retry_in: Duration::from_nanos(next - latest) });
        }
        Ok(next)
    }
}

/// One rate limit. A handle: clones share it.
///
/// The decision is a compare-and-swap on one word: it never admits more than the rate, however many
/// threads ask, and a denial consumes nothing.
#[derive(Clone, Debug)]
pub struct Limit {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    rate: Rate,
    origin: Instant,
    full_at: AtomicU64,
    /// Whoever waits holds this, in the order of asking.
    queue: tokio::sync::Mutex<()>,
}

impl Limit {
    /// A full limit; `origin` is any instant not later than the first use.
    pub fn new(rate: Rate, origin: Instant) -> Self {
        let queue = tokio::sync::Mutex::new(());
        Self { shared: Arc::new(Shared { rate, origin, full_at: AtomicU64::new(0), queue }) }
    }

    /// Asks for `cost` at `now`.
    ///
    /// # Errors
    /// [`LimitError::Limited`] or [`LimitError::TooLarge`].
    pub fn try_take(&self, cost: u64, now: Instant) -> Result<(), LimitError> {
        self.decide(cost, now).inspect_err(|_| event::limit_refused(cost))
    }

    fn decide(&self, cost: u64, now: Instant) -> Result<(), LimitError> {
        let now = nanos_since(self.shared.origin, now);
        let cell = &self.shared.full_at;
        let mut known = cell.load(Ordering::Acquire);
        loop {
            let next = self.shared.rate.decide(known, now, cost)?;
            match cell.compare_exchange_weak(known, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(current) => known = current,
            }
        }
    }

    /// Waits for `cost`, first come first served. Only the first waiter has a timer. Cancel safe.
    ///
    /// # Errors
    /// [`LimitError::TooLarge`] at once; [`LimitError::Deadline`] at the deadline, or as soon as it
    /// is known that the cost does not fit before.
    pub async fn take(&self, cost: u64, deadline: Deadline) -> Result<(), LimitError> {
        let waiting = async {
            let _turn = self.shared.queue.lock().await;
            let mut waited = false;
            loop {
                let now = tokio::time::Instant::now();
                match self.decide(cost, now.into_std()) {
                    Err(LimitError::Limited { retry_in }) => {
                        let at = now + retry_in;
                        if deadline.is_over(at.into_std()) {
                            return Err(LimitError::Deadline);
                        }
                        event::limit_waiting(cost, retry_in);
                        waited = true;
                        tokio::time::sleep_until(at).await;
                    }
                    Ok(()) if waited => {
                        event::limit_granted(cost);
                        return Ok(());
                    }
                    decided => return decided,
                }
            }
        };
        let taken = by(deadline, waiting).await.unwrap_or(Err(LimitError::Deadline));
        taken.inspect_err(|_| event::limit_refused(cost))
    }
}

/// One rate limit per key, for at most `capacity` keys in use.
///
/// A key whose burst is whole again needs no memory. When all of the capacity is in use, new keys
/// are refused: forgetting a key early would change a decision.
#[derive(Debug)]
pub struct KeyedLimit<K> {
    rate: Rate,
    capacity: usize,
    origin: Instant,
    full_at: Mutex<HashMap<K, u64>>,
}

impl<K: Eq + Hash + Clone> KeyedLimit<K> {
    /// Full limits for up to `capacity` keys; `origin` is any instant not later than the first use.
    ///
    /// # Errors
    /// [`ConfigError`] if `capacity` is zero.
    pub fn new(rate: Rate, capacity: usize, origin: Instant) -> Result<Self, ConfigError> {
        if capacity == 0 {
            return Err(ConfigError("a keyed limit needs room for at least one key"));
        }
        Ok(Self { rate, capacity, origin, full_at: Mutex::new(HashMap::new()) })
    }

    /// Asks for `cost` of `key` at `now`.
    ///
    /// # Errors
    /// As [`Limit::try_take`], and [`LimitError::TooManyKeys`].
    pub fn try_take(&self, key: &K, cost: u64, now: Instant) -> Result<(), LimitError> {
        self.decide(key, cost, now).inspect_err(|error| match error {
            LimitError::TooManyKeys => event::limit_keys_full(self.capacity),
            _ => event::limit_refused(cost),
        })
    }

    fn decide(&self, key: &K, cost: u64, now: Instant) -> Result<(), LimitError> {
        let now = nanos_since(self.origin, now);
        let mut keys = lock(&self.full_at);
        if let Some(full_at) = keys.get_mut(key) {
            *full_at = self.rate.decide(*full_at, now, cost)?;
            return Ok(());
        }
        let next = self.rate.decide(0, now, cost)?;
        if keys.len() >= self.capacity {
            keys.retain(|_, full_at| *full_at > now);
            if keys.len() >= self.capacity {
                return Err(LimitError::TooManyKeys);
            }
        }
        keys.insert(key.clone(), next);
        Ok(())
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        lock(&self.full_at).len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets keys whose burst is whole again. Changes no decision.
    pub fn sweep(&self, now: Instant) {
        let now = nanos_since(self.origin, now);
        let mut keys = lock(&self.full_at);
        keys.retain(|_, full_at| *full_at > now);
        if keys.capacity() > 2 * keys.len() {
            keys.shrink_to_fit();
        }
    }
}

fn nanos_since(origin: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(origin).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use proptest::prelude::*;
    use snakehouse_base::{Clock as _, ManualClock};

    use super::*;

    proptest! {
        /// For every interval of any history: admitted cost is at most burst + length / per.
        #[test]
        fn no_interval_admits_more_than_burst_and_rate(
            per in 1u64..20,
            burst in 1u64..10,
            asks in prop::collection::vec((0u64..30, 1u64..12), 0..120),
        ) {
            let clock = ManualClock::new();
            let limit = Limit::new(Rate::new(Duration::from_nanos(per), burst).unwrap(), clock.now());
            let mut admitted: Vec<(u64, u64)> = Vec::new();
            let mut now = 0;
            for (step, cost) in asks {
                clock.advance(Duration::from_nanos(step));
                now += step;
                match limit.try_take(cost, clock.now()) {
                    Ok(()) => admitted.push((now, cost)),
                    Err(LimitError::TooLarge { .. }) => prop_assert!(cost > burst),
                    Err(LimitError::Limited { retry_in }) => {
                        // Exactly then, and not a nanosecond earlier, the same cost fits.
                        let fits = |at: u64| {
                            let probe = Limit::new(limit.shared.rate, limit.shared.origin);
                            let full = limit.shared.full_at.load(Ordering::SeqCst);
                            probe.shared.full_at.store(full, Ordering::SeqCst);
                            let at = limit.shared.origin + Duration::from_nanos(at);
                            probe.try_take(cost, at).is_ok()
                        };
                        let at = now + u64::try_from(retry_in.as_nanos()).unwrap();
                        prop_assert!(fits(at) && !fits(at - 1));
                    }
                    Err(other) => prop_assert!(false, "{other}"),
                }
            }
            for (n, (from, _)) in admitted.iter().enumerate() {
                let mut sum = 0;
                for (at, cost) in &admitted[n..] {
                    sum += cost;
                    prop_assert!(sum <= burst + (at - from) / per, "{admitted:?}");
                }
            }
        }

        /// Against the list of what was admitted: a cost fits if, counted from every earlier
        /// admission on, the sum stays within the burst and what was refilled since; a new key fits
        /// if fewer keys than the capacity are in use.
        #[test]
        fn keys_agree_with_a_list_of_admissions(
            per in 1u64..20,
            burst in 1u64..6,
            capacity in 1usize..4,
            asks in prop::collection::vec((0u8..5, 0u64..30, 1u64..8), 0..150),
        ) {
            let clock = ManualClock::new();
            let rate = Rate::new(Duration::from_nanos(per), burst).unwrap();
            let limit = KeyedLimit::new(rate, capacity, clock.now()).unwrap();
            let mut admitted: HashMap<u8, Vec<(u64, u64)>> = HashMap::new();
            let mut now = 0;
            // How much of the burst a key has used up, in time.
            let used = |list: &[(u64, u64)], now: u64| {
                let from = |n: usize| {
                    let sum: u64 = list[n..].iter().map(|(_, cost)| cost * per).sum();
                    sum.saturating_sub(now - list[n].0)
                };
                (0..list.len()).map(from).max().unwrap_or_default()
            };
            let mut known: std::collections::HashSet<u8> = std::collections::HashSet::new();
            for (key, step, cost) in asks {
                clock.advance(Duration::from_nanos(step));
                now += step;
                let list = admitted.entry(key).or_default();
                let used_up = used(list, now);
                let over = (used_up + cost * per).saturating_sub(burst * per);
                let expected = if cost > burst {
                    Err(LimitError::TooLarge { cost, burst })
                } else if over > 0 {
                    Err(LimitError::Limited { retry_in: Duration::from_nanos(over) })
                } else {
                    if !known.contains(&key) && known.len() >= capacity {
                        known.retain(|other| used(&admitted[other], now) > 0);
                    }
                    if known.contains(&key) || known.len() < capacity {
                        known.insert(key);
                        admitted.entry(key).or_default().push((now, cost));
                        Ok(())
                    } else {
                        Err(LimitError::TooManyKeys)
                    }
                };
                prop_assert_eq!(limit.try_take(&key, cost, clock.now()), expected);
                prop_assert_eq!(limit.len(), known.len());
            }
        }

        /// Forgetting idle keys changes no decision.
        #[test]
        fn a_sweep_changes_no_decision(
            asks in prop::collection::vec((0u8..4, 0u64..40, any::<bool>()), 0..200),
        ) {
            let clock = ManualClock::new();
            let rate = Rate::new(Duration::from_millis(10), 3).unwrap();
            let swept = KeyedLimit::new(rate, 100, clock.now()).unwrap();
            let kept = KeyedLimit::new(rate, 100, clock.now()).unwrap();
            for (key, step, sweep) in asks {
                clock.advance(Duration::from_millis(step));
                if sweep {
                    swept.sweep(clock.now());
                }
                let now = clock.now();
                prop_assert_eq!(swept.try_take(&key, 1, now), kept.try_take(&key, 1, now));
            }
        }
    }

    /// A1: many idle keys (soak: a million, `SNAKEHOUSE_ITERATIONS`) need no memory after one sweep.
    #[test]
    fn idle_keys_are_forgotten_by_one_sweep() {
        let keys = std::env::var("SNAKEHOUSE_ITERATIONS").ok().and_then(|n| n.parse().ok());
        let keys: usize = keys.unwrap_or(100_000);
        let clock = ManualClock::new();
        let rate = Rate::new(Duration::from_secs(1), 1).unwrap();
        let limit = KeyedLimit::new(rate, keys, clock.now()).unwrap();
        for key in 0..keys {
            limit.try_take(&key, 1, clock.now()).unwrap();
        }
        assert_eq!(limit.try_take(&keys, 1, clock.now()), Err(LimitError::TooManyKeys));
        limit.sweep(clock.now());
        assert_eq!(limit.len(), keys, "all are in use");
        clock.advance(Duration::from_secs(1));
        limit.sweep(clock.now());
        assert!(limit.is_empty());
        assert!(lock(&limit.full_at).capacity() < keys / 100);
    }

    #[test]
    fn keys_in_use_are_never_forgotten_and_idle_ones_make_room() {
        let clock = ManualClock::new();
        let rate = Rate::new(Duration::from_secs(1), 1).unwrap();
        let limit = KeyedLimit::new(rate, 2, clock.now()).unwrap();
        assert!(limit.try_take(&1, 1, clock.now()).is_ok());
        assert!(limit.try_take(&2, 1, clock.now()).is_ok());
        assert_eq!(limit.try_take(&3, 1, clock.now()), Err(LimitError::TooManyKeys));
        clock.advance(Duration::from_secs(1));
        assert!(limit.try_take(&3, 1, clock.now()).is_ok());
        assert_eq!(limit.len(), 1);
    }
}
