//! What a worker tells: a list of maps, which may be anything.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use snakehouse_wire::{TraceContext, Value};

use super::span::{attribute, label};
use super::{Event, Hub, Scalar, Span, SpanKind, Telemetry};
use crate::worker::WorkerRef;

/// Pieces of one report that are looked at.
const MAX_PIECES: usize = 4096;
/// Attributes of a piece that are kept.
const MAX_ATTRIBUTES: usize = 32;
/// Longest name, in bytes.
const MAX_NAME: usize = 128;
/// Longest text of an attribute, in bytes.
const MAX_TEXT: usize = 4096;

impl Hub {
    /// Passes on what a worker tells. What makes no sense is counted: it is no reason to end a worker.
    pub(crate) fn report(&self, worker: WorkerRef, body: &Bytes) {
        let Ok(Value::List(pieces)) = Value::decode(body) else {
            self.malformed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let is_on = self.is_on();
        for piece in pieces.into_iter().take(MAX_PIECES) {
            match self.piece(worker, piece) {
                Some(Piece::Told(telemetry)) if is_on => self.tell(telemetry),
                // It was on its way when the filter changed.
                Some(Piece::Told(_)) => {}
                Some(Piece::Dropped(count)) => {
                    self.dropped_by_workers.fetch_add(count, Ordering::Relaxed);
                }
                None => {
                    self.malformed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn piece(&self, worker: WorkerRef, piece: Value) -> Option<Piece> {
        let Value::Dict(entries) = piece else { return None };
        let mut read = Read::default();
        for (key, value) in entries {
            read.entry(key.as_str()?, value)?;
        }
        if let Some(count) = read.dropped {
            return Some(Piece::Dropped(count));
        }
        let context =
            read.trace.map(|trace| TraceContext { trace, span: read.span, sampled: true });
        let attributes = read.attributes;
        let telemetry = match read.event {
            Some(name) => Telemetry::Event(Event {
                pool: self.pool.clone(),
                worker,
                name,
                at: read.at?,
                values: read.values,
                attributes,
                context,
            }),
            None => Telemetry::Span(Span {
                pool: self.pool.clone(),
                worker: Some(worker),
                kind: read.kind?,
                name: label(&read.name?),
                context: context.filter(|context| !context.is_none() && context.span != 0)?,
                parent: read.parent,
                start: read.start?,
                end: read.end.filter(|end| Some(*end) >= read.start)?,
                error: read.error.as_deref().map(label),
                attributes,
            }),
        };
        Some(Piece::Told(telemetry))
    }
}

enum Piece {
    Told(Telemetry),
    Dropped(u64),
}

/// The entries of one piece, of whatever kind.
#[derive(Default)]
struct Read {
    kind: Option<SpanKind>,
    name: Option<String>,
    event: Option<String>,
    trace: Option<[u8; 16]>,
    span: u64,
    parent: u64,
    start: Option<u64>,
    end: Option<u64>,
    at: Option<u64>,
    error: Option<String>,
    values: Vec<Scalar>,
    attributes: Vec<(Cow<'static, str>, Scalar)>,
    dropped: Option<u64>,
}

impl Read {
    fn entry(&mut self, key: &str, value: Value) -> Option<()> {
        match key {
            "kind" => {
                self.kind = Some(match value.as_str()? {
                    "tool" => SpanKind::Tool,
                    "inner" => SpanKind::Inner,
                    _ => return None,
                });
            }
            "name" => self.name = Some(name(value)?),
            "event" => self.event = Some(name(value)?),
            "trace" => self.trace = Some(id(&value)?),
            "span" => self.span = u64::from_be_bytes(id(&value)?),
            "parent" => self.parent = u64::from_be_bytes(id(&value)?),
            "start" => self.start = Some(count(&value)?),
            "end" => self.end = Some(count(&value)?),
            "at" => self.at = Some(count(&value)?),
            "error" => self.error = Some(name(value)?),
            "dropped" => self.dropped = Some(count(&value)?),
            "values" => {
                let Value::List(values) = value else { return None };
                let values = values.into_iter().take(MAX_ATTRIBUTES);
                let clean = |value| Some(attribute(String::new(), scalar(value)?).1);
                self.values = values.map(clean).collect::<Option<_>>()?;
            }
            "attributes" => {
                let Value::Dict(entries) = value else { return None };
                let entries = entries.into_iter().take(MAX_ATTRIBUTES);
                let read = |(key, value)| Some(attribute(name(key)?, scalar(value)?));
                self.attributes = entries.map(read).collect::<Option<_>>()?;
            }
            // Of a newer worker.
            _ => {}
        }
        Some(())
    }
}

fn name(value: Value) -> Option<String> {
    match value {
        Value::Str(name) if (1..=MAX_NAME).contains(&name.len()) => Some(name),
        _ => None,
    }
}

fn id<const N: usize>(value: &Value) -> Option<[u8; N]> {
    match value {
        Value::Bytes(id) => id[..].try_into().ok(),
        _ => None,
    }
}

fn count(value: &Value) -> Option<u64> {
    u64::try_from(value.as_i64()?).ok()
}

fn scalar(value: Value) -> Option<Scalar> {
    match value {
        Value::Bool(value) => Some(Scalar::Bool(value)),
        Value::Float(value) => Some(Scalar::Float(value)),
        Value::Str(text) if text.len() <= MAX_TEXT => Some(Scalar::Text(text)),
        ref number @ Value::Int(_) => number.as_i64().map(Scalar::Int),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use snakehouse_base::id::{Incarnation, WorkerId};
    use tokio::sync::mpsc;

    use super::*;
    use crate::telemetry::TelemetryConfig;

    fn dict(entries: &[(&str, Value)]) -> Value {
        let entry = |(key, value): &(&str, Value)| (Value::from(*key), value.clone());
        Value::Dict(entries.iter().map(entry).collect())
    }

    fn bytes(bytes: &[u8]) -> Value {
        Value::Bytes(bytes.to_vec().into())
    }

    fn span() -> Vec<(&'static str, Value)> {
        vec![
            ("kind", "tool".into()),
            ("name", "add".into()),
            ("trace", bytes(&[1; 16])),
            ("span", bytes(&[2; 8])),
            ("parent", bytes(&[3; 8])),
            ("start", 10.into()),
            ("end", 20.into()),
            ("of a newer worker", Value::None),
        ]
    }

    fn with(key: &'static str, value: Value) -> Value {
        let mut span = span();
        span.retain(|(name, _)| *name != key);
        span.push((key, value));
        dict(&span)
    }

    #[test]
    fn what_is_no_telemetry_is_counted_and_costs_nothing_else() {
        let (sink, mut told) = mpsc::channel(100);
        let hub = Hub::new("tools", TelemetryConfig::new(Arc::new(sink)));
        let worker = WorkerRef { id: WorkerId(0), incarnation: Incarnation(1), pid: 1 };
        let long = "x".repeat(MAX_TEXT + 1);
        let bad = [
            Value::None,
            dict(&[]),
            dict(&[("event", "loss".into())]),
            dict(&[("event", "".into()), ("at", 1.into())]),
            dict(&[("event", "x".repeat(129).as_str().into()), ("at", 1.into())]),
            with("kind", "host".into()),
            with("name", Value::None),
            with("trace", bytes(&[0; 16])),
            with("trace", bytes(&[1; 15])),
            with("span", bytes(&[0; 8])),
            with("end", 9.into()),
            with("start", (-1).into()),
            with("attributes", Value::List(Vec::new())),
            with("attributes", dict(&[("x", Value::None)])),
            with("attributes", dict(&[("x", long.as_str().into())])),
            Value::Dict(vec![(Value::None, Value::None)]),
        ];
        let report = |pieces: Vec<Value>| {
            hub.report(worker, &Value::List(pieces).encode().expect("an encodable report"));
        };
        let count = bad.len() as u64;
        report(bad.to_vec());
        hub.report(worker, &Bytes::from_static(b"\xc1"));
        hub.report(worker, &Bytes::from_static(b"\xc0"));
        assert_eq!(hub.counts().malformed, count + 2);
        assert!(told.try_recv().is_err());

        let many = (0..MAX_PIECES + 5).map(|_| dict(&[("dropped", 2.into())]));
        report(many.collect());
        assert_eq!(hub.counts().dropped_by_workers, 2 * MAX_PIECES as u64);

        report(vec![dict(&span())]);
        let Ok(Telemetry::Span(span)) = told.try_recv() else { unreachable!("a span was told") };
        assert_eq!(
            (&*span.name, span.parent, span.worker),
            ("add", 0x0303_0303_0303_0303, Some(worker))
        );
        assert_eq!((hub.counts().spans, hub.counts().malformed), (1, count + 2));
    }
}
