//! What a host tool fails with.

use std::fmt;

use snakehouse_base::{Coded, Kind};
use snakehouse_wire::{Failure, Related};

use crate::call::CallError;

/// The failure of a host tool. In Python it is a `snakehouse.HostToolError` with this kind, code,
/// message and hint; if the tool there does not catch it, it travels on to the tool's own caller.
///
/// Made of any error that has a kind and a code, or of its parts. A [`CallError`] keeps what Python
/// said as its cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostError {
    failure: Box<Failure>,
}

impl HostError {
    /// A failure of this kind. `code` is a stable name for programs.
    pub fn new(kind: Kind, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { failure: Box::new(Failure::new(kind, code, message)) }
    }

    /// What an error of this house says of itself.
    pub fn of(error: &(impl Coded + fmt::Display)) -> Self {
        let mut failure = Failure::new(error.kind(), error.code(), error.to_string());
        failure.hint = error.hint();
        Self { failure: Box::new(failure) }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.failure.hint = Some(hint.into());
        self
    }

    /// As it travels.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    pub(crate) fn into_failure(self) -> Failure {
        *self.failure
    }
}

impl From<CallError> for HostError {
    fn from(error: CallError) -> Self {
        let mut host = Self::of(&error);
        if let CallError::Tool { failure, .. } = error {
            // What Python said keeps its name, and is the cause with all that belongs to it.
            host.failure.code.clone_from(&failure.code);
            host.failure.message.clone_from(&failure.message);
            let related = Related { cause: Some(*failure), ..Related::default() };
            host.failure.related = Some(Box::new(related));
        }
        host
    }
}

impl Coded for HostError {
    fn kind(&self) -> Kind {
        self.failure.kind
    }

    /// The name that the host tool gave it; `host_error` if it gave one at run time.
    fn code(&self) -> &'static str {
        "host_error"
    }

    fn hint(&self) -> Option<String> {
        self.failure.hint.clone()
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.failure.message)
    }
}

impl std::error::Error for HostError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Failure::cause(&self.failure).map(|cause| cause as _)
    }
}
