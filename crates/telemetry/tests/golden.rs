//! The messages against bytes that the reference library (opentelemetry-proto 1.45.2, Python) wrote.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use prost::Message as _;
use snakehouse_telemetry::proto::{
    AnyValue, AnyValueKind, ArrayValue, InstrumentationScope, KeyValue, LogRecord, LogsRequest,
    Resource, ResourceLogs, ResourceSpans, ScopeLogs, ScopeSpans, Span, SpanKind, Status,
    StatusCode, TracesRequest,
};

const TRACES: &str = "0ac0010a170a150a0c736572766963652e6e616d6512050a0373766312a4010a130a0a736e61\
    6b65686f7573651205302e312e30128c010a10000102030405060708090a0b0c0d0e0f12080102030405060708220\
    802030405060708092a04776f726b30033901002a36fe9c97174109002a36fe9c97174a080a016112030a01784a07\
    0a0162120210014a100a0163120b18fbffffffffffffffff014a0e0a0164120921000000000000e03f7a0f120b746\
    f6f6c5f7261697365641802850101000000";
const LOGS: &str = "0a83010a170a150a0c736572766963652e6e616d6512050a0373766312680a130a0a736e616b656\
    86f7573651205302e312e3012510901002a36fe9c971710092a112a0f0a0218070a0921000000000000e03f32080a\
    016b12030a017645010000004a10000102030405060708090a0b0c0d0e0f5208010203040506070862066c6f61646\
    564";

fn bytes(hex: &str) -> Bytes {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn value(kind: AnyValueKind) -> AnyValue {
    AnyValue { value: Some(kind) }
}

fn attribute(key: &str, kind: AnyValueKind) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value(kind)) }
}

fn text(key: &str, text: &str) -> KeyValue {
    attribute(key, AnyValueKind::String(text.to_owned()))
}

fn resource() -> Option<Resource> {
    Some(Resource { attributes: vec![text("service.name", "svc")] })
}

fn scope() -> Option<InstrumentationScope> {
    Some(InstrumentationScope { name: "snakehouse".to_owned(), version: "0.1.0".to_owned() })
}

fn ids() -> (Bytes, Bytes) {
    ((0..16).collect::<Vec<u8>>().into(), (1..9).collect::<Vec<u8>>().into())
}

#[test]
fn spans_have_the_bytes_of_the_reference() {
    let (trace_id, span_id) = ids();
    let span = Span {
        trace_id,
        span_id,
        parent_span_id: (2..10).collect::<Vec<u8>>().into(),
        name: "work".to_owned(),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: 1_700_000_000_000_000_001,
        end_time_unix_nano: 1_700_000_000_000_000_009,
        attributes: vec![
            text("a", "x"),
            attribute("b", AnyValueKind::Bool(true)),
            attribute("c", AnyValueKind::Int(-5)),
            attribute("d", AnyValueKind::Double(0.5)),
        ],
        status: Some(Status { message: "tool_raised".to_owned(), code: StatusCode::Error.into() }),
        flags: 1,
    };
    let scope_spans = vec![ScopeSpans { scope: scope(), spans: vec![span] }];
    let resource_spans = vec![ResourceSpans { resource: resource(), scope_spans }];
    let request = TracesRequest { resource_spans };
    assert_eq!(request.encode_to_vec(), bytes(TRACES));
    assert_eq!(TracesRequest::decode(bytes(TRACES)).unwrap(), request);
}

#[test]
fn records_have_the_bytes_of_the_reference() {
    let (trace_id, span_id) = ids();
    let values = vec![value(AnyValueKind::Int(7)), value(AnyValueKind::Double(0.5))];
    let record = LogRecord {
        time_unix_nano: 1_700_000_000_000_000_001,
        severity_number: 9,
        body: Some(value(AnyValueKind::Array(ArrayValue { values }))),
        attributes: vec![text("k", "v")],
        flags: 1,
        trace_id,
        span_id,
        event_name: "loaded".to_owned(),
    };
    let scope_logs = vec![ScopeLogs { scope: scope(), log_records: vec![record] }];
    let resource_logs = vec![ResourceLogs { resource: resource(), scope_logs }];
    let request = LogsRequest { resource_logs };
    assert_eq!(request.encode_to_vec(), bytes(LOGS));
    assert_eq!(LogsRequest::decode(bytes(LOGS)).unwrap(), request);
}
