//! What went wrong, in one word, and whether trying again can help.
//!
//! Every error enum of every crate answers [`Coded::kind`]. Retryability is decided here and
//! nowhere else, so two clients can never disagree about it.

use std::fmt;

/// The family an error belongs to. Each has one stable name and one retry rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The caller's input breaks a rule; the same input fails again.
    InvalidInput,
    /// The named thing does not exist.
    NotFound,
    /// The request contradicts what is already recorded.
    Conflict,
    /// The credential is missing or wrong.
    Unauthenticated,
    /// The credential is known and may not do this.
    Forbidden,
    /// A limit is reached right now.
    Saturated,
    /// The other side is not there right now.
    Unavailable,
    /// The deadline of the call passed.
    Deadline,
    /// The caller gave up.
    Cancelled,
    /// The worker that ran the call died.
    WorkerDied,
    /// The call may or may not have taken effect.
    OutcomeUnknown,
    /// User code (a tool, a program) raised.
    Tool,
    /// The environment lacks something: an interpreter, a directory, a permission.
    Environment,
    /// Stored bytes do not say what they must.
    Corrupt,
    /// A bug in Snakehouse.
    Internal,
}

/// Whether an attempt may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same attempt fails again.
    Never,
    /// A later attempt can succeed, and repeating it is harmless.
    Later,
    /// A later attempt can succeed, but only an idempotent call may be repeated.
    IfIdempotent,
}

impl Kind {
    /// Every kind, for tables and tests.
    pub const ALL: [Kind; 15] = [
        Kind::InvalidInput,
        Kind::NotFound,
        Kind::Conflict,
        Kind::Unauthenticated,
        Kind::Forbidden,
        Kind::Saturated,
        Kind::Unavailable,
        Kind::Deadline,
        Kind::Cancelled,
        Kind::WorkerDied,
        Kind::OutcomeUnknown,
        Kind::Tool,
        Kind::Environment,
        Kind::Corrupt,
        Kind::Internal,
    ];

    /// The stable name, as it stands in JSON and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::InvalidInput => "invalid_input",
            Kind::NotFound => "not_found",
            Kind::Conflict => "conflict",
            Kind::Unauthenticated => "unauthenticated",
            Kind::Forbidden => "forbidden",
            Kind::Saturated => "saturated",
            Kind::Unavailable => "unavailable",
            Kind::Deadline => "deadline",
            Kind::Cancelled => "cancelled",
            Kind::WorkerDied => "worker_died",
            Kind::OutcomeUnknown => "outcome_unknown",
            Kind::Tool => "tool",
            Kind::Environment => "environment",
            Kind::Corrupt => "corrupt",
            Kind::Internal => "internal",
        }
    }

    /// The kind of this name, as [`as_str`](Kind::as_str) writes it.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The one table of retryability.
    pub const fn retry(self) -> Retry {
        match self {
            Kind::Saturated | Kind::Unavailable => Retry::Later,
            Kind::WorkerDied | Kind::OutcomeUnknown => Retry::IfIdempotent,
            Kind::InvalidInput
            | Kind::NotFound
            | Kind::Conflict
            | Kind::Unauthenticated
            | Kind::Forbidden
            | Kind::Deadline
            | Kind::Cancelled
            | Kind::Tool
            | Kind::Environment
            | Kind::Corrupt
            | Kind::Internal => Retry::Never,
        }
    }

    /// The exit code of the command line for a failure of this kind.
    ///
    /// 2 wrong input, 3 not found or conflict, 4 not allowed, 5 try later, 6 deadline or
    /// cancelled, 7 a worker or tool failed, 8 the environment lacks something, 9 files are damaged
    /// or incomplete, 70 a bug.
    pub const fn exit_code(self) -> u8 {
        match self {
            Kind::InvalidInput => 2,
            Kind::NotFound | Kind::Conflict => 3,
            Kind::Unauthenticated | Kind::Forbidden => 4,
            Kind::Saturated | Kind::Unavailable => 5,
            Kind::Deadline | Kind::Cancelled => 6,
            Kind::WorkerDied | Kind::OutcomeUnknown | Kind::Tool => 7,
            Kind::Environment => 8,
            Kind::Corrupt => 9,
            Kind::Internal => 70,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What every public error of the system can say about itself.
///
/// `Display` says what happened and why; [`hint`](Coded::hint) says what to do.
pub trait Coded: std::error::Error {
    /// The family, which decides retry and exit code.
    fn kind(&self) -> Kind;
    /// A stable machine-readable name such as `"worker_died"` or `"interpreter_too_old"`.
    fn code(&self) -> &'static str;
    /// What the reader can do about it, if anything.
    fn hint(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_distinct() {
        let names: HashSet<_> = Kind::ALL.iter().map(|k| k.as_str()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        assert!(Kind::ALL.into_iter().all(|kind| Kind::parse(kind.as_str()) == Some(kind)));
        assert_eq!(Kind::parse("mood"), None);
    }

    #[test]
    fn a_cancelled_or_expired_call_is_never_repeated() {
        assert_eq!(Kind::Deadline.retry(), Retry::Never);
        assert_eq!(Kind::Cancelled.retry(), Retry::Never);
        assert_eq!(Kind::WorkerDied.retry(), Retry::IfIdempotent);
    }

    #[test]
    fn no_failure_exits_with_zero_or_one() {
        assert!(Kind::ALL.iter().all(|k| k.exit_code() > 1));
    }
}
