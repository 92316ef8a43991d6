//! What can go wrong between a program and a training service.

use std::time::Duration;

use snakehouse_base::{Coded, Kind};
use snakehouse_tinker_api::InvalidInput;
use snakehouse_tinker_api::json::Category;

use crate::config::ConfigError;
use crate::transport::TransportError;

/// Why a call of the client failed.
///
/// A connection that breaks is not in here by itself: it is retried, with the same idempotency
/// key, until the service has been out of reach for the configured patience.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The client cannot be set up this way.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The input breaks a rule of the protocol; nothing was sent.
    #[error(transparent)]
    InvalidInput(#[from] InvalidInput),
    /// The service refused the request. It was not accepted and has no effect.
    #[error("{endpoint} was refused with status {status}: {detail}")]
    Refused {
        /// The endpoint, below `/api/v1/`.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// What the service said.
        detail: String,
        /// What the service advises.
        hint: Option<String>,
        /// The service's own stable name for the refusal.
        code: Option<String>,
        /// The family, if the service names it; the status decides otherwise.
        kind: Option<Kind>,
    },
    /// The service accepted the operation and it failed there: final, and without effect.
    #[error("{operation} failed: {message}")]
    Failed {
        /// The operation.
        operation: &'static str,
        /// Whose fault it is.
        category: Category,
        /// What the service said.
        message: String,
    },
    /// The service does not keep this result any more.
    #[error("the result of {operation} is gone: the service does not know request {request_id}")]
    ResultGone {
        /// The operation.
        operation: &'static str,
        /// The request.
        request_id: String,
    },
    /// The service could not be reached, or could not serve, for the whole patience.
    #[error("no usable answer from {base_url} for {} s", .silent_for.as_secs())]
    Unreachable {
        /// Where the service should be.
        base_url: String,
        /// How long it has been out of reach.
        silent_for: Duration,
        /// The last failure.
        #[source]
        last: Outage,
    },
    /// The deadline of the call passed. An operation that was accepted goes on in the service.
    #[error("the deadline passed in {endpoint}")]
    Deadline {
        /// The endpoint, below `/api/v1/`.
        endpoint: String,
    },
    /// The service ended the session; its models take no more operations from this client.
    #[error("session {session} has ended")]
    SessionEnded {
        /// The session.
        session: String,
    },
    /// The scope that the client belongs to was stopped.
    #[error("the client was stopped")]
    Stopped,
    /// The service answered with something that the protocol does not allow.
    #[error("{endpoint} answered outside the protocol: {reason}")]
    Protocol {
        /// The endpoint, below `/api/v1/`.
        endpoint: String,
        /// Which rule the answer breaks.
        reason: String,
    },
}

/// One failure of many while a service was out of reach.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Outage {
    /// The connection failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The service answered that it cannot serve now.
    #[error("the service answered with status {status}: {detail}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// What it said.
        detail: String,
    },
}

impl ClientError {
    /// An answer that breaks the protocol.
    pub(crate) fn protocol(endpoint: &str, reason: impl Into<String>) -> Self {
        Self::Protocol { endpoint: endpoint.to_owned(), reason: reason.into() }
    }
}

/// The family of an HTTP status that is no success.
pub(crate) const fn kind_of_status(status: u16) -> Kind {
    match status {
        401 => Kind::Unauthenticated,
        402 | 403 => Kind::Forbidden,
        404 | 410 => Kind::NotFound,
        409 => Kind::Conflict,
        408 | 500 | 502..=599 => Kind::Unavailable,
        429 => Kind::Saturated,
        400..=499 => Kind::InvalidInput,
        _ => Kind::Internal,
    }
}

impl Coded for ClientError {
    fn kind(&self) -> Kind {
        match self {
            Self::Config(error) => error.kind(),
            Self::InvalidInput(error) => error.kind(),
            Self::Refused { kind: Some(kind), .. } => *kind,
            Self::Refused { status, .. } => kind_of_status(*status),
            Self::Failed { category: Category::User, .. } => Kind::InvalidInput,
            Self::Failed { .. } | Self::Protocol { .. } => Kind::Internal,
            Self::ResultGone { .. } | Self::SessionEnded { .. } => Kind::NotFound,
            Self::Unreachable { .. } => Kind::Unavailable,
            Self::Deadline { .. } => Kind::Deadline,
            Self::Stopped => Kind::Cancelled,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Config(error) => error.code(),
            Self::InvalidInput(error) => error.code(),
            Self::Refused { .. } => "request_refused",
            Self::Failed { .. } => "operation_failed",
            Self::ResultGone { .. } => "result_gone",
            Self::Unreachable { .. } => "service_unreachable",
            Self::Deadline { .. } => "deadline",
            Self::SessionEnded { .. } => "session_ended",
            Self::Stopped => "client_stopped",
            Self::Protocol { .. } => "protocol_violation",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::InvalidInput(error) => error.hint(),
            Self::Refused { hint: Some(hint), .. } => Some(hint.clone()),
            Self::Refused { status: 401 | 403, .. } => {
                Some("check the API key: it starts with tml-".to_owned())
            }
            Self::Unreachable { .. } => {
                Some("check that the service runs: `snakehouse up` starts one".to_owned())
            }
            Self::ResultGone { .. } | Self::SessionEnded { .. } => {
                Some("continue from the last saved state with a new training client".to_owned())
            }
            Self::Refused { .. }
            | Self::Failed { .. }
            | Self::Deadline { .. }
            | Self::Stopped
            | Self::Protocol { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use snakehouse_base::Retry;

    use super::*;

    #[test]
    fn what_may_pass_is_retried_and_what_was_refused_is_not() {
        for status in [408, 429, 500, 502, 503, 504] {
            assert_eq!(kind_of_status(status).retry(), Retry::Later, "{status}");
        }
        for status in [400, 401, 403, 404, 409, 410, 413, 422, 501] {
            assert_eq!(kind_of_status(status).retry(), Retry::Never, "{status}");
        }
    }
}
