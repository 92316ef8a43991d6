//! The transport over HTTP/1.1.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use snakehouse_tinker_api::PROTOBUF;

use crate::config::{ClientConfig, ConfigError};
use crate::transport::{Body, Request, Response, Transport, TransportError};

/// Nothing at all for this long means that the other end is gone. A service holds a poll for less
/// than 45 s; the bound starts over with every byte, so a large answer may take any time.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest pause that a service may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Keep-alive connections to one service.
#[derive(Debug)]
pub(crate) struct HttpTransport {
    client: reqwest::Client,
    prefix: String,
}

impl HttpTransport {
    /// Makes the client; connects when the first request is sent.
    pub(crate) fn new(config: &ClientConfig, base_url: &str) -> Result<Self, ConfigError> {
        let http = |error: &dyn std::fmt::Display| ConfigError::Http { reason: error.to_string() };
        let mut key = HeaderValue::from_str(config.api_key.expose()).map_err(|e| http(&e))?;
        key.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", key);
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("snakehouse-tinker/", env!("CARGO_PKG_VERSION"))),
        );
        let client = reqwest::Client::builder()
            .default_headers(headers)
            .no_proxy()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| http(&e))?;
        Ok(Self { client, prefix: format!("{base_url}/api/v1/") })
    }

    async fn exchange(&self, request: Request) -> Result<Response, reqwest::Error> {
        let url = format!("{}{}", self.prefix, request.endpoint);
        let mut builder = match request.body {
            None => self.client.get(url),
            Some(body) => {
                let (kind, bytes) = match body {
                    Body::Json(bytes) => ("application/json", bytes),
                    Body::Protobuf(bytes) => (PROTOBUF, bytes),
                };
                self.client
                    .post(url)
                    .header(CONTENT_TYPE, kind)
                    .header("x-idempotency-key", request.idempotency_key)
                    .body(bytes)
            }
        };
        let accept = if request.wants_protobuf { PROTOBUF } else { "application/json" };
        builder = builder
            .header(ACCEPT, accept)
            .header("x-sdk-version", env!("CARGO_PKG_VERSION"))
            .header("x-stainless-retry-count", request.attempt);
        for (name, value) in request.headers {
            builder = builder.header(name, value);
        }
        let answer = builder.send().await?;
        let headers = answer.headers();
        let mut response = Response {
            status: answer.status().as_u16(),
            is_protobuf: text(headers, CONTENT_TYPE.as_str())
                .is_some_and(|kind| kind.starts_with(PROTOBUF)),
            retry_after: retry_after(headers),
            should_retry: match text(headers, "x-should-retry") {
                Some("true") => Some(true),
                Some("false") => Some(false),
                _ => None,
            },
            body: Bytes::new(),
        };
        response.body = answer.bytes().await?;
        Ok(response)
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        async move { self.exchange(request).await.map_err(|error| read_error(&error)) }.boxed()
    }
}

fn read_error(error: &reqwest::Error) -> TransportError {
    if error.is_timeout() && !error.is_connect() {
        return TransportError::Silent;
    }
    // The innermost cause is what the system said; the links above repeat the address.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let reason = cause.to_string();
    if error.is_connect() {
        TransportError::Connect { reason }
    } else {
        TransportError::Broken { reason }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Reads `retry-after-ms` or `retry-after` in seconds; a pause longer than a minute is ignored.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| text(headers, name)?.trim().parse::<f64>().ok();
    let seconds =
        number("retry-after-ms").map(|ms| ms / 1000.0).or_else(|| number(RETRY_AFTER.as_str()))?;
    Duration::try_from_secs_f64(seconds).ok().filter(|d| !d.is_zero() && *d <= LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_read_in_both_units_and_bounded() {
        let pause = |name: &'static str, value: &'static str| {
            retry_after(&HeaderMap::from_iter([(
                reqwest::header::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )]))
        };
        assert_eq!(pause("retry-after", "2"), Some(Duration::from_secs(2)));
        assert_eq!(pause("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        for bad in ["-1", "0", "61", "NaN", "soon", "1e300"] {
            assert_eq!(pause("retry-after", bad), None, "{bad}");
        }
    }
}
