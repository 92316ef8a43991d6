//! Bodies of refused requests.

use serde::{Deserialize, Serialize};
use snakehouse_base::Coded;

/// The body of an answer with a 4xx or 5xx status.
///
/// `detail` is what the official client shows; `error` is for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What happened and what to do, for people.
    pub detail: String,
    /// The same in parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetail>,
}

/// A failure in parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// Stable name.
    pub code: String,
    /// The family's stable name.
    pub kind: String,
    /// What happened.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ErrorDetail {
    /// The parts of `error`.
    pub fn of(error: &(impl Coded + ?Sized)) -> Self {
        Self {
            code: error.code().to_owned(),
            kind: error.kind().as_str().to_owned(),
            message: error.to_string(),
            hint: error.hint(),
        }
    }

    /// One line for people: the code, what happened, what to do.
    pub fn sentence(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}: {} (hint: {hint})", self.code, self.message),
            None => format!("{}: {}", self.code, self.message),
        }
    }
}

impl From<ErrorDetail> for ErrorBody {
    fn from(error: ErrorDetail) -> Self {
        Self { detail: error.sentence(), error: Some(error) }
    }
}
