//! Why something that was running is not running any more.

use std::any::Any;
use std::fmt;

use snakehouse_base::{Coded, Kind};

/// The error a child may end with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why an incarnation of a child ended. `Display` is a sentence fragment for logs and the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// It returned `Ok`.
    Finished,
    /// It returned an error; the text holds the whole chain of causes.
    Failed(String),
    /// It panicked; the text is the payload.
    Panicked(String),
    /// It did not report readiness within the bound of its spec.
    NotReady,
    /// A scope that belonged to it failed.
    ScopeFailed(String),
    /// It was told to stop and did so within its grace.
    Stopped,
    /// It was told to stop and was dropped when its grace had passed.
    Aborted,
}

impl Exit {
    /// Whether a transient child is restarted after this exit.
    pub const fn is_failure(&self) -> bool {
        !matches!(self, Exit::Finished | Exit::Stopped)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Finished => f.write_str("finished"),
            Exit::Failed(why) => write!(f, "failed: {why}"),
            Exit::Panicked(what) => write!(f, "panicked: {what}"),
            Exit::NotReady => f.write_str("was not ready in time"),
            Exit::ScopeFailed(why) => write!(f, "lost a scope of its own: {why}"),
            Exit::Stopped => f.write_str("stopped"),
            Exit::Aborted => f.write_str("aborted after its grace"),
        }
    }
}

/// A scope gave up: something in it was restarted too often.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "scope {scope} gave up because {member} failed {restarts} times too close together; last: {last}"
)]
pub struct ScopeFailure {
    /// Path of the scope that failed first.
    pub scope: String,
    /// Name of the child or group that exceeded its intensity.
    pub member: String,
    /// Restarts of that member so far.
    pub restarts: u64,
    /// Its last exit.
    pub last: Exit,
}

impl Coded for ScopeFailure {
    fn kind(&self) -> Kind {
        Kind::Internal
    }

    fn code(&self) -> &'static str {
        "restart_intensity"
    }

    fn hint(&self) -> Option<String> {
        Some("the last exit names the cause; restarting cannot repair it".to_owned())
    }
}

/// The text of a panic payload.
pub(crate) fn payload_text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&'static str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a payload that is not text".to_owned())
}

/// An error with all its causes, as one line.
pub(crate) fn chain_text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
