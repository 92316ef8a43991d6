//! Asking until something is done.

use std::future::Future;
use std::time::Duration;

use snakehouse_base::{Backoff, Coded, Deadline, Jitter, Row};
use tokio::time::Instant;

use crate::event;
use crate::retry::{History, Retry, Voice};
use crate::retry_core::{Advice, GaveUp, after_failure};

/// What one poll brought.
#[derive(Debug)]
pub enum Poll<T, E> {
    /// It is done.
    Done(T),
    /// It is not done. `mark` says what the answer was (a position, a hash of a state): an answer
    /// with another mark than the last one is progress.
    Pending {
        /// Equal for equal answers.
        mark: u64,
    },
    /// The service wants fewer polls.
    Throttled {
        /// The pause it asks for.
        after: Option<Duration>,
    },
    /// The poll failed.
    Failed(E),
}

/// How often to ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PollProfile {
    /// Pauses grow from 100 ms to 5 s while the answer stays the same, and a poll that the service
    /// held counts as its own pause.
    #[default]
    Paced,
    /// As the official client asks: at once, with a floor of 10 ms so that a service that answers
    /// at once does not make a busy loop.
    Parity,
}

/// Polls until done, with a pause of its own for each cause: not done, throttled, failed.
///
/// Failures follow the [`Retry`] policy (its bounds, its progress, its pauses); any answer ends a
/// row of failures. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Poller {
    retry: Retry,
    profile: PollProfile,
}

/// The pauses while the answer stays the same.
const PACED: Backoff =
    match Backoff::new(Duration::from_millis(100), Duration::from_secs(5), Jitter::Half) {
        Ok(law) => law,
        Err(_) => unreachable!(),
    };

/// The pauses while the service wants fewer polls and does not say how few.
const THROTTLED: Backoff =
    match Backoff::new(Duration::from_secs(1), Duration::from_secs(30), Jitter::Half) {
        Ok(law) => law,
        Err(_) => unreachable!(),
    };

const POLL: Voice = Voice {
    started: event::poll_started,
    succeeded: event::poll_succeeded,
    gave_up: event::poll_gave_up,
    dropped: event::poll_dropped,
};

/// Shortest pause between two polls.
const FLOOR: Duration = Duration::from_millis(10);

impl Poller {
    /// A poller whose failures follow `retry`.
    pub fn new(retry: Retry, profile: PollProfile) -> Self {
        Self { retry, profile }
    }

    /// Runs `poll` (numbered from 0) until it is done, fails for good, or a bound of the retry
    /// policy is reached. A poll that is still running then is dropped.
    ///
    /// Dropping the future stops everything.
    ///
    /// # Errors
    /// [`GaveUp`] with the last error and the history.
    pub async fn run<T, E, F>(
        &self,
        deadline: Deadline,
        mut poll: impl FnMut(u32) -> F,
        advise: impl Fn(&E) -> Advice,
    ) -> Result<T, GaveUp<E>>
    where
        E: Coded,
        F: Future<Output = Poll<T, E>>,
    {
        let mut history = History::new(&POLL);
        let bounds = self.retry.bounds(history.start, deadline);
        let mut rows = Rows::default();
        loop {
            let number = history.attempts;
            history.attempts = number.saturating_add(1);
            let asked_at = Instant::now();
            let outcome = tokio::select! {
                biased;
                outcome = poll(number) => outcome,
                reason = self.retry.cut_off(&bounds, history.start) => {
                    return Err(history.gave_up(reason));
                }
            };
            let unit = self.retry.unit();
            let (cause, pause) = match outcome {
                Poll::Done(value) => {
                    self.retry.record_progress();
                    history.succeeded();
                    return Ok(value);
                }
                Poll::Pending { mark } => {
                    if rows.pending_again(mark) {
                        self.retry.record_progress();
                    }
                    let pause = self.pending_pause(rows.pending, unit);
                    ("pending", pause.saturating_sub(asked_at.elapsed()))
                }
                Poll::Throttled { after } => {
                    let law = THROTTLED.delay(rows.throttled_again(), unit);
                    ("throttled", after.map_or(law, |after| after.min(bounds.ceiling).max(law)))
                }
                Poll::Failed(error) => {
                    let advice = self.retry.heard(advise(&error));
                    history.failed(error);
                    let now = Instant::now().into_std();
                    let (before, law) = rows.failed_again(self.retry.law(), unit);
                    match after_failure(&bounds, before, law, advice, now, unit) {
                        Ok(pause) => ("failed", pause),
                        Err(reason) => return Err(history.gave_up(reason)),
                    }
                }
            };
            let pause = pause.max(FLOOR);
            event::poll_paused(cause, pause);
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                reason = self.retry.cut_off(&bounds, history.start) => {
                    return Err(history.gave_up(reason));
                }
            }
        }
    }

    fn pending_pause(&self, row: u32, unit: f64) -> Duration {
        match self.profile {
            PollProfile::Paced => PACED.delay(row, unit),
            PollProfile::Parity => FLOOR,
        }
    }
}

/// How many polls in a row had the same cause.
#[derive(Debug, Default)]
struct Rows {
    pending: u32,
    throttled: u32,
    failed: u32,
    failures: Row,
    mark: Option<u64>,
}

impl Rows {
    /// Whether the answer is news. The first answer is not: it only says that the service is there.
    fn pending_again(&mut self, mark: u64) -> bool {
        let known = self.mark.replace(mark);
        let news = known.is_some_and(|known| known != mark);
        self.pending = if known == Some(mark) { self.pending.saturating_add(1) } else { 0 };
        self.throttled = 0;
        self.answered();
        news
    }

    fn throttled_again(&mut self) -> u32 {
        self.answered();
        self.throttled = self.throttled.saturating_add(1);
        self.throttled - 1
    }

    /// How many failures came before in this row, and the pause of the law after this one.
    fn failed_again(&mut self, law: &Backoff, unit: f64) -> (u32, Duration) {
        let before = self.failed;
        self.failed = before.saturating_add(1);
        (before, law.next(&mut self.failures, unit))
    }

    /// Any answer ends a row of failures.
    fn answered(&mut self) {
        self.failed = 0;
        self.failures = Row::default();
    }
}
