//! Who may talk to the service: law "closed by default", for loopback.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::RequestError;
use super::refusal::Refusal;

/// The path that says whether the service is ready; open to anybody on this machine.
pub(crate) const HEALTH: &str = "/api/v1/healthz";

/// What is allowed beside the fixed rules.
#[derive(Debug, Default)]
pub(crate) struct Access {
    origins: Vec<String>,
}

impl Access {
    pub(crate) fn new(origins: Vec<String>) -> Self {
        Self { origins }
    }

    /// Checks one request.
    ///
    /// `Host` must name loopback, whatever the port (it may be forwarded); a browser page must
    /// come from an allowed origin; the key must look like one, except for the health check.
    pub(crate) fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), RequestError> {
        let text = |name| headers.get(name).map(|v| v.to_str().unwrap_or("not text"));
        let host = text(HOST).unwrap_or_default();
        if headers.get_all(HOST).iter().count() > 1 || !is_loopback(host) {
            return Err(RequestError::ForeignHost { host: host.to_owned() });
        }
        if let Some(origin) = text(ORIGIN)
            && !self.origins.iter().any(|allowed| allowed == origin)
        {
            return Err(RequestError::ForeignOrigin { origin: origin.to_owned() });
        }
        let key = headers.get("x-api-key").map(|key| key.as_bytes()).unwrap_or_default();
        if path != HEALTH && !key.starts_with(b"tml-") {
            return Err(RequestError::BadKey);
        }
        Ok(())
    }
}

/// Whether a `Host` header names this machine by a loopback name or address.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) if port.is_empty() || port.starts_with(':') => name,
            _ => return false,
        },
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The middleware.
pub(crate) async fn guard(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Response {
    match access.check(request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => Refusal::from(error).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use snakehouse_base::Coded;

    use super::*;

    fn answer(path: &str, headers: &[(&'static str, &'static str)]) -> &'static str {
        let headers: HeaderMap = headers
            .iter()
            .map(|&(name, value)| {
                (axum::http::HeaderName::from_static(name), HeaderValue::from_static(value))
            })
            .collect();
        Access::new(vec!["http://localhost:3000".to_owned()])
            .check(path, &headers)
            .map_or_else(|e| e.code(), |()| "allowed")
    }

    #[test]
    fn only_this_machine_with_a_key_is_let_in() {
        const API: &str = "/api/v1/get_info";
        const KEY: (&str, &str) = ("x-api-key", "tml-anything");
        for (host, expected) in [
            ("127.0.0.1:8400", "allowed"),
            ("127.8.8.8", "allowed"),
            ("localhost", "allowed"),
            ("LOCALHOST:1", "allowed"),
            ("[::1]:8400", "allowed"),
            ("evil.example", "foreign_host"),
            ("127.0.0.1.evil.example", "foreign_host"),
            ("localhost.evil.example:8400", "foreign_host"),
            ("192.168.1.2:8400", "foreign_host"),
            ("[::1]evil", "foreign_host"),
            ("", "foreign_host"),
        ] {
            assert_eq!(answer(API, &[("host", host), KEY]), expected, "{host}");
        }
        let local = ("host", "127.0.0.1");
        assert_eq!(answer(API, &[KEY]), "foreign_host");
        assert_eq!(answer(API, &[local]), "bad_key");
        assert_eq!(answer(API, &[local, ("x-api-key", "sk-1")]), "bad_key");
        assert_eq!(answer(API, &[local, KEY, ("origin", "null")]), "foreign_origin");
        assert_eq!(answer(API, &[local, KEY, ("origin", "http://localhost:3000")]), "allowed");
        assert_eq!(answer(HEALTH, &[local]), "allowed");
        assert_eq!(answer(HEALTH, &[local, ("origin", "http://evil")]), "foreign_origin");
    }
}
