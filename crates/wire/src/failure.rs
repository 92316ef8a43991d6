//! A failed call, as it travels.
//!
//! The payload of an error frame is a MessagePack map with string keys:
//!
//! | key | value |
//! |---|---|
//! | `kind` | str, the name of a [`Kind`]; unknown ones are read as `tool` |
//! | `code` | str, stable: see the table in ADR 0002 |
//! | `type` | str: the exception's qualified name, `ValueError` or `package.module.Error`; may be empty |
//! | `message` | str |
//! | `hint` | None or str |
//! | `traceback` | list of `[file str, line int, function str, source str]`, outermost first |
//! | `cause` | None or such a map: what the exception was raised from |
//!
//! Reading is lenient: a worker that reports a failure badly has still failed.

use std::fmt;

use bytes::Bytes;
use snakehouse_base::Kind;

use crate::frame::MAX_CHUNK;
use crate::value::Value;

/// Why a call failed, said by the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The family.
    pub kind: Kind,
    /// Stable machine-readable name.
    pub code: String,
    /// The exception's type; empty if it was none.
    pub type_name: Box<str>,
    /// What happened.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Where, outermost call first.
    pub traceback: Box<[TraceFrame]>,
    /// What it was raised from.
    pub cause: Option<Box<Failure>>,
}

/// One line of a traceback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceFrame {
    /// Path of the source file.
    pub file: String,
    /// Line number, from 1; 0 is unknown.
    pub line: u32,
    /// Qualified name of the function.
    pub function: String,
    /// The source line, if the worker could read it.
    pub source: String,
}

impl Failure {
    /// Most failures in a chain of causes that are kept.
    pub const MAX_CHAIN: usize = 16;

    /// A failure without an exception.
    pub fn new(kind: Kind, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: code.into(),
            type_name: "".into(),
            message: message.into(),
            hint: None,
            traceback: Box::default(),
            cause: None,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The payload of the error frame. A failure too large for one frame loses its traceback and
    /// cause, then the end of its message.
    pub fn encode(&self) -> Bytes {
        let fits =
            |failure: &Self| failure.to_value().encode().ok().filter(|b| b.len() <= MAX_CHUNK);
        fits(self).unwrap_or_else(|| {
            let short = |text: &str| text.chars().take(10_000).collect::<String>();
            let mut cut = Self::new(self.kind, short(&self.code), short(&self.message));
            cut.type_name = short(&self.type_name).into();
            cut.hint = self.hint.as_deref().map(short);
            fits(&cut).unwrap_or_default()
        })
    }

    /// Reads the payload of an error frame, whatever it is.
    pub fn decode(payload: &Bytes) -> Self {
        match Value::decode(payload) {
            Ok(map) => Self::from_value(&map),
            Err(error) => Self::new(
                Kind::Tool,
                "failure_malformed",
                format!("the worker reported a failure that cannot be read: {error}"),
            ),
        }
    }

    pub(crate) fn to_value(&self) -> Value {
        self.to_value_at(0)
    }

    fn to_value_at(&self, depth: usize) -> Value {
        let traceback: Vec<Value> = self
            .traceback
            .iter()
            .map(|frame| {
                Value::List(vec![
                    frame.file.as_str().into(),
                    frame.line.into(),
                    frame.function.as_str().into(),
                    frame.source.as_str().into(),
                ])
            })
            .collect();
        let cause = self.cause.as_deref().filter(|_| depth + 1 < Self::MAX_CHAIN);
        Value::from_iter([
            ("kind", Value::from(self.kind.as_str())),
            ("code", self.code.as_str().into()),
            ("type", (*self.type_name).into()),
            ("message", self.message.as_str().into()),
            ("hint", self.hint.as_deref().into()),
            ("traceback", Value::List(traceback)),
            ("cause", cause.map(|c| c.to_value_at(depth + 1)).into()),
        ])
    }

    pub(crate) fn from_value(map: &Value) -> Self {
        let text = |key| map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let kind = text("kind");
        Self {
            kind: Kind::parse(&kind).unwrap_or(Kind::Tool),
            code: text("code"),
            type_name: text("type").into(),
            message: text("message"),
            hint: map.get("hint").and_then(Value::as_str).map(str::to_owned),
            traceback: map
                .get("traceback")
                .and_then(Value::as_slice)
                .unwrap_or_default()
                .iter()
                .map(TraceFrame::from_value)
                .collect(),
            cause: match map.get("cause") {
                Some(cause @ Value::Dict(_)) => Some(Box::new(Self::from_value(cause))),
                _ => None,
            },
        }
    }
}

impl TraceFrame {
    fn from_value(value: &Value) -> Self {
        let item = |i| value.as_slice().and_then(|items: &[Value]| items.get(i));
        let text = |i| item(i).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            file: text(0),
            line: item(1).and_then(Value::as_i64).and_then(|n| n.try_into().ok()).unwrap_or(0),
            function: text(2),
            source: text(3),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.type_name {
            "" => f.write_str(&self.message),
            name if self.message.is_empty() => f.write_str(name),
            name => write!(f, "{name}: {}", self.message),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|c| c as _)
    }
}
