//! What happens after a failed attempt: pure decisions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use snakehouse_base::{Coded, Kind, Retry as Rule};

/// What an error says about another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// It cannot help.
    Stop,
    /// It can help, after the pause of the policy.
    Retry,
    /// It can help, and not before this pause.
    RetryAfter(Duration),
}

impl Advice {
    /// The advice of the one retry table for an error's kind.
    pub const fn of_kind(kind: Kind, idempotent: bool) -> Self {
        match kind.retry() {
            Rule::Later => Advice::Retry,
            Rule::IfIdempotent if idempotent => Advice::Retry,
            Rule::IfIdempotent | Rule::Never => Advice::Stop,
        }
    }
}

/// Why there is no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The error says that another attempt cannot help.
    NotRetryable,
    /// All attempts of the policy are used.
    Attempts,
    /// The retry budget of the target is spent.
    Budget,
    /// The call has taken as long as the policy is patient, or no attempt fits before that.
    Patience,
    /// The caller's deadline has passed, or no attempt fits before it.
    Deadline,
    /// Nothing in the pool has progressed for its limit.
    NoProgress,
}

/// A call that was given up, with its history.
#[derive(Debug, thiserror::Error)]
#[error("gave up after {attempts} attempts in {elapsed:?} ({reason:?}){}", last_text(.last))]
pub struct GaveUp<E: std::fmt::Display> {
    /// Why.
    pub reason: Reason,
    /// The last error; `None` if the first attempt was still running.
    pub last: Option<E>,
    /// Attempts that were begun.
    pub attempts: u32,
    /// Time from the call to this error.
    pub elapsed: Duration,
    /// How many attempts failed with each kind, by [`Kind::as_str`].
    pub kinds: BTreeMap<&'static str, u32>,
}

fn last_text<E: std::fmt::Display>(last: &Option<E>) -> String {
    last.as_ref().map(|error| format!("; last: {error}")).unwrap_or_default()
}

impl<E: Coded> Coded for GaveUp<E> {
    fn kind(&self) -> Kind {
        match (self.reason, &self.last) {
            (Reason::Deadline, _) | (_, None) => Kind::Deadline,
            (_, Some(last)) => last.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match (self.reason, &self.last) {
            (Reason::Deadline, _) | (_, None) => "retry_deadline",
            (Reason::NoProgress, _) => "no_progress",
            (_, Some(last)) => last.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        self.last.as_ref().and_then(Coded::hint)
    }
}

/// The limits of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) retries: Option<u32>,
    pub(crate) patience: Option<Instant>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) ceiling: Duration,
}

impl Bounds {
    /// When an attempt is cut off, and why.
    pub(crate) fn end(&self) -> Option<(Instant, Reason)> {
        let patience = self.patience.map(|at| (at, Reason::Patience));
        let deadline = self.deadline.map(|at| (at, Reason::Deadline));
        match (patience, deadline) {
            (Some(a), Some(b)) => Some(if a.0 < b.0 { a } else { b }),
            (a, b) => a.or(b),
        }
    }
}

/// The pause after failure number `failures` (from 0), or why there is none. `law` is the pause that
/// the back-off law gives, and the least there will be.
pub(crate) fn after_failure(
    bounds: &Bounds,
    failures: u32,
    law: Duration,
    advice: Advice,
    now: Instant,
    chance: f64,
) -> Result<Duration, Reason> {
    let asked = match advice {
        Advice::Stop => return Err(Reason::NotRetryable),
        Advice::Retry => None,
        Advice::RetryAfter(asked) => Some(asked.min(bounds.ceiling)),
    };
    if bounds.retries.is_some_and(|retries| failures >= retries) {
        return Err(Reason::Attempts);
    }
    // Callers that were told the same pause must not come back together; never before it.
    let spread = |asked: Duration| {
        asked.saturating_add((asked / 4).min(Duration::from_secs(1)).mul_f64(chance))
    };
    let pause = asked.map_or(law, |asked| spread(asked).max(law));
    match (bounds.end(), now.checked_add(pause)) {
        (None, _) => Ok(pause),
        (Some((end, _)), Some(next)) if next < end => Ok(pause),
        (Some((_, reason)), _) => Err(reason),
    }
}
