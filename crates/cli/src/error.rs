//! A failed command: what the last line of `--json` says and what the exit code is.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use snakehouse_base::{Coded, Kind};

/// Any failure of a command, with everything a person or a script needs.
#[derive(Debug)]
pub(crate) struct CliError {
    kind: Kind,
    code: Cow<'static, str>,
    message: String,
    hint: Option<String>,
}

impl CliError {
    /// A failure of the command line itself.
    pub(crate) fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        Self { kind, code: code.into(), message: message.into(), hint: None }
    }

    /// Replaces the code by one that another process named.
    pub(crate) fn with_code(mut self, code: String) -> Self {
        self.code = code.into();
        self
    }

    /// Adds what to do about it.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether Ctrl-C or SIGTERM ended the command.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.kind == Kind::Cancelled
    }

    /// The process exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }

    /// The `error` object of the `--json` output.
    pub(crate) fn document(&self) -> ErrorDocument<'_> {
        ErrorDocument {
            error: ErrorBody {
                code: &self.code,
                kind: self.kind.as_str(),
                message: &self.message,
                hint: self.hint.as_deref(),
            },
        }
    }

    /// What to do about it, if anything.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: Coded> From<E> for CliError {
    fn from(error: E) -> Self {
        // The source chain says why; each link is one clause.
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !message.contains(&cause_text) {
                message.push_str(": ");
                message.push_str(&cause_text);
            }
            source = cause.source();
        }
        Self { kind: error.kind(), code: error.code().into(), message, hint: error.hint() }
    }
}

/// `{"error":{...}}`
#[derive(Debug, Serialize)]
pub(crate) struct ErrorDocument<'a> {
    error: ErrorBody<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    kind: &'a str,
    message: &'a str,
    hint: Option<&'a str>,
}
