//! How a refused request is answered: the one table from error kinds to status codes.

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use snakehouse_base::{Coded, Kind};
use snakehouse_tinker_api::InvalidInput;
use snakehouse_tinker_api::json::{ErrorBody, ErrorDetail};

use super::error::RequestError;
use crate::core::CoreError;

/// A 4xx or 5xx answer.
///
/// The official client gives up at once on 400, 401, 403, 404, 410, 413, 415, 421 and 422, and
/// repeats a submission for up to five minutes on 408, 409, 429 and 5xx. So only what may pass by
/// itself gets one of the latter, and 409, which the protocol wants for a number used twice.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    detail: ErrorDetail,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, detail: ErrorDetail) -> Self {
        Self { status, detail }
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }
}

/// The status for an error of this kind.
pub(crate) const fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::InvalidInput | Kind::Tool => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::Saturated => StatusCode::TOO_MANY_REQUESTS,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Deadline => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<InvalidInput> for Refusal {
    fn from(error: InvalidInput) -> Self {
        Self::new(status_of(error.kind()), ErrorDetail::of(&error))
    }
}

impl From<CoreError> for Refusal {
    fn from(error: CoreError) -> Self {
        let status = match error {
            CoreError::SessionFinished(_) | CoreError::ResultGone(_) => StatusCode::GONE,
            ref other => status_of(other.kind()),
        };
        if status.is_server_error() {
            tracing::error!(code = error.code(), %error, "request failed");
        }
        Self::new(status, ErrorDetail::of(&error))
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        let status = match error {
            RequestError::ForeignHost { .. } => StatusCode::MISDIRECTED_REQUEST,
            RequestError::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            RequestError::WrongContentType { .. } | RequestError::Compressed => {
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            }
            RequestError::BodyLost { .. } => StatusCode::BAD_REQUEST,
            ref other => status_of(other.kind()),
        };
        Self::new(status, ErrorDetail::of(&error))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody::from(self.detail))).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_pass_by_itself_is_never_repeated_by_the_official_client() {
        const REPEATED: [u16; 3] = [408, 409, 429];
        for kind in Kind::ALL {
            let status = status_of(kind).as_u16();
            let repeated = status >= 500 || REPEATED.contains(&status);
            let permanent = matches!(
                kind,
                Kind::InvalidInput
                    | Kind::NotFound
                    | Kind::Unauthenticated
                    | Kind::Forbidden
                    | Kind::Tool
            );
            assert!(!(permanent && repeated), "{kind}: {status}");
        }
        let gone = Refusal::from(CoreError::SessionFinished("s".to_owned()));
        assert_eq!(gone.status(), StatusCode::GONE);
    }
}
