//! Extension types that hold no other values.
//!
//! | code | Python type | content, integers big-endian |
//! |---|---|---|
//! | 1 | `int` outside of −2⁶³..2⁶⁴ | two's complement, shortest |
//! | 2, 3, 4 | `tuple`, `set`, `frozenset` | a MessagePack array; sets sorted by the bytes of the items |
//! | 5 | `bytearray` | its bytes |
//! | 6 | `complex` | the bits of both floats |
//! | 7 | `date` | year u16, month u8, day u8 |
//! | 8 | `time` | hour, minute, second, fold u8, microsecond u32; if aware: offset i64 in microseconds |
//! | 9 | `datetime` | a date, then a time |
//! | 10 | `timedelta` | days i32, seconds u32, microseconds u32 |
//! | 11 | `numpy.ndarray` | length of dtype u8, dtype, order u8 (`C` or `F`), dimensions u8, u64 each, data |
//! | 12 | pyarrow `Table`, `RecordBatch` | u8 (0 or 1), an IPC stream |
//! | 13 | `snakehouse.Reference` | life u64, number u64, name of the class |
//! | 14 | `snakehouse.Unsupported` | name of the class |
//! | 15 | of an attachment (worker to host) | index u8, then a form |
//! | 16 | of a shared buffer (host to worker) | number u64, length u64, then a form |
//!
//! A form is the code of another extension type and what comes before the data in it: 0 for `bytes`,
//! 5, 11 or 12.
//! Codes 1 to 4 are read and written in `codec`. `python/snakehouse/_extensions.py` is the same in
//! Python.

use bytes::Bytes;

use super::array::Layout;
use super::shared::Form;
use super::{
    Array, Arrow, ArrowKind, Date, DateTime, Reference, Time, TimeDelta, Unsupported, Value,
    ValueError,
};

const BYTEARRAY: i8 = 5;
const COMPLEX: i8 = 6;
const DATE: i8 = 7;
const TIME: i8 = 8;
const DATETIME: i8 = 9;
const TIMEDELTA: i8 = 10;
const ARRAY: i8 = 11;
const ARROW: i8 = 12;
const REFERENCE: i8 = 13;
const UNSUPPORTED: i8 = 14;
const ATTACHMENT: i8 = 15;
const SHARED: i8 = 16;
/// The form of plain bytes.
const PLAIN: i8 = 0;

/// The code, the bytes that come first, and those that need not be copied into them.
pub(super) fn parts(value: &Value, head: &mut Vec<u8>) -> Option<(i8, Bytes)> {
    let code = match value {
        Value::ByteArray(bytes) => return Some((BYTEARRAY, bytes.clone())),
        Value::Complex(real, imaginary) => {
            head.extend_from_slice(&real.to_bits().to_be_bytes());
            head.extend_from_slice(&imaginary.to_bits().to_be_bytes());
            COMPLEX
        }
        Value::Date(date) => {
            date.put(head);
            DATE
        }
        Value::Time(time) => {
            time.put(head);
            TIME
        }
        Value::DateTime(moment) => {
            moment.put(head);
            DATETIME
        }
        Value::TimeDelta(delta) => {
            delta.put(head);
            TIMEDELTA
        }
        Value::Array(array) => {
            array.layout().put(head);
            return Some((ARRAY, array.data().clone()));
        }
        Value::Arrow(arrow) => {
            head.push(arrow_code(arrow.kind));
            return Some((ARROW, arrow.stream.clone()));
        }
        Value::Reference(reference) => {
            head.extend_from_slice(&reference.life.to_be_bytes());
            head.extend_from_slice(&reference.number.to_be_bytes());
            head.extend_from_slice(reference.type_name.as_bytes());
            REFERENCE
        }
        Value::Shared(shared) => {
            shared.put(head);
            SHARED
        }
        Value::Unsupported(mark) => {
            head.extend_from_slice(mark.type_name.as_bytes());
            UNSUPPORTED
        }
        _ => return None,
    };
    Some((code, Bytes::new()))
}

