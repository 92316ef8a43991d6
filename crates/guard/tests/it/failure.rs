//! An error with a kind.

use snakehouse_base::{Coded, Kind};
use snakehouse_guard::Advice;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) Kind);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failure {}

impl Coded for Failure {
    fn kind(&self) -> Kind {
        self.0
    }

    fn code(&self) -> &'static str {
        "planted"
    }
}

/// The table's advice for an idempotent call.
pub(crate) fn by_table(failure: &Failure) -> Advice {
    Advice::of_kind(failure.kind(), true)
}

pub(crate) const DOWN: Failure = Failure(Kind::Unavailable);
