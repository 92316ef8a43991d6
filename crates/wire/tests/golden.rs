//! The vectors that the Python package's tests read as well.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use bytes::{Bytes, BytesMut};
use serde_json::Value as Json;
use snakehouse_wire::{Assembler, Frame, Message, OpenHead, Value};

fn vectors(section: &str) -> Vec<Json> {
    let file: Json = serde_json::from_str(include_str!("golden/vectors.json")).unwrap();
    let list = file[section].as_array().unwrap().clone();
    assert!(!list.is_empty());
    list
}

fn hex(json: &Json) -> Bytes {
    let text = json.as_str().unwrap();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn value_of(tagged: &Json) -> Value {
    let Some(map) = tagged.as_object() else { return Value::None };
    let (tag, content) = map.iter().next().unwrap();
    let items = || content.as_array().unwrap().iter().map(value_of).collect::<Vec<_>>();
    match tag.as_str() {
        "bool" => content.as_bool().unwrap().into(),
        "int" => {
            Value::Int(content.as_str().unwrap().parse::<num_bigint::BigInt>().unwrap().into())
        }
        "float" => {
            Value::Float(f64::from_bits(u64::from_be_bytes(hex(content)[..].try_into().unwrap())))
        }
        "str" => content.as_str().unwrap().into(),
        "bytes" => hex(content).into(),
        "list" => Value::List(items()),
        "tuple" => Value::Tuple(items()),
        "dict" => Value::Dict(
            content
                .as_array()
                .unwrap()
                .iter()
                .map(|pair| (value_of(&pair[0]), value_of(&pair[1])))
                .collect(),
        ),
        other => panic!("{other}"),
    }
}

#[test]
fn values_have_exactly_these_bytes() {
    for vector in vectors("values") {
        let (value, bytes) = (value_of(&vector["value"]), hex(&vector["bytes"]));
        assert_eq!(value.encode().unwrap(), bytes, "{}", vector["name"]);
        assert_eq!(Value::decode(&bytes).unwrap(), value, "{}", vector["name"]);
    }
}

#[test]
fn these_bytes_are_no_value() {
    for vector in vectors("rejected") {
        let decoded = Value::decode(&hex(&vector["bytes"]));
        // Rust holds a dict with a list as key; it will not send one to Python.
        let refused = decoded.map(|value| value.encode()).map_or(true, |bytes| bytes.is_err());
        assert!(refused, "{}", vector["name"]);
    }
}

#[test]
fn frames_have_exactly_these_bytes() {
    for vector in vectors("frames") {
        let bytes = hex(&vector["bytes"]);
        let mut buf = BytesMut::from(&bytes[..]);
        let frame = Frame::decode(&mut buf).unwrap().unwrap();
        assert!(buf.is_empty());
        assert_eq!(u64::from(frame.kind as u8), vector["kind"].as_u64().unwrap());
        let stream = u32::try_from(vector["stream"].as_u64().unwrap()).unwrap();
        assert_eq!(frame.stream, stream);
        let body = hex(&vector["body"]);
        if vector.get("tool").is_none() {
            assert_eq!(frame.payload, body, "{}", vector["name"]);
            continue;
        }
        let flags = u16::try_from(vector["flags"].as_u64().unwrap()).unwrap();
        let number = |key: &str| vector[key].as_str().unwrap().parse::<u64>().unwrap();
        let head = OpenHead {
            tool: u16::try_from(vector["tool"].as_u64().unwrap()).unwrap(),
            deadline_micros: number("deadline_micros"),
            session: number("session"),
            trace: hex(&vector["trace"])[..].try_into().unwrap(),
            is_stream: flags & OpenHead::STREAM != 0,
        };
        let more = flags & OpenHead::MORE != 0;
        let mut assembler = Assembler::worker(1 << 20);
        let message = assembler.push(frame).unwrap();
        if more {
            assert_eq!((message, assembler.held()), (None, body.len()));
        } else {
            let message = message.unwrap();
            assert_eq!(message, Message::Open { stream, head, body });
            let mut out = BytesMut::new();
            message.encode(&mut out);
            assert_eq!(out, bytes);
        }
    }
}

#[test]
fn these_frames_end_a_connection() {
    for vector in vectors("bad_frames") {
        let mut buf = BytesMut::from(&hex(&vector["bytes"])[..]);
        let refused = match Frame::decode(&mut buf) {
            Err(_) => true,
            Ok(Some(frame)) => Assembler::worker(1 << 20).push(frame).is_err(),
            Ok(None) => false,
        };
        assert!(refused, "{}", vector["name"]);
    }
}
