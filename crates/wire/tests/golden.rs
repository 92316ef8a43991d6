//! The vectors that the Python package's tests read as well.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use bytes::{Bytes, BytesMut};
use serde_json::Value as Json;
use snakehouse_wire::{
    Array, Arrow, ArrowKind, Assembler, Date, DateTime, Frame, Message, OpenHead, Order, Time,
    TimeDelta, TraceContext, UtcOffset, Value,
};

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
        "set" => Value::Set(items()),
        "frozenset" => Value::FrozenSet(items()),
        "bytearray" => Value::ByteArray(hex(content)),
        "complex" => {
            let bits = hex(content);
            let part = |at: usize| {
                f64::from_bits(u64::from_be_bytes(bits[at..at + 8].try_into().unwrap()))
            };
            Value::Complex(part(0), part(8))
        }
        "date" => date(&numbers(content)).into(),
        "time" => time(&numbers(content)).into(),
        "datetime" => {
            let parts = numbers(content);
            DateTime { date: date(&parts), time: time(&parts[3..]) }.into()
        }
        "timedelta" => {
            let parts: Vec<_> = numbers(content).into_iter().map(Option::unwrap).collect();
            let [seconds, micros] = [parts[1], parts[2]].map(|n| u32::try_from(n).unwrap());
            TimeDelta::new(parts[0].try_into().unwrap(), seconds, micros).unwrap().into()
        }
        "array" => {
            let order = if content[1] == "F" { Order::F } else { Order::C };
            let shape: Vec<_> =
                content[2].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
            let dtype = content[0].as_str().unwrap();
            Array::new(dtype, &shape, order, hex(&content[3])).unwrap().into()
        }
        "arrow" => {
            let kind = if content[0] == 1 { ArrowKind::RecordBatch } else { ArrowKind::Table };
            Arrow { kind, stream: hex(&content[1]) }.into()
        }
        // Nobody but a worker makes these, so there is no other way to have one.
        "reference" | "unsupported" => Value::None,
        other => panic!("{other}"),
    }
}

fn numbers(json: &Json) -> Vec<Option<i64>> {
    json.as_array().unwrap().iter().map(Json::as_i64).collect()
}

fn small(n: Option<i64>) -> u8 {
    n.unwrap().try_into().unwrap()
}

fn date(parts: &[Option<i64>]) -> Date {
    Date::new(parts[0].unwrap().try_into().unwrap(), small(parts[1]), small(parts[2])).unwrap()
}

fn time(parts: &[Option<i64>]) -> Time {
    let micros = parts[3].unwrap().try_into().unwrap();
    let time = Time::new(small(parts[0]), small(parts[1]), small(parts[2]), micros).unwrap();
    let time = time.with_fold(parts[4] == Some(1));
    parts[5].map_or(time, |offset| time.with_offset(UtcOffset::from_micros(offset).unwrap()))
}

#[test]
fn values_have_exactly_these_bytes() {
    for vector in vectors("values") {
        let bytes = hex(&vector["bytes"]);
        let value = match Value::decode(&bytes) {
            Ok(made @ (Value::Reference(_) | Value::Unsupported(_))) => made,
            _ => value_of(&vector["value"]),
        };
        assert_eq!(value.encode().unwrap(), bytes, "{}", vector["name"]);
        assert_eq!(Value::decode(&bytes).unwrap(), value, "{}", vector["name"]);
    }
}

#[test]
fn these_bytes_are_no_value() {
    for vector in vectors("rejected") {
        assert!(Value::decode(&hex(&vector["bytes"])).is_err(), "{}", vector["name"]);
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
            trace: TraceContext {
                trace: hex(&vector["trace"])[..].try_into().unwrap(),
                span: u64::from_be_bytes(hex(&vector["span"])[..].try_into().unwrap()),
                sampled: vector["sampled"].as_bool().unwrap(),
            },
            depth: vector["depth"].as_u64().unwrap().try_into().unwrap(),
            is_stream: flags & OpenHead::STREAM != 0,
            is_nested: flags & OpenHead::NESTED != 0,
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
