//! The messages of OTLP 1 that are sent, by hand: no code generator and no `protoc`.
//!
//! The tags are those of `opentelemetry-proto`. Fields that are never sent are not here; a reader
//! skips them. `tests/golden.rs` holds them against bytes of the reference library.

use bytes::Bytes;

/// Body of `POST /v1/traces`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TracesRequest {
    /// Spans by process.
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

/// Body of `POST /v1/logs`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogsRequest {
    /// Records by process.
    #[prost(message, repeated, tag = "1")]
    pub resource_logs: Vec<ResourceLogs>,
}

/// The spans of a process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceSpans {
    /// The process.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// Spans by library.
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

/// The records of a process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceLogs {
    /// The process.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// Records by library.
    #[prost(message, repeated, tag = "2")]
    pub scope_logs: Vec<ScopeLogs>,
}

/// A process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// What is known of it.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// The spans that a library made.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeSpans {
    /// The library.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<InstrumentationScope>,
    /// Its spans.
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<Span>,
}

/// The records that a library made.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeLogs {
    /// The library.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<InstrumentationScope>,
    /// Its records.
    #[prost(message, repeated, tag = "2")]
    pub log_records: Vec<LogRecord>,
}

/// A library.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct InstrumentationScope {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// A span.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Span {
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub trace_id: Bytes,
    /// 8 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub span_id: Bytes,
    /// 8 bytes; empty for the first span of a trace.
    #[prost(bytes = "bytes", tag = "4")]
    pub parent_span_id: Bytes,
    /// The name.
    #[prost(string, tag = "5")]
    pub name: String,
    /// Which side of what it is.
    #[prost(enumeration = "SpanKind", tag = "6")]
    pub kind: i32,
    /// Nanoseconds since 1970.
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    /// Nanoseconds since 1970.
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    /// What is known of it.
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    /// How it ended; nothing is well.
    #[prost(message, optional, tag = "15")]
    pub status: Option<Status>,
    /// Trace flags of the W3C.
    #[prost(fixed32, tag = "16")]
    pub flags: u32,
}

/// Which side of a call a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SpanKind {
    /// Not said.
    Unspecified = 0,
    /// No side of any.
    Internal = 1,
    /// The one that is called.
    Server = 2,
    /// The one that calls.
    Client = 3,
}

/// How a span ended.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Status {
    /// Why it failed.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Whether it failed.
    #[prost(enumeration = "StatusCode", tag = "3")]
    pub code: i32,
}

/// Whether a span failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum StatusCode {
    /// Not said.
    Unset = 0,
    /// Somebody says that it is well.
    Ok = 1,
    /// It failed.
    Error = 2,
}

/// Something that happened.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogRecord {
    /// Nanoseconds since 1970.
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    /// 9 is information.
    #[prost(int32, tag = "2")]
    pub severity_number: i32,
    /// What was measured.
    #[prost(message, optional, tag = "5")]
    pub body: Option<AnyValue>,
    /// What else is known of it.
    #[prost(message, repeated, tag = "6")]
    pub attributes: Vec<KeyValue>,
    /// Trace flags of the W3C.
    #[prost(fixed32, tag = "8")]
    pub flags: u32,
    /// 16 bytes, or none.
    #[prost(bytes = "bytes", tag = "9")]
    pub trace_id: Bytes,
    /// 8 bytes, or none.
    #[prost(bytes = "bytes", tag = "10")]
    pub span_id: Bytes,
    /// What it is called.
    #[prost(string, tag = "12")]
    pub event_name: String,
}

/// An attribute.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// A value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AnyValue {
    /// Which.
    #[prost(oneof = "AnyValueKind", tags = "1, 2, 3, 4, 5")]
    pub value: Option<AnyValueKind>,
}

/// The kinds of values that are sent.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum AnyValueKind {
    /// A text.
    #[prost(string, tag = "1")]
    String(String),
    /// Yes or no.
    #[prost(bool, tag = "2")]
    Bool(bool),
    /// A whole number.
    #[prost(int64, tag = "3")]
    Int(i64),
    /// Any number.
    #[prost(double, tag = "4")]
    Double(f64),
    /// Several.
    #[prost(message, tag = "5")]
    Array(ArrayValue),
}

/// Several values.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ArrayValue {
    /// They.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<AnyValue>,
}
