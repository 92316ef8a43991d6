//! The transport over HTTP/1.1.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use snakehouse_base::{Clock as _, SystemClock};
use snakehouse_guard::http::Hints;
use snakehouse_tinker_api::PROTOBUF;

use crate::config::{ClientConfig, ConfigError};
use crate::transport::{Body, Request, Response, Transport, TransportError};

/// Nothing at all for this long means that the other end is gone. A service holds a poll for less
/// than 45 s; the bound starts over with every byte, so a large answer may take any time.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

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
        let hints = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let hints = Hints::read(hints, SystemClock.wall());
        let mut response = Response {
            status: answer.status().as_u16(),
            is_protobuf: text(headers, CONTENT_TYPE.as_str())
                .is_some_and(|kind| kind.starts_with(PROTOBUF)),
            retry_after: hints.after,
            should_retry: hints.should_retry,
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

#[cfg(test)]
mod tests {
    use snakehouse_base::{Coded as _, Secret};

    use super::*;

    /// The check of the configuration refuses such a key before; a client made past it says so too.
    #[test]
    fn a_key_that_no_header_can_hold_is_no_client() {
        let config = ClientConfig::new("http://127.0.0.1:1", Secret::new("tml-\n"));
        let error = HttpTransport::new(&config, "http://127.0.0.1:1").unwrap_err();
        assert_eq!(error.code(), "http_client");
        assert!(!error.to_string().contains("tml-"), "{error}");
    }
}
