//! Arguments and results of host tools: from bytes to Rust and back.
//!
//! What is small is converted where the host tool runs, which is a thread that serves others as well.
//! What may take longer than a millisecond goes to the pool's lane for large bodies, and waits there for
//! its turn. A large answer also needs [room](AnswerRoom): its worker has so many bytes at most that it
//! has not read, and what does not fit waits unencoded. So a host keeps, of all that the host tools of
//! one worker have to say, that much, one more that is encoded and waits, and what the tools themselves
//! made. Tested with real workers in `tests/it/callback_bytes.rs`.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use snakehouse_base::{ByteSize, Coded, Kind};
use snakehouse_guard::{Permit, Permits};
use snakehouse_supervise::{Lane, LaneError};
use snakehouse_wire::Value;

use super::{HostCall, HostError};
use crate::call::Args;

/// Bytes, or items, that are converted at once. The worst are items of one byte, at some ten nanoseconds
/// each.
const SMALL: usize = 32 * 1024;

/// Bytes of large answers that a worker has not read. A larger one is there alone.
const MOST_UNREAD: ByteSize = ByteSize::mib(64);

/// An encoded result, and the room that it takes until the worker has it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    pub(crate) room: Option<Permit>,
}

/// What a worker's large answers wait for.
#[derive(Clone, Debug)]
pub(crate) struct AnswerRoom {
    /// One is encoded at a time, and holds this until it fits.
    turn: Permits,
    unread: Permits,
}

impl AnswerRoom {
    /// For one worker, whose callbacks are no more than `most`. `None` if that is none.
    pub(crate) fn new(most: usize) -> Option<Self> {
        let (turn, unread) = (Permits::counted(1), Permits::new(most, MOST_UNREAD));
        turn.ok().zip(unread.ok()).map(|(turn, unread)| Self { turn, unread })
    }
}

/// What a worker asks with, made into what the host tool takes.
pub(super) async fn arguments<T: Send + 'static>(
    call: &HostCall,
    body: Bytes,
    convert: fn(Args) -> Result<T, HostError>,
) -> Result<T, HostError> {
    let is_small = body.len() <= SMALL;
    let take = move || decode(&body).and_then(convert);
    match is_small {
        true => take(),
        false => in_lane(&call.shared.copier, take).await,
    }
}

/// The arguments as a Rust type.
pub(super) fn typed<A: DeserializeOwned>(args: Args) -> Result<A, HostError> {
    let fits = Value::args_to_serde(args.args, args.kwargs);
    fits.map_err(|error| HostError::new(Kind::InvalidInput, "bad_arguments", error.to_string()))
}

/// The answer that a Rust value is.
pub(super) async fn typed_result<R: Serialize + Send + 'static>(
    call: &HostCall,
    result: R,
) -> Result<Answer, HostError> {
    let small = Value::from_serde_within(&result, SMALL).map_err(|error| bad(&error))?;
    match small.filter(|value| value.is_within(SMALL)) {
        Some(value) => at_once(&value),
        None => {
            large(call, move || {
                let value = Value::from_serde(&result).map_err(|error| bad(&error))?;
                value.encode().map_err(|error| bad(&error))
            })
            .await
        }
    }
}

/// The answer that a value is.
pub(super) async fn raw_result(call: &HostCall, result: Value) -> Result<Answer, HostError> {
    match result.is_within(SMALL) {
        true => at_once(&result),
        false => large(call, move || result.encode().map_err(|error| bad(&error))).await,
    }
}

fn at_once(value: &Value) -> Result<Answer, HostError> {
    let body = value.encode().map_err(|error| bad(&error))?;
    Ok(Answer { body, room: None })
}

async fn large(
    call: &HostCall,
    encode: impl FnOnce() -> Result<Bytes, HostError> + Send + 'static,
) -> Result<Answer, HostError> {
    // Held until the answer fits beside those that are not read: no other is encoded before.
    let turn = call.answers.turn.acquire(ByteSize(0)).await;
    let body = in_lane(&call.shared.copier, encode).await?;
    let room = call.answers.unread.acquire(ByteSize(body.len() as u64)).await;
    drop(turn);
    Ok(Answer { body, room: Some(room) })
}

async fn in_lane<T: Send + 'static>(
    lane: &Lane,
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    lane.run(work).await.unwrap_or_else(|error| {
        let code = match error {
            LaneError::Panicked { .. } => "panic",
            _ => "pool_stopped",
        };
        Err(HostError::new(error.kind(), code, error.to_string()))
    })
}

/// `[args, kwargs]`, as the worker encoded it.
fn decode(body: &Bytes) -> Result<Args, HostError> {
    let wrong = |message: String| HostError::new(Kind::InvalidInput, "malformed_value", message);
    let body = Value::decode(body).map_err(|error| wrong(error.to_string()))?;
    if let Value::List(parts) = body
        && let Ok([Value::List(args), Value::Dict(kwargs)]) = <[Value; 2]>::try_from(parts)
    {
        let named = |(name, value)| match name {
            Value::Str(name) => Ok((name, value)),
            other => Err(wrong(format!("an argument is named by a {}", other.type_name()))),
        };
        let kwargs = kwargs.into_iter().map(named).collect::<Result<_, _>>()?;
        return Ok(Args { args, kwargs });
    }
    Err(wrong("a callback's body is not [args, kwargs]".to_owned()))
}

fn bad(error: &(impl Coded + std::fmt::Display)) -> HostError {
    let message = format!("the result of the host tool cannot be sent: {error}");
    HostError::new(Kind::InvalidInput, "bad_host_result", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_list_of_arguments_is_refused() {
        for bad in ["c0", "9190", "929190", "92908101c0", "c1"] {
            let bytes: Vec<u8> = (0..bad.len() / 2)
                .map(|at| u8::from_str_radix(&bad[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            let error = decode(&bytes.into()).unwrap_err();
            assert_eq!(error.failure().code, "malformed_value", "{bad}");
        }
    }
}
