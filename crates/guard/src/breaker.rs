//! The breaker around calls to one target.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snakehouse_base::{Chance, Coded, Kind};

use crate::ConfigError;
use crate::breaker_core::{Admitted, BreakerConfig, BreakerCore, BreakerState, Effect, Verdict};
use crate::event;
use crate::sync::{Mutex, lock};

/// Stops calling what is down, and finds out with single probes when it is back.
///
/// A handle: clones share the state. Every admitted call holds a [`BreakerPermit`]; one that is
/// dropped without a verdict (a cancelled call, a panic) is ignored and gives a probe's slot back.
/// Calls that were admitted before the last change of state change nothing when they end.
#[derive(Clone, Debug)]
pub struct Breaker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    core: Mutex<BreakerCore>,
    chance: Chance,
}

/// The right to make one call. Tell how it went.
#[must_use = "a permit that is dropped at once is ignored by the breaker"]
#[derive(Debug)]
pub struct BreakerPermit {
    shared: Arc<Shared>,
    admitted: Option<Admitted>,
}

/// The breaker is open, or half open with all probes out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is down; the next probe may go in {retry_in:?}")]
pub struct BreakerOpen {
    /// Name of the breaker.
    pub name: String,
    /// When another call may be admitted.
    pub retry_in: Duration,
}

impl Coded for BreakerOpen {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }

    fn code(&self) -> &'static str {
        "breaker_open"
    }
}

impl Breaker {
    /// A closed breaker for the target `name`.
    ///
    /// # Errors
    /// [`ConfigError`] names the rule that `config` breaks.
    pub fn new(name: &str, config: BreakerConfig) -> Result<Self, ConfigError> {
        Self::with_chance(name, config, Chance::from_entropy())
    }

    /// The same with a seeded stream for the jitter of the open time.
    ///
    /// # Errors
    /// As [`new`](Breaker::new).
    pub fn with_chance(
        name: &str,
        config: BreakerConfig,
        chance: Chance,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let core = Mutex::new(BreakerCore::new(config));
        Ok(Self { shared: Arc::new(Shared { name: name.to_owned(), core, chance }) })
    }

    /// Admits a call now, on the runtime's clock.
    ///
    /// # Errors
    /// [`BreakerOpen`] says when to ask again.
    pub fn try_admit(&self) -> Result<BreakerPermit, BreakerOpen> {
        self.try_admit_at(tokio::time::Instant::now().into_std())
    }

    /// Admits a call at `now`.
    ///
    /// # Errors
    /// [`BreakerOpen`] says when to ask again.
    pub fn try_admit_at(&self, now: Instant) -> Result<BreakerPermit, BreakerOpen> {
        let (admitted, began) = {
            let mut core = lock(&self.shared.core);
            let before = core.generation();
            let admitted = core.admit(now);
            (admitted, Some(core.generation()).filter(|generation| *generation != before))
        };
        if let Some(generation) = began {
            event::breaker_half_open(&self.shared.name, generation);
        }
        match admitted {
            Ok(admitted) => {
                Ok(BreakerPermit { shared: self.shared.clone(), admitted: Some(admitted) })
            }
            Err(retry_at) => {
                let retry_in = retry_at.saturating_duration_since(now);
                event::breaker_refused(&self.shared.name, retry_in);
                Err(BreakerOpen { name: self.shared.name.clone(), retry_in })
            }
        }
    }

    /// Runs `call` if it is admitted, and takes its verdict from `judge`.
    ///
    /// Dropping the future is ignored by the breaker.
    ///
    /// # Errors
    /// [`BreakerOpen`] if it was not admitted; the outer result is the call's own outcome.
    pub async fn guard<T>(
        &self,
        call: impl Future<Output = T>,
        judge: impl FnOnce(&T) -> Verdict,
    ) -> Result<T, BreakerOpen> {
        let permit = self.try_admit()?;
        let outcome = call.await;
        permit.resolve(judge(&outcome));
        Ok(outcome)
    }

    /// What it lets through. An open breaker whose time is over shows as open until the next call.
    pub fn state(&self) -> BreakerState {
        lock(&self.shared.core).state()
    }

    /// Whether it is closed and has nothing to remember: forgetting it changes nothing.
    pub fn is_fresh(&self) -> bool {
        lock(&self.shared.core).is_fresh()
    }

    /// Closes it and forgets its history.
    pub fn reset(&self) {
        let generation = {
            let mut core = lock(&self.shared.core);
            core.reset();
            core.generation()
        };
        event::breaker_closed(&self.shared.name, generation);
    }

    /// How many verdicts came too late to count: the breaker had changed since their calls were
    /// admitted.
    pub fn late(&self) -> u64 {
        lock(&self.shared.core).late()
    }

    /// The target.
    pub fn name(&self) -> &str {
        &self.shared.name
    }
}

impl BreakerPermit {
    /// The target works.
    pub fn success(self) {
        self.resolve(Verdict::Success);
    }

    /// The target does not work.
    pub fn failure(self) {
        self.resolve(Verdict::Failure);
    }

    /// Tells how the call went, on the runtime's clock.
    pub fn resolve(self, verdict: Verdict) {
        self.resolve_at(verdict, tokio::time::Instant::now().into_std());
    }

    /// Tells how the call went at `now`.
    pub fn resolve_at(mut self, verdict: Verdict, now: Instant) {
        if let Some(admitted) = self.admitted.take() {
            self.settle(&admitted, verdict, now);
        }
    }

    fn settle(&self, admitted: &Admitted, verdict: Verdict, now: Instant) {
        let unit = self.shared.chance.next_unit();
        let (effect, generation) = {
            let mut core = lock(&self.shared.core);
            (core.resolve(admitted, verdict, now, unit), core.generation())
        };
        let name = &self.shared.name;
        match effect {
            Effect::None => {}
            Effect::Late => event::breaker_late(name),
            Effect::Changed(BreakerState::Open) => event::breaker_opened(name, generation),
            Effect::Changed(_) => event::breaker_closed(name, generation),
        }
    }
}

impl Drop for BreakerPermit {
    fn drop(&mut self) {
        if let Some(admitted) = self.admitted.take() {
            lock(&self.shared.core).forget(&admitted);
            event::breaker_abandoned(&self.shared.name);
        }
    }
}
