//! Reading bodies: capped, timed, decoded off the async threads when large.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use snakehouse_base::ByteSize;
use snakehouse_base::id::{ModelId, SeqId};
use snakehouse_guard::{Permit, Permits};
use snakehouse_tinker_api::{InvalidInput, PROTOBUF, limits};

use super::error::RequestError;
use super::refusal::Refusal;
use super::routes::Api;
use crate::core::Target;

/// How long a body may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(60);
/// How much of a body that is too large is read and dropped, so that the sender gets to read the
/// answer instead of a reset connection.
const DRAIN: usize = 256 << 20;
/// How much of it is kept, to see whose it is.
const BEGINNING: usize = 4 << 10;
/// Most bytes of bodies that are arriving or being read, all requests together.
const TOGETHER: usize = 256 << 20;
/// Bytes are asked for in blocks of so many.
const BLOCK: usize = 64 << 10;
/// Bodies above this are read in the lane; below, the hand-over costs more than the work.
pub(super) const LARGE: usize = 64 << 10;

/// The memory of bodies, shared by all requests.
#[derive(Clone, Debug)]
pub(crate) struct BodyRoom(Permits);

impl Default for BodyRoom {
    fn default() -> Self {
        let permits = Permits::new(usize::MAX, ByteSize(TOGETHER as u64));
        Self(permits.expect("neither bound is zero"))
    }
}

/// Room that one body has taken, in steps of whole blocks. Given back when dropped.
#[derive(Debug)]
struct Taken {
    room: BodyRoom,
    bytes: usize,
    permits: Vec<Permit>,
}

impl Taken {
    fn none(room: BodyRoom) -> Self {
        Self { room, bytes: 0, permits: Vec::new() }
    }

    /// Makes sure of room for `bytes` in all. Never waits: a body that holds some and waits for
    /// more could wait for another one that does the same.
    fn reach(&mut self, bytes: usize) -> Result<(), RequestError> {
        let missing = bytes.next_multiple_of(BLOCK).saturating_sub(self.bytes);
        if missing == 0 {
            return Ok(());
        }
        let more = self.room.0.try_acquire(ByteSize(missing as u64));
        self.permits.push(more.ok_or(RequestError::Saturated { most: TOGETHER })?);
        self.bytes += missing;
        Ok(())
    }
}

/// A JSON body of at most `CAP` bytes, with its bytes.
#[derive(Debug)]
pub(crate) struct JsonBody<T, const CAP: usize = { limits::JSON_BODY }> {
    pub(crate) value: T,
    pub(crate) bytes: Bytes,
}

impl<T, const CAP: usize> FromRequest<Api> for JsonBody<T, CAP>
where
    T: DeserializeOwned + Send + 'static,
{
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        let (arrived, _taken) = read(request, CAP, api).await?;
        let bytes = arrived.whole()?;
        let text = bytes.clone();
        let parse = move || {
            serde_json::from_slice(&text)
                .map_err(|e| InvalidInput::MalformedBody { reason: e.to_string() })
        };
        let value = if bytes.len() > LARGE { api.lane.run(parse).await? } else { parse() }?;
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

impl<T: DeserializeOwned + Send + 'static> FromRequest<Api> for NumberedBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        #[derive(serde::Deserialize)]
        struct Place {
            model_id: String,
            seq_id: u64,
        }
        let (arrived, _taken) = read(request, limits::JSON_BODY, api).await?;
        let bytes = arrived.whole()?;
        let large = bytes.len() > LARGE;
        let parse = move || {
            let error = match serde_json::from_slice(&bytes) {
                Ok(value) => return Ok(Self::Read { value, bytes }),
                Err(e) => InvalidInput::MalformedBody { reason: e.to_string() },
            };
            match serde_json::from_slice::<Place>(&bytes) {
                Ok(place) => {
                    let place = Target::Model(ModelId::new(place.model_id), SeqId(place.seq_id));
                    Ok(Self::Unreadable { place, error, bytes })
                }
                Err(_) => Err(error),
            }
        };
        Ok(if large { api.lane.run(parse).await? } else { parse() }?)
    }
}

/// A protobuf body.
#[derive(Debug)]
pub(crate) struct ProtobufBody<const CAP: usize> {
    pub(crate) arrived: Arrived,
    /// To be kept until the operation is accepted.
    pub(crate) room: BodyGuard,
}

/// Keeps a body's room taken.
#[derive(Debug)]
pub(crate) struct BodyGuard {
    _taken: Taken,
}

impl<const CAP: usize> FromRequest<Api> for ProtobufBody<CAP> {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        let kind = request.headers().get(CONTENT_TYPE).map(|v| v.to_str().unwrap_or_default());
        let is_protobuf = kind.is_some_and(|kind| kind.starts_with(PROTOBUF));
        let (arrived, taken) = read(request, CAP, api).await?;
        if !is_protobuf {
            return Err(RequestError::WrongContentType { expected: PROTOBUF }.into());
        }
        Ok(Self { arrived, room: BodyGuard { _taken: taken } })
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

/// The body, plain, with the room that it takes.
async fn read(request: Request, cap: usize, api: &Api) -> Result<(Arrived, Taken), RequestError> {
    let mut taken = Taken::none(api.bodies.clone());
    let compressed = is_compressed(request.headers());
    let announced = announced(request.headers()).unwrap_or(0);
    let mut body = request.into_body();
    // Grows with what arrives: an announcement costs its sender nothing.
    let mut kept = BytesMut::with_capacity(announced.min(BEGINNING));
    let mut size = 0usize;
    let mut refused = None;
    let arrival = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| RequestError::BodyLost { reason: e.to_string() })?;
            let Ok(data) = frame.into_data() else { continue };
            size = size.saturating_add(data.len());
            if size.max(announced) <= cap {
                if refused.is_none() {
                    refused = taken.reach(size).err();
                }
                if refused.is_some() {
                    // Read on without keeping, so that the sender gets to read the answer.
                    kept = BytesMut::new();
                    taken = Taken::none(api.bodies.clone());
                    continue;
                }
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
    if let Some(error) = refused {
        return Err(error);
    }
    let bytes = kept.freeze();
    if size > cap {
        let error = RequestError::BodyTooLarge { most: cap };
        return Ok((Arrived::TooLarge { beginning: bytes, error }, taken));
    }
    if compressed {
        return Err(RequestError::Compressed);
    }
    Ok((Arrived::Whole(bytes), taken))
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_compressed(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_ENCODING).is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"))
}

#[cfg(test)]
mod tests {
    use snakehouse_base::{Coded as _, Kind};

    use super::*;

    #[test]
    fn bodies_share_their_room_and_give_it_back() {
        let room = BodyRoom::default();
        let mut bodies: Vec<Taken> = (0..4).map(|_| Taken::none(room.clone())).collect();
        for body in &mut bodies {
            body.reach(1).unwrap();
            body.reach(TOGETHER / 4).unwrap();
        }
        let mut late = Taken::none(room.clone());
        let error = late.reach(1).unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Saturated, "saturated"));
        assert!(error.hint().is_some());
        bodies.pop();
        late.reach(TOGETHER / 4).unwrap();
        drop((bodies, late));
        assert_eq!(room.0.in_flight(), (0, ByteSize(0)));
    }
}
