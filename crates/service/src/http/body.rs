//! Reading bodies: capped, timed, decoded off the async threads when large.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use snakehouse_tinker_api::{InvalidInput, PROTOBUF, limits};

use super::error::RequestError;
use super::refusal::Refusal;

/// How long a body may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(60);
/// How much of a body that is too large is read and dropped, so that the sender gets to read the
/// answer instead of a reset connection.
const DRAIN: usize = 256 << 20;

/// A JSON body of at most `CAP` bytes, with its bytes.
#[derive(Debug)]
pub(crate) struct JsonBody<T, const CAP: usize = { limits::JSON_BODY }> {
    pub(crate) value: T,
    pub(crate) bytes: Bytes,
}

impl<S: Sync, T: DeserializeOwned, const CAP: usize> FromRequest<S> for JsonBody<T, CAP> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let bytes = read(request, CAP).await?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|e| InvalidInput::MalformedBody { reason: e.to_string() })?;
        Ok(Self { value, bytes })
    }
}

/// A protobuf body of at most `CAP` bytes.
#[derive(Debug)]
pub(crate) struct ProtobufBody<const CAP: usize>(pub(crate) Bytes);

impl<S: Sync, const CAP: usize> FromRequest<S> for ProtobufBody<CAP> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let kind = request.headers().get(CONTENT_TYPE).map(|v| v.to_str().unwrap_or_default());
        let is_protobuf = kind.is_some_and(|kind| kind.starts_with(PROTOBUF));
        let bytes = read(request, CAP).await?;
        if !is_protobuf {
            return Err(RequestError::WrongContentType { expected: PROTOBUF }.into());
        }
        Ok(Self(bytes))
    }
}

/// The whole body, plain.
async fn read(request: Request, cap: usize) -> Result<Bytes, Refusal> {
    let too_large = Refusal::from(RequestError::BodyTooLarge { most: cap });
    let compressed = is_compressed(request.headers());
    let announced = announced(request.headers());
    let mut body = request.into_body();
    let mut whole = BytesMut::with_capacity(announced.unwrap_or(0).min(cap));
    let mut size = 0usize;
    let arrival = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| RequestError::BodyLost { reason: e.to_string() })?;
            let Ok(data) = frame.into_data() else { continue };
            size = size.saturating_add(data.len());
            if size <= cap {
                whole.extend_from_slice(&data);
            } else if size > DRAIN {
                break;
            }
        }
        Ok(())
    };
    let arrived: Result<(), RequestError> =
        tokio::time::timeout(ARRIVAL, arrival).await.unwrap_or_else(|_| {
            Err(RequestError::BodyLost { reason: "it took longer than 60 s".to_owned() })
        });
    arrived?;
    if size > cap {
        return Err(too_large);
    }
    if compressed {
        return Err(RequestError::Compressed.into());
    }
    Ok(whole.freeze())
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_compressed(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_ENCODING).is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"))
}
