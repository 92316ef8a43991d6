//! Values on their way through the front door: bytes as they are, JSON read and written.

use bytes::Bytes;
use snakehouse_base::Kind;
use snakehouse_pool::{CallError, Value, from_json, to_json};
use snakehouse_supervise::Lane;
use snakehouse_wire::buffer::is_carried;
use tonic::Status;

use crate::proto;
use crate::proto::value::Encoding;
use crate::refusal::{Refusal, call_failed, refuse, refused};

/// Longest JSON document, and longest value that is written as one: reading more would hold up
/// everything else on its thread.
const MOST_JSON: usize = 128 * 1024;

/// How a caller wants values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    MsgPack,
    Json,
}

/// The body of a call, and the form of its result. `None` is a call without arguments.
///
/// # Errors
/// A status for what is no call.
pub(crate) fn arguments(value: Option<proto::Value>) -> Result<(Bytes, Form), Status> {
    match value.and_then(|value| value.encoding) {
        None => Ok((encode(&call(Vec::new(), Vec::new()))?, Form::MsgPack)),
        // The worker reads it, and says so if it is no call.
        Some(Encoding::Msgpack(bytes)) => Ok((bytes, Form::MsgPack)),
        Some(Encoding::Json(text)) => {
            let value = match parse(&text)? {
                Value::Dict(kwargs) => call(Vec::new(), kwargs),
                Value::List(parts) => match <[Value; 2]>::try_from(parts) {
                    Ok([Value::List(args), Value::Dict(kwargs)]) => call(args, kwargs),
                    _ => return Err(no_call()),
                },
                _ => return Err(no_call()),
            };
            Ok((encode(&value)?, Form::Json))
        }
    }
}

fn call(args: Vec<Value>, kwargs: Vec<(Value, Value)>) -> Value {
    Value::List(vec![Value::List(args), Value::Dict(kwargs)])
}

fn no_call() -> Status {
    refuse(Refusal {
        kind: Kind::InvalidInput,
        code: "malformed_value",
        message: "the arguments are no call".to_owned(),
        hint: Some(r#"write [[1, 2], {"name": 3}], or {"name": 3}"#.to_owned()),
    })
}

/// An item for a tool.
///
/// # Errors
/// A status for JSON that is none.
pub(crate) fn item(value: proto::Value) -> Result<Bytes, Status> {
    match value.encoding {
        None => encode(&Value::None),
        Some(Encoding::Msgpack(bytes)) => Ok(bytes),
        Some(Encoding::Json(text)) => encode(&parse(&text)?),
    }
}

/// A result as MessagePack: those with large parts come with these behind them.
///
/// # Errors
/// A status for what is no value, and at the server's stop.
pub(crate) async fn plain(bytes: Bytes, lane: &Lane) -> Result<Bytes, Status> {
    if !is_carried(&bytes) {
        return Ok(bytes);
    }
    let done = lane.run(move || Value::decode(&bytes).and_then(|value| value.encode())).await;
    let done = done.map_err(|_closed| call_failed(&CallError::Stopped))?;
    done.map_err(|error| refused(&error))
}

/// A value for the caller.
///
/// # Errors
/// A status for what JSON cannot say.
pub(crate) fn told(bytes: Bytes, form: Form) -> Result<proto::Value, Status> {
    let encoding = match form {
        Form::MsgPack => Encoding::Msgpack(bytes),
        Form::Json if bytes.len() > MOST_JSON => return Err(too_long(bytes.len())),
        Form::Json => {
            let value = Value::decode(&bytes).map_err(|error| refused(&error))?;
            Encoding::Json(to_json(&value).map_err(|error| refused(&error))?.to_string())
        }
    };
    Ok(proto::Value { encoding: Some(encoding) })
}

fn parse(text: &str) -> Result<Value, Status> {
    if text.len() > MOST_JSON {
        return Err(too_long(text.len()));
    }
    serde_json::from_str(text).map(from_json).map_err(|error| {
        refuse(Refusal {
            kind: Kind::InvalidInput,
            code: "bad_json",
            message: format!("this is not JSON: {error}"),
            hint: None,
        })
    })
}

fn too_long(len: usize) -> Status {
    refuse(Refusal {
        kind: Kind::InvalidInput,
        code: "json_too_long",
        message: format!("{len} bytes are too many for JSON, {MOST_JSON} is the most"),
        hint: Some("send values of that size as MessagePack".to_owned()),
    })
}

fn encode(value: &Value) -> Result<Bytes, Status> {
    value.encode().map_err(|error| refused(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_of;

    fn json(text: &str) -> Option<proto::Value> {
        Some(proto::Value { encoding: Some(Encoding::Json(text.to_owned())) })
    }

    #[test]
    fn a_call_is_a_pair_or_an_object_or_nothing() {
        let kwargs = vec![(Value::from("b"), Value::from(2))];
        for (value, expected) in [
            (json(r#"[[1], {"b": 2}]"#), call(vec![1.into()], kwargs.clone())),
            (json(r#"{"b": 2}"#), call(Vec::new(), kwargs)),
            (None, call(Vec::new(), Vec::new())),
        ] {
            assert_eq!(Value::decode(&arguments(value).unwrap().0).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_call_is_named() {
        let long = format!("[{}]", "1,".repeat(MOST_JSON));
        for (text, code) in [
            ("[1, 2]", "malformed_value"),
            ("7", "malformed_value"),
            ("[[1], 2]", "malformed_value"),
            ("{", "bad_json"),
            (&long, "json_too_long"),
        ] {
            let status = arguments(json(text)).unwrap_err();
            assert_eq!(error_of(&status).unwrap().code, code);
        }
    }

    #[test]
    fn json_says_what_it_can_and_bytes_pass() {
        let bytes = Value::from(7).encode().unwrap();
        let value = told(bytes.clone(), Form::MsgPack).unwrap();
        assert_eq!(value.encoding, Some(Encoding::Msgpack(bytes.clone())));
        let value = told(bytes, Form::Json).unwrap();
        assert_eq!(value.encoding, Some(Encoding::Json("7".into())));
        let set = Value::Set(vec![1.into()]).encode().unwrap();
        assert_eq!(error_of(&told(set, Form::Json).unwrap_err()).unwrap().code, "not_json");
        let long = Value::Bytes(vec![0; MOST_JSON].into()).encode().unwrap();
        assert_eq!(error_of(&told(long, Form::Json).unwrap_err()).unwrap().code, "json_too_long");
    }
}
