//! Repeating an attempt until it succeeds or should not be repeated.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use snakehouse_base::{Backoff, Chance, Coded, Deadline, Jitter, Row};
use tokio::time::Instant;

use crate::budget::Budget;
use crate::event;
use crate::progress::Progress;
use crate::retry_core::{Advice, Bounds, GaveUp, Reason, after_failure};

/// A retry policy. Cheap to clone; clones share budget, progress and chance.
///
/// Defaults: any number of retries, no limit but the caller's deadline, Retry-After honoured up to
/// 60 s, no budget, no progress limit.
#[derive(Clone, Debug)]
pub struct Retry {
    backoff: Backoff,
    retries: Option<u32>,
    patience: Option<Duration>,
    ceiling: Duration,
    budget: Option<Budget>,
    progress: Option<Progress>,
    chance: Arc<Chance>,
}

/// Pauses towards a service on another machine: 500 ms doubling to 10 s, less up to a quarter.
const REMOTE: Backoff =
    match Backoff::new(Duration::from_millis(500), Duration::from_secs(10), Jitter::Quarter) {
        Ok(law) => law,
        Err(_) => unreachable!(),
    };

impl Retry {
    /// The policy for calls to a service on another machine: pauses of 500 ms doubling to 10 s, less
    /// up to a quarter by chance.
    pub fn remote() -> Self {
        Self::new(REMOTE)
    }

    /// A policy with these pauses.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            retries: None,
            patience: None,
            ceiling: Duration::from_secs(60),
            budget: None,
            progress: None,
            chance: Arc::new(Chance::from_entropy()),
        }
    }

    /// At most this many attempts after the first.
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = Some(retries);
        self
    }

    /// At most this long from the call, whatever the caller's deadline.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// The longest Retry-After that is honoured; a longer one is shortened to this.
    #[must_use]
    pub fn retry_after_ceiling(mut self, ceiling: Duration) -> Self {
        self.ceiling = ceiling;
        self
    }

    /// Retries spend from this budget.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Calls are stuck, and cancelled, when nothing in the pool has progressed for its limit; a
    /// success is progress.
    #[must_use]
    pub fn progress(mut self, progress: Progress) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Jitter draws from this stream, for replayable tests.
    #[must_use]
    pub fn chance(mut self, chance: Chance) -> Self {
        self.chance = Arc::new(chance);
        self
    }

    /// Runs `attempt` (numbered from 0) until it succeeds, `advise` says to stop, or a bound is
    /// reached. An attempt that is still running then is dropped. A success that arrives is
    /// returned, never turned into a timeout. Nothing is waited for that cannot help: the call ends
    /// at once when the next attempt could only begin past the deadline.
    ///
    /// Dropping the future stops everything.
    ///
    /// # Errors
    /// [`GaveUp`] with the last error and the history.
    pub async fn run<T, E, F>(
        &self,
        deadline: Deadline,
        mut attempt: impl FnMut(u32) -> F,
        advise: impl Fn(&E) -> Advice,
    ) -> Result<T, GaveUp<E>>
    where
        E: Coded,
        F: Future<Output = Result<T, E>>,
    {
        let mut history = History::new(&RETRY);
        let mut row = Row::default();
        let bounds = self.bounds(history.start, deadline);
        if let Some(budget) = &self.budget {
            budget.earn();
        }
        loop {
            let number = history.attempts;
            history.attempts = number.saturating_add(1);
            let error = tokio::select! {
                biased;
                outcome = attempt(number) => match outcome {
                    Ok(value) => {
                        self.record_progress();
                        history.succeeded();
                        return Ok(value);
                    }
                    Err(error) => error,
                },
                reason = self.cut_off(&bounds, history.start) => {
                    return Err(history.gave_up(reason));
                }
            };
            let advice = self.heard(advise(&error));
            history.failed(error);
            let now = Instant::now().into_std();
            let unit = self.chance.next_unit();
            let law = self.backoff.next(&mut row, unit);
            let pause = after_failure(&bounds, number, law, advice, now, unit);
            let pause = pause.and_then(|pause| match &self.budget {
                Some(budget) if !budget.try_retry() => Err(Reason::Budget),
                _ => Ok(pause),
            });
            let pause = match pause {
                Ok(pause) => pause,
                Err(reason) => return Err(history.gave_up(reason)),
            };
            event::retry_paused(number, pause);
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                reason = self.cut_off(&bounds, history.start) => {
                    return Err(history.gave_up(reason));
                }
            }
        }
    }

    pub(crate) fn bounds(&self, start: Instant, deadline: Deadline) -> Bounds {
        Bounds {
            retries: self.retries,
            patience: self.patience.and_then(|patience| start.into_std().checked_add(patience)),
            deadline: deadline.instant(),
            ceiling: self.ceiling,
        }
    }

    /// An advice, told if the policy does not follow it.
    pub(crate) fn heard(&self, advice: Advice) -> Advice {
        if let Advice::RetryAfter(asked) = advice
            && asked > self.ceiling
        {
            event::retry_clipped(asked, self.ceiling);
        }
        advice
    }

    pub(crate) fn record_progress(&self) {
        if let Some(progress) = &self.progress {
            progress.record(Instant::now().into_std());
        }
    }

    pub(crate) fn law(&self) -> &Backoff {
        &self.backoff
    }

    pub(crate) fn unit(&self) -> f64 {
        self.chance.next_unit()
    }

    /// Resolves when the call has to end, with the reason.
    pub(crate) async fn cut_off(&self, bounds: &Bounds, start: Instant) -> Reason {
        let end = async {
            match bounds.end() {
                Some((at, reason)) => {
                    tokio::time::sleep_until(Instant::from_std(at)).await;
                    reason
                }
                None => std::future::pending().await,
            }
        };
        let stuck = async {
            let stuck_at = || self.progress.as_ref()?.stuck_at(start.into_std());
            while let Some(at) = stuck_at().map(Instant::from_std) {
                if at <= Instant::now() {
                    return Reason::NoProgress;
                }
                tokio::time::sleep_until(at).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            reason = end => reason,
            reason = stuck => reason,
        }
    }
}

