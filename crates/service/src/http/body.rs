//! Reading bodies: capped, timed, decoded off the async threads when large.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use snakehouse_base::id::{ModelId, SeqId};
use snakehouse_tinker_api::{InvalidInput, PROTOBUF, limits};

use super::error::RequestError;
use super::refusal::Refusal;
use crate::core::Target;

/// How long a body may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(60);
/// How much of a body that is too large is read and dropped, so that the sender gets to read the
/// answer instead of a reset connection.
const DRAIN: usize = 256 << 20;
/// How much of it is kept, to see whose it is.
const BEGINNING: usize = 4 << 10;

/// A JSON body of at most `CAP` bytes, with its bytes.
#[derive(Debug)]
pub(crate) struct JsonBody<T, const CAP: usize = { limits::JSON_BODY }> {
    pub(crate) value: T,
    pub(crate) bytes: Bytes,
}

impl<S: Sync, T: DeserializeOwned, const CAP: usize> FromRequest<S> for JsonBody<T, CAP> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let bytes = read(request, CAP).await?.whole()?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|e| InvalidInput::MalformedBody { reason: e.to_string() })?;
        Ok(Self { value, bytes })
    }
}

/// The JSON body of an operation with a place in its model's order.
///
/// One that does not read still says where its place is, so that the place can be used up.
#[derive(Debug)]
pub(crate) enum NumberedBody<T> {
    Read { value: T, bytes: Bytes },
    Unreadable { place: Target, error: InvalidInput, bytes: Bytes },
}

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for NumberedBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        #[derive(serde::Deserialize)]
        struct Place {
            model_id: String,
            seq_id: u64,
        }
        let bytes = read(request, limits::JSON_BODY).await?.whole()?;
        let error = match serde_json::from_slice(&bytes) {
            Ok(value) => return Ok(Self::Read { value, bytes }),
            Err(e) => InvalidInput::MalformedBody { reason: e.to_string() },
        };
        match serde_json::from_slice::<Place>(&bytes) {
            Ok(place) => {
                let place = Target::Model(ModelId::new(place.model_id), SeqId(place.seq_id));
                Ok(Self::Unreadable { place, error, bytes })
            }
            Err(_) => Err(error.into()),
        }
    }
}

/// A protobuf body.
#[derive(Debug)]
pub(crate) struct ProtobufBody<const CAP: usize>(pub(crate) Arrived);

impl<S: Sync, const CAP: usize> FromRequest<S> for ProtobufBody<CAP> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let kind = request.headers().get(CONTENT_TYPE).map(|v| v.to_str().unwrap_or_default());
        let is_protobuf = kind.is_some_and(|kind| kind.starts_with(PROTOBUF));
        let arrived = read(request, CAP).await?;
        if !is_protobuf {
            return Err(RequestError::WrongContentType { expected: PROTOBUF }.into());
        }
        Ok(Self(arrived))
    }
}

/// What came of a body.
#[derive(Debug)]
pub(crate) enum Arrived {
    Whole(Bytes),
    /// More than the cap; the rest was read and dropped.
    TooLarge {
        beginning: Bytes,
        error: RequestError,
    },
}

impl Arrived {
    fn whole(self) -> Result<Bytes, RequestError> {
        match self {
            Self::Whole(bytes) => Ok(bytes),
            Self::TooLarge { error, .. } => Err(error),
        }
    }
}

/// The body, plain.
async fn read(request: Request, cap: usize) -> Result<Arrived, RequestError> {
    let compressed = is_compressed(request.headers());
    let announced = announced(request.headers()).unwrap_or(0);
    let mut body = request.into_body();
    let mut kept = BytesMut::with_capacity(if announced <= cap { announced } else { BEGINNING });
    let mut size = 0usize;
    let arrival = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| RequestError::BodyLost { reason: e.to_string() })?;
            let Ok(data) = frame.into_data() else { continue };
            size = size.saturating_add(data.len());
            if size.max(announced) <= cap {
                kept.extend_from_slice(&data);
                continue;
            }
            let missing = BEGINNING.saturating_sub(kept.len()).min(data.len());
            kept.extend_from_slice(&data[..missing]);
            kept.truncate(BEGINNING);
            if size > DRAIN {
                break;
            }
        }
        Ok(())
    };
    let slow = || RequestError::BodyLost { reason: "it took longer than 60 s".to_owned() };
    tokio::time::timeout(ARRIVAL, arrival).await.map_err(|_| slow())??;
    let bytes = kept.freeze();
    if size > cap {
        return Ok(Arrived::TooLarge {
            beginning: bytes,
            error: RequestError::BodyTooLarge { most: cap },
        });
    }
    if compressed {
        return Err(RequestError::Compressed);
    }
    Ok(Arrived::Whole(bytes))
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_compressed(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_ENCODING).is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"))
}
