//! From what a pool tells to the messages of OTLP.

use bytes::Bytes;
use snakehouse_pool::{Event, Scalar, Span, SpanKind, Telemetry, TraceContext, WorkerRef};

use super::proto;

/// Severity of an event: information.
const INFO: i32 = 9;

/// What says whose the telemetry is.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) service: String,
}

impl Origin {
    fn resource(&self) -> proto::Resource {
        let text = |key: &str, value: &str| attribute(key, Scalar::Text(value.to_owned()));
        let attributes = vec![
            text("service.name", &self.service),
            attribute("process.pid", Scalar::Int(i64::from(std::process::id()))),
        ];
        proto::Resource { attributes }
    }

    fn scope() -> proto::InstrumentationScope {
        proto::InstrumentationScope {
            name: "snakehouse".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The spans among these.
    pub(super) fn traces(&self, pieces: &[Telemetry]) -> proto::TracesRequest {
        let spans = pieces.iter().filter_map(|piece| match piece {
            Telemetry::Span(one) => Some(span(one)),
            _ => None,
        });
        let spans = spans.collect();
        let scope_spans = vec![proto::ScopeSpans { scope: Some(Self::scope()), spans }];
        let resource_spans =
            vec![proto::ResourceSpans { resource: Some(self.resource()), scope_spans }];
        proto::TracesRequest { resource_spans }
    }

    /// The events among these.
    pub(super) fn logs(&self, pieces: &[Telemetry]) -> proto::LogsRequest {
        let events = pieces.iter().filter_map(|piece| match piece {
            Telemetry::Event(one) => Some(event(one)),
            _ => None,
        });
        let log_records = events.collect();
        let scope_logs = vec![proto::ScopeLogs { scope: Some(Self::scope()), log_records }];
        let resource_logs =
            vec![proto::ResourceLogs { resource: Some(self.resource()), scope_logs }];
        proto::LogsRequest { resource_logs }
    }
}

fn span(span: &Span) -> proto::Span {
    let kind = match span.kind {
        SpanKind::Call | SpanKind::Stream => proto::SpanKind::Client,
        SpanKind::Tool | SpanKind::HostTool => proto::SpanKind::Server,
        _ => proto::SpanKind::Internal,
    };
    let mut attributes = place(&span.pool, span.worker);
    attributes.extend(span.attributes.iter().map(|(key, value)| attribute(key, value.clone())));
    let status = span.error.as_deref().map(|error| {
        attributes.push(attribute("error.type", Scalar::Text(error.to_owned())));
        let code = proto::StatusCode::Error.into();
        proto::Status { message: error.to_owned(), code }
    });
    proto::Span {
        trace_id: Bytes::copy_from_slice(&span.context.trace),
        span_id: id(span.context.span),
        parent_span_id: if span.parent == 0 { Bytes::new() } else { id(span.parent) },
        name: span.name.clone().into_owned(),
        kind: kind.into(),
        start_time_unix_nano: span.start,
        end_time_unix_nano: span.end,
        attributes,
        status,
        flags: u32::from(span.context.sampled),
    }
}

fn event(event: &Event) -> proto::LogRecord {
    let mut attributes = place(&event.pool, Some(event.worker));
    attributes.extend(event.attributes.iter().map(|(key, value)| attribute(key, value.clone())));
    let mut values: Vec<_> = event.values.iter().cloned().map(any).collect();
    let body = match values.len() {
        0 => None,
        1 => values.pop(),
        _ => {
            let values = proto::AnyValueKind::Array(proto::ArrayValue { values });
            Some(proto::AnyValue { value: Some(values) })
        }
    };
    let context = event.context.unwrap_or(TraceContext::NONE);
    let is_traced = !context.is_none();
    proto::LogRecord {
        time_unix_nano: event.at,
        severity_number: INFO,
        body,
        attributes,
        flags: u32::from(context.sampled),
        trace_id: match is_traced {
            true => Bytes::copy_from_slice(&context.trace),
            false => Bytes::new(),
        },
        span_id: if is_traced { id(context.span) } else { Bytes::new() },
        event_name: event.name.clone(),
    }
}

fn place(pool: &str, worker: Option<WorkerRef>) -> Vec<proto::KeyValue> {
    let number = |number: u64| Scalar::Int(i64::try_from(number).unwrap_or(i64::MAX));
    let mut attributes = vec![attribute("snakehouse.pool", Scalar::Text(pool.to_owned()))];
    if let Some(worker) = worker {
        attributes.push(attribute("snakehouse.worker", number(worker.id.0)));
        attributes.push(attribute("snakehouse.incarnation", number(worker.incarnation.0)));
        attributes.push(attribute("snakehouse.worker_pid", number(u64::from(worker.pid))));
    }
    attributes
}

fn id(span: u64) -> Bytes {
    Bytes::copy_from_slice(&span.to_be_bytes())
}

fn attribute(key: &str, value: Scalar) -> proto::KeyValue {
    proto::KeyValue { key: key.to_owned(), value: Some(any(value)) }
}

fn any(value: Scalar) -> proto::AnyValue {
    let value = match value {
        Scalar::Bool(value) => proto::AnyValueKind::Bool(value),
        Scalar::Int(value) => proto::AnyValueKind::Int(value),
        Scalar::Float(value) => proto::AnyValueKind::Double(value),
        Scalar::Text(value) => proto::AnyValueKind::String(value),
    };
    proto::AnyValue { value: Some(value) }
}