/// The events of one kind of call.
pub(crate) struct Voice {
    pub(crate) started: fn(),
    pub(crate) succeeded: fn(u32, Duration),
    pub(crate) gave_up: fn(Reason, u32, Duration),
    pub(crate) dropped: fn(u32, Duration),
}

const RETRY: Voice = Voice {
    started: event::retry_started,
    succeeded: event::retry_succeeded,
    gave_up: event::retry_gave_up,
    dropped: event::retry_dropped,
};

/// What has happened in one call so far. One that is dropped says that its call was.
pub(crate) struct History<E> {
    voice: &'static Voice,
    pub(crate) start: Instant,
    pub(crate) attempts: u32,
    last: Option<E>,
    kinds: BTreeMap<&'static str, u32>,
    over: bool,
}

impl<E> History<E> {
    pub(crate) fn new(voice: &'static Voice) -> Self {
        (voice.started)();
        let (start, kinds) = (Instant::now(), BTreeMap::new());
        Self { voice, start, attempts: 0, last: None, kinds, over: false }
    }

    pub(crate) fn succeeded(mut self) {
        self.over = true;
        (self.voice.succeeded)(self.attempts, self.start.elapsed());
    }
}

impl<E: Coded> History<E> {
    pub(crate) fn failed(&mut self, error: E) {
        *self.kinds.entry(error.kind().as_str()).or_default() += 1;
        self.last = Some(error);
    }

    pub(crate) fn gave_up(mut self, reason: Reason) -> GaveUp<E> {
        self.over = true;
        let elapsed = self.start.elapsed();
        (self.voice.gave_up)(reason, self.attempts, elapsed);
        GaveUp {
            reason,
            last: self.last.take(),
            attempts: self.attempts,
            elapsed,
            kinds: std::mem::take(&mut self.kinds),
        }
    }
}

impl<E> Drop for History<E> {
    fn drop(&mut self) {
        if !self.over {
            (self.voice.dropped)(self.attempts, self.start.elapsed());
        }
    }
}
