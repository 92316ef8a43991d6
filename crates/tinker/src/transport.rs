//! One request and its answer, without saying how bytes travel.
//!
//! The client's rules (retry, long polls, order) stand above this seam, so that they are tested on
//! a virtual clock against a scripted service; [`HttpTransport`](crate::http::HttpTransport) is the
//! real thing.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// Sends one request.
pub(crate) trait Transport: Send + Sync + fmt::Debug {
    /// One attempt. Dropping the future ends the attempt; the service may still have seen it.
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>>;
}

/// A request to an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The endpoint, below `/api/v1/`.
    pub(crate) endpoint: String,
    /// The body; `None` makes it a GET.
    pub(crate) body: Option<Body>,
    /// Ask for a protobuf answer.
    pub(crate) wants_protobuf: bool,
    /// More headers.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// Which attempt of the same request this is, from 0.
    pub(crate) attempt: u32,
    /// The same for all attempts of one request.
    pub(crate) idempotency_key: String,
}

/// The body of a request. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// JSON text.
    Json(Bytes),
    /// An encoded message.
    Protobuf(Bytes),
}

/// An answer, read to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Response {
    /// The HTTP status.
    pub(crate) status: u16,
    /// Whether the body is a protobuf message.
    pub(crate) is_protobuf: bool,
    /// How long the service asks to wait.
    pub(crate) retry_after: Option<Duration>,
    /// What the service says about another attempt.
    pub(crate) should_retry: Option<bool>,
    /// The body.
    pub(crate) body: Bytes,
}

/// A connection that failed. Whether the service saw the request is unknown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No connection came about.
    #[error("cannot connect: {reason}")]
    Connect {
        /// What the system said.
        reason: String,
    },
    /// The connection broke.
    #[error("the connection broke: {reason}")]
    Broken {
        /// What the system said.
        reason: String,
    },
    /// Nothing came for longer than a long poll may hold.
    #[error("the service was silent for too long")]
    Silent,
}

impl Request {
    /// A request with a JSON body.
    pub(crate) fn post(endpoint: impl Into<String>, json: Bytes) -> Self {
        Self::new(endpoint.into(), Some(Body::Json(json)))
    }

    /// A request with an encoded message.
    pub(crate) fn post_protobuf(endpoint: impl Into<String>, message: Bytes) -> Self {
        Self::new(endpoint.into(), Some(Body::Protobuf(message)))
    }

    /// A request without a body.
    pub(crate) fn get(endpoint: impl Into<String>) -> Self {
        Self::new(endpoint.into(), None)
    }

    fn new(endpoint: String, body: Option<Body>) -> Self {
        Self {
            endpoint,
            body,
            wants_protobuf: false,
            headers: Vec::new(),
            attempt: 0,
            idempotency_key: format!("snakehouse-{}", uuid::Uuid::new_v4()),
        }
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Response {
    /// Whether the status is a success.
    pub(crate) const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }
}