/// The value of such content, which lies in `whole`.
pub(super) fn take(
    code: i8,
    content: &[u8],
    whole: &Bytes,
    attached: &[Bytes],
) -> Result<Value, ValueError> {
    let value = match code {
        ATTACHMENT => attachment(content, attached),
        BYTEARRAY => Some(Value::ByteArray(whole.slice_ref(content))),
        COMPLEX => complex(content),
        DATE => Date::take(content).map(Value::Date),
        TIME => Time::take(content).map(Value::Time),
        DATETIME => DateTime::take(content).map(Value::DateTime),
        TIMEDELTA => TimeDelta::take(content).map(Value::TimeDelta),
        ARRAY => array(content, whole),
        ARROW => arrow(content, whole),
        REFERENCE => reference(content),
        UNSUPPORTED => {
            type_name(content).map(|type_name| Value::Unsupported(Unsupported { type_name }))
        }
        _ => return Err(ValueError::UnknownExtension(code)),
    };
    value.ok_or(ValueError::BadExtension(code))
}

fn arrow_code(kind: ArrowKind) -> u8 {
    match kind {
        ArrowKind::Table => 0,
        ArrowKind::RecordBatch => 1,
    }
}

pub(super) fn put_form(form: &Form, out: &mut Vec<u8>) {
    match form {
        Form::Bytes => out.extend_from_slice(&PLAIN.to_be_bytes()),
        Form::Array(layout) => {
            out.extend_from_slice(&ARRAY.to_be_bytes());
            layout.put(out);
        }
        Form::Arrow(kind) => {
            out.extend_from_slice(&ARROW.to_be_bytes());
            out.push(arrow_code(*kind));
        }
    }
}

fn attachment(content: &[u8], attached: &[Bytes]) -> Option<Value> {
    let (&[index, form], head) = content.split_first_chunk()?;
    let data = attached.get(usize::from(index))?.clone();
    match (i8::from_be_bytes([form]), head) {
        (PLAIN, []) => Some(Value::Bytes(data)),
        (BYTEARRAY, []) => Some(Value::ByteArray(data)),
        (ARRAY, head) => {
            let (dtype, order, shape, []) = Layout::take(head)? else { return None };
            Array::new(dtype, &shape, order, data).ok().map(Value::Array)
        }
        (ARROW, [0]) => Some(Value::Arrow(Arrow { kind: ArrowKind::Table, stream: data })),
        (ARROW, [1]) => Some(Value::Arrow(Arrow { kind: ArrowKind::RecordBatch, stream: data })),
        _ => None,
    }
}

fn complex(content: &[u8]) -> Option<Value> {
    let ([real, imaginary], []) = content.as_chunks::<8>() else { return None };
    let part = |bytes: &[u8; 8]| f64::from_bits(u64::from_be_bytes(*bytes));
    Some(Value::Complex(part(real), part(imaginary)))
}

fn array(content: &[u8], whole: &Bytes) -> Option<Value> {
    let (dtype, order, shape, data) = Layout::take(content)?;
    Array::new(dtype, &shape, order, whole.slice_ref(data)).ok().map(Value::Array)
}

fn arrow(content: &[u8], whole: &Bytes) -> Option<Value> {
    let (kind, stream) = content.split_first()?;
    let kind = match kind {
        0 => ArrowKind::Table,
        1 => ArrowKind::RecordBatch,
        _ => return None,
    };
    Some(Value::Arrow(Arrow { kind, stream: whole.slice_ref(stream) }))
}

fn reference(content: &[u8]) -> Option<Value> {
    let (life, rest) = content.split_first_chunk()?;
    let (number, name) = rest.split_first_chunk()?;
    Some(Value::Reference(Reference {
        life: u64::from_be_bytes(*life),
        number: u64::from_be_bytes(*number),
        type_name: type_name(name)?,
    }))
}

fn type_name(bytes: &[u8]) -> Option<Box<str>> {
    let fits = !bytes.is_empty() && bytes.len() <= Reference::MAX_NAME;
    std::str::from_utf8(bytes).ok().filter(|_| fits).map(Into::into)
}
