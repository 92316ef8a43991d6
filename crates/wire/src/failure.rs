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
//! | `cause` | None or such a map: what the exception was raised from, or while what was handled |
//! | `implicit` | bool, absent is false: the cause is only what was being handled |
//! | `notes` | list of str, absent if there are none: what `add_note` added |
//! | `members` | list of such maps, absent unless it is an exception group |
//! | `left_out` | int, absent is 0: members that are not in the list |
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
    /// Other exceptions and notes; none if there are none of all that.
    pub related: Option<Box<Related>>,
}

/// What else belongs to an exception.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Related {
    /// What it was raised from, or what was being handled when it was raised.
    pub cause: Option<Failure>,
    /// Whether the cause is only what was being handled: `raise` without `from`.
    pub implicit: bool,
    /// What was added to the exception by `add_note`.
    pub notes: Vec<String>,
    /// The exceptions of an exception group.
    pub members: Vec<Failure>,
    /// How many more exceptions the group had: a failure tells of 64 in all.
    pub left_out: u32,
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
            related: None,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What it was raised from, or what was being handled when it was raised.
    pub fn cause(&self) -> Option<&Self> {
        self.related.as_ref()?.cause.as_ref()
    }

    /// What was added to the exception by `add_note`.
    pub fn notes(&self) -> &[String] {
        self.related.as_ref().map_or(&[], |related| &related.notes)
    }

    /// The exceptions of an exception group.
    pub fn members(&self) -> &[Self] {
        self.related.as_ref().map_or(&[], |related| &related.members)
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
        let none = Related::default();
        let related = self.related.as_deref().unwrap_or(&none);
        let below = depth + 1 < Self::MAX_CHAIN;
        let cause = related.cause.as_ref().filter(|_| below);
        let mut map = vec![
            ("kind", Value::from(self.kind.as_str())),
            ("code", self.code.as_str().into()),
            ("type", (*self.type_name).into()),
            ("message", self.message.as_str().into()),
            ("hint", self.hint.as_deref().into()),
            ("traceback", Value::List(traceback)),
            ("cause", cause.map(|c| c.to_value_at(depth + 1)).into()),
        ];
        if related.implicit {
            map.push(("implicit", true.into()));
        }
        if !related.notes.is_empty() {
            map.push(("notes", related.notes.clone().into()));
        }
        if !related.members.is_empty() && below {
            let members = related.members.iter().map(|member| member.to_value_at(depth + 1));
            map.push(("members", Value::List(members.collect())));
        }
        if related.left_out > 0 {
            map.push(("left_out", related.left_out.into()));
        }
        map.into_iter().collect()
    }

    pub(crate) fn from_value(map: &Value) -> Self {
        let text = |key| map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let list = |key| map.get(key).and_then(Value::as_slice).unwrap_or_default();
        let kind = text("kind");
        Self {
            kind: Kind::parse(&kind).unwrap_or(Kind::Tool),
            code: text("code"),
            type_name: text("type").into(),
            message: text("message"),
            hint: map.get("hint").and_then(Value::as_str).map(str::to_owned),
            traceback: list("traceback").iter().map(TraceFrame::from_value).collect(),
            related: Some(Related::from_value(map))
                .filter(|related| *related != Related::default())
                .map(Box::new),
        }
    }
}

impl Related {
    fn from_value(map: &Value) -> Self {
        let list = |key| map.get(key).and_then(Value::as_slice).unwrap_or_default();
        let left_out = map.get("left_out").and_then(Value::as_i64);
        Self {
            cause: match map.get("cause") {
                Some(cause @ Value::Dict(_)) => Some(Failure::from_value(cause)),
                _ => None,
            },
            implicit: matches!(map.get("implicit"), Some(Value::Bool(true))),
            notes: list("notes").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            members: list("members").iter().map(Failure::from_value).collect(),
            left_out: left_out.and_then(|n| n.try_into().ok()).unwrap_or(0),
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
        }?;
        self.notes().iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause().map(|cause| cause as _)
    }
}
