//! One piece of telemetry: a span that is over, or an event.

use std::borrow::Cow;
use std::sync::Arc;

use snakehouse_base::redact::{REDACTED, is_secret_name, redact};
use snakehouse_base::{Clock, Coded, SystemClock};
use snakehouse_wire::TraceContext;

use super::Hub;
use crate::call::CallError;
use crate::worker::WorkerRef;

/// Longest name that somebody else chose, in bytes.
const MAX_LABEL: usize = 128;

/// One piece of telemetry.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Telemetry {
    /// Something that took time and is over.
    Span(Span),
    /// Something that happened.
    Event(Event),
}

/// Something that took time and is over.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Span {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The worker that tells of it; `None` if it is of the host.
    pub worker: Option<WorkerRef>,
    /// What it is.
    pub kind: SpanKind,
    /// The tool's name, or the one that the tool gave it.
    pub name: Cow<'static, str>,
    /// Its trace, and its own id.
    pub context: TraceContext,
    /// The id of the span that it is a part of; 0 is none.
    pub parent: u64,
    /// When it began, in nanoseconds since 1970, on its own process's clock.
    pub start: u64,
    /// When it was over, likewise.
    pub end: u64,
    /// Why it failed, if it did: an error's code, or an exception's type; never what that said.
    pub error: Option<Cow<'static, str>>,
    /// What is known of it. Texts that look like secrets are not in it.
    pub attributes: Vec<(Cow<'static, str>, Scalar)>,
}

/// What a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpanKind {
    /// A call, from its caller's view: waiting included.
    Call,
    /// A stream, from its opening to the end of its handle.
    Stream,
    /// A call's tool, in its worker.
    Tool,
    /// What a tool made.
    Inner,
    /// A tool of the host that a worker's tool called.
    HostTool,
}

/// Something that happened in a worker.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The worker.
    pub worker: WorkerRef,
    /// What it is called.
    pub name: String,
    /// When, in nanoseconds since 1970, on the worker's clock.
    pub at: u64,
    /// What was measured.
    pub values: Vec<Scalar>,
    /// What else is known of it. Texts that look like secrets are not in it.
    pub attributes: Vec<(Cow<'static, str>, Scalar)>,
    /// The span that it happened in, if its call belongs to a trace.
    pub context: Option<TraceContext>,
}

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any number.
    Float(f64),
    /// A text.
    Text(String),
}

/// An attribute with nothing secret in it, as far as one can see.
pub(super) fn attribute(name: String, value: Scalar) -> (Cow<'static, str>, Scalar) {
    let value = match value {
        Scalar::Text(_) if is_secret_name(&name) => Scalar::Text(REDACTED.to_owned()),
        Scalar::Text(text) => match redact(&text) {
            Cow::Borrowed(_) => Scalar::Text(text),
            Cow::Owned(clean) => Scalar::Text(clean),
        },
        other => other,
    };
    (Cow::Owned(name), value)
}

/// A span of the host that is not over. It is told when it is dropped: as one that its caller gave up,
/// unless [`end`](Self::end) said otherwise.
///
/// Nothing is in it, and nothing is told, if nobody wants to know.
#[derive(Debug, Default)]
pub(crate) struct OpenSpan {
    told: Option<Box<Told>>,
    seen: Option<tracing::Span>,
}

#[derive(Debug)]
struct Told {
    hub: Arc<Hub>,
    span: Span,
}

impl OpenSpan {
    /// Begins a span below `context`, which becomes the place of what is below the span.
    ///
    /// `hub` is that of the pool, if it tells anything. A subscriber of `tracing` sees the span too.
    pub(crate) fn begin(
        hub: Option<&Arc<Hub>>,
        pool: &str,
        kind: SpanKind,
        name: &str,
        context: &mut TraceContext,
    ) -> Self {
        let told = hub.and_then(|hub| {
            let parent = hub.place(name, context)?;
            let span = Span {
                pool: hub.pool.clone(),
                worker: None,
                kind,
                name: label(name),
                context: *context,
                parent,
                start: now(),
                end: 0,
                error: Some(Cow::Borrowed("dropped")),
                attributes: Vec::new(),
            };
            Some(Box::new(Told { hub: hub.clone(), span }))
        });
        let seen = see(pool, kind, name, context);
        Self { told, seen }
    }

    /// How it ended. It is over when it is dropped.
    pub(crate) fn end<T>(&mut self, outcome: &Result<T, CallError>) {
        if self.told.is_some() || self.seen.is_some() {
            self.end_as(outcome.as_ref().err().map(error_code));
        }
    }

    /// The same by the code of what went wrong, if anything did.
    pub(crate) fn end_as(&mut self, error: Option<Cow<'static, str>>) {
        if let Some(seen) = &self.seen {
            seen.record("outcome", error.as_deref().unwrap_or("ok"));
        }
        if let Some(told) = &mut self.told {
            told.span.error = error;
        }
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if let Some(mut told) = self.told.take() {
            told.span.end = now().max(told.span.start);
            told.hub.tell(Telemetry::Span(told.span));
        }
    }
}

/// A name that somebody else chose: without what looks like a secret, and of at most 128 bytes.
pub(super) fn label(text: &str) -> Cow<'static, str> {
    let mut end = text.len().min(MAX_LABEL);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(redact(&text[..end]).into_owned())
}

/// The stable name of what went wrong: of a tool's failure, the tool's own code.
fn error_code(error: &CallError) -> Cow<'static, str> {
    match error {
        CallError::Tool { failure, .. } => label(&failure.code),
        other => Cow::Borrowed(other.code()),
    }
}

/// The span that subscribers of `tracing` see; `None` if there is none who wants it, which costs one
/// comparison.
fn see(pool: &str, kind: SpanKind, name: &str, context: &TraceContext) -> Option<tracing::Span> {
    use tracing::field::Empty;
    let span = tracing::info_span!(
        target: "snakehouse_pool::call",
        "call",
        pool,
        tool = name,
        kind = ?kind,
        traceparent = (!context.is_none()).then(|| tracing::field::display(context)),
        outcome = Empty,
    );
    (!span.is_disabled()).then_some(span)
}

/// Nanoseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemClock.wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_somebody_chose_is_short_and_no_secret() {
        assert_eq!(label("disk_full"), "disk_full");
        assert_eq!(label("bad key sk-live-0123456789"), format!("bad key {REDACTED}"));
        assert_eq!(label(&"ü".repeat(1_000_000)).len(), MAX_LABEL);
    }
}
