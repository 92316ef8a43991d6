//! Python's built-in values, exactly.
//!
//! [`Value`] holds what travels in the body of a Python call. What goes in comes out equal and of
//! the same type, or is refused with a [`ValueError`]: integers of any size, floats bit by bit (the
//! payload of a NaN and the sign of zero included), tuples apart from lists, sets, dicts in their
//! order with any hashable key, dates and times to the microsecond, arrays with type, shape and
//! order. Conversions from and to Rust types are in `convert`, the bytes in `codec` and `ext`.
//! Tested by round trips of generated values, through a real worker as well, by garbage, and
//! against the Python package by the golden vectors in `tests/golden`.

mod array;
mod codec;
mod convert;
mod ext;
mod extent;
mod int;
mod keys;
mod marker;
pub mod serde;
mod shared;
mod size;
mod time;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use snakehouse_base::{Coded, Kind};

use crate::buffer::SharedBuffer;

pub(crate) use array::Layout;
pub use array::{Array, Element, Order};
pub use convert::ConvertError;
pub use int::Int;
pub use marker::{Arrow, ArrowKind, Reference, Unsupported};
pub(crate) use shared::Form;
pub use shared::Shared;
pub use time::{Date, DateTime, Time, TimeDelta, UtcOffset};

/// A Python value.
///
/// Two values are equal if they have the same type and content; floats are compared by their bits,
/// so a NaN equals itself and `0.0` differs from `-0.0`. Sets are equal in any order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Value {
    /// `None`.
    None,
    /// `bool`.
    Bool(bool),
    /// `int` of any size.
    Int(Int),
    /// `float`.
    Float(f64),
    /// `str`. Python strings with lone surrogates do not travel.
    Str(String),
    /// `bytes`.
    Bytes(Bytes),
    /// `list`.
    List(Vec<Value>),
    /// `tuple`.
    Tuple(Vec<Value>),
    /// `dict`, in insertion order. Keys must be hashable in Python and distinct under its
    /// equality (`1`, `1.0` and `True` are one key); [`encode`](Value::encode) refuses others.
    Dict(Vec<(Value, Value)>),
    /// `set`. Its items are as the keys of a dict, in no order.
    Set(Vec<Value>),
    /// `frozenset`. Its items are as the keys of a dict, in no order.
    FrozenSet(Vec<Value>),
    /// `bytearray`.
    ByteArray(Bytes),
    /// `complex`: the real and the imaginary part.
    Complex(f64, f64),
    /// `datetime.date`.
    Date(Date),
    /// `datetime.time`.
    Time(Time),
    /// `datetime.datetime`.
    DateTime(DateTime),
    /// `datetime.timedelta`.
    TimeDelta(TimeDelta),
    /// `numpy.ndarray`.
    Array(Array),
    /// `pyarrow.Table` or `pyarrow.RecordBatch`.
    Arrow(Arrow),
    /// An object that stays in its worker.
    Reference(Reference),
    /// The mark of an object that does not travel.
    Unsupported(Unsupported),
    /// Bytes that many calls share. Goes to workers only, so it never comes out of
    /// [`decode`](Value::decode).
    Shared(Shared),
}

/// Why a value does not travel, or why bytes are not a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// Nested deeper than [`Value::MAX_DEPTH`].
    #[error("value is nested deeper than {} levels", Value::MAX_DEPTH)]
    TooDeep,
    /// Longer than [`Value::MAX_BYTES`] when encoded.
    #[error("value is longer than {} bytes", Value::MAX_BYTES)]
    TooLarge,
    /// More than [`Value::MAX_ITEMS`] values inside of one.
    #[error("value has more than {} items", Value::MAX_ITEMS)]
    TooManyItems,
    /// It names more shared buffers than [`Value::MAX_BUFFERS`].
    #[error("value has more than {} shared buffers", Value::MAX_BUFFERS)]
    TooManyBuffers,
    /// A dict has two keys that are one in Python, or a set two such items.
    #[error("dict or set has the key {0} twice")]
    DuplicateKey(String),
    /// A dict has a key, or a set an item, of this type.
    #[error("a {0} cannot be a dict key or in a set")]
    UnhashableKey(&'static str),
    /// What was said of an array cannot be.
    #[error("array {0}")]
    BadArray(&'static str),
    /// A shared buffer cannot be read.
    #[error("a shared buffer cannot be read")]
    Unreadable,
    /// A Rust value that this Python type does not hold exactly.
    #[error("out of the range or precision of {0}")]
    OutOfRange(&'static str),
    /// The bytes end within a value.
    #[error("bytes end within a value")]
    Truncated,
    /// The bytes go on after the value.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    BadUtf8,
    /// A byte that begins no value.
    #[error("no value begins with byte {0:#04x}")]
    UnknownMarker(u8),
    /// An extension type that this version does not know.
    #[error("extension type {0} is unknown")]
    UnknownExtension(i8),
    /// An extension type with content that it cannot have.
    #[error("extension type {0} has malformed content")]
    BadExtension(i8),
}

impl Coded for ValueError {
    fn kind(&self) -> Kind {
        match self {
            Self::TooDeep
            | Self::TooLarge
            | Self::TooManyItems
            | Self::TooManyBuffers
            | Self::DuplicateKey(_)
            | Self::UnhashableKey(_)
            | Self::BadArray(_)
            | Self::OutOfRange(_) => Kind::InvalidInput,
            Self::Unreadable => Kind::Unavailable,
            _ => Kind::Corrupt,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::TooDeep => "value_too_deep",
            Self::TooLarge => "value_too_large",
            Self::TooManyItems => "value_too_many_items",
            Self::TooManyBuffers => "value_too_many_buffers",
            Self::DuplicateKey(_) => "value_duplicate_key",
            Self::UnhashableKey(_) => "value_unhashable_key",
            Self::BadArray(_) => "value_bad_array",
            Self::OutOfRange(_) => "value_out_of_range",
            Self::Unreadable => "value_unreadable",
            _ => "value_malformed",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::TooLarge | Self::TooManyItems => {
                Some("pass large data as bytes, or in several calls".to_owned())
            }
            Self::TooManyBuffers => {
                Some("put more into each buffer, or pass them in several calls".to_owned())
            }
            _ => None,
        }
    }
}

impl Value {
    /// Most levels of nesting; a value in a list in a list has three.
    pub const MAX_DEPTH: usize = 128;
    /// Most bytes of an encoded value.
    pub const MAX_BYTES: usize = 256 << 20;
    /// Most values inside of one value, at all levels together.
    pub const MAX_ITEMS: usize = 1 << 24;
    /// Most shared buffers that one value names, each counted once. Copied ones do not count.
    pub const MAX_BUFFERS: usize = 64;

    /// The name of the value's type in Python.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::Set(_) => "set",
            Self::FrozenSet(_) => "frozenset",
            Self::ByteArray(_) => "bytearray",
            Self::Complex(..) => "complex",
            Self::Date(_) => "datetime.date",
            Self::Time(_) => "datetime.time",
            Self::DateTime(_) => "datetime.datetime",
            Self::TimeDelta(_) => "datetime.timedelta",
            Self::Array(_) => "numpy.ndarray",
            Self::Arrow(Arrow { kind: ArrowKind::Table, .. }) => "pyarrow.Table",
            Self::Arrow(Arrow { kind: ArrowKind::RecordBatch, .. }) => "pyarrow.RecordBatch",
            Self::Reference(_) => "snakehouse.Reference",
            Self::Unsupported(_) => "snakehouse.Unsupported",
            Self::Shared(_) => "memoryview of a shared buffer",
        }
    }

    /// The value under a string key, if this is a dict that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Dict(pairs) => {
                pairs.iter().find(|(k, _)| k.as_str() == Some(key)).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// The text, if this is a `str`.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The items, if this is a `list` or a `tuple`.
    pub fn as_slice(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) | Self::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The items, if this is a `set` or a `frozenset`.
    pub fn as_set(&self) -> Option<&[Self]> {
        match self {
            Self::Set(items) | Self::FrozenSet(items) => Some(items),
            _ => None,
        }
    }

    /// The number, if this is an `int` that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(int) => int.as_i64(),
            _ => None,
        }
    }

    /// The value's bytes.
    ///
    /// # Errors
    /// [`ValueError`] if it breaks a limit or has a dict that Python cannot hold.
    pub fn encode(&self) -> Result<Bytes, ValueError> {
        codec::encode(self).map(Bytes::from)
    }

    /// The body of a Python call: the value `[args, kwargs]`. With `by_name` shared buffers are only
    /// named in it, and given beside it, each once: whoever reads the body must have got them.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), and if it names more than [`Value::MAX_BUFFERS`].
    pub fn encode_call(
        args: &[Self],
        kwargs: &[(String, Self)],
        by_name: bool,
    ) -> Result<(Bytes, Vec<SharedBuffer>), ValueError> {
        let (bytes, buffers) = codec::encode_call(args, kwargs, by_name)?;
        if buffers.len() > Self::MAX_BUFFERS {
            return Err(ValueError::TooManyBuffers);
        }
        Ok((bytes.into(), buffers))
    }

    /// The value of these bytes, all of them. `bytes` inside of it are slices of the input.
    ///
    /// # Errors
    /// [`ValueError`] says what is wrong with them. Never panics, and never allocates much more
    /// than a value of so many bytes needs.
    pub fn decode(bytes: &Bytes) -> Result<Self, ValueError> {
        codec::decode(bytes)
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => a == b,
            (Self::Dict(a), Self::Dict(b)) => a == b,
            (Self::Set(a), Self::Set(b)) | (Self::FrozenSet(a), Self::FrozenSet(b)) => {
                same_items(a, b)
            }
            (Self::ByteArray(a), Self::ByteArray(b)) => a == b,
            (Self::Complex(a, b), Self::Complex(c, d)) => {
                (a.to_bits(), b.to_bits()) == (c.to_bits(), d.to_bits())
            }
            (Self::Date(a), Self::Date(b)) => a == b,
            (Self::Time(a), Self::Time(b)) => a == b,
            (Self::DateTime(a), Self::DateTime(b)) => a == b,
            (Self::TimeDelta(a), Self::TimeDelta(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a == b,
            (Self::Arrow(a), Self::Arrow(b)) => a == b,
            (Self::Reference(a), Self::Reference(b)) => a == b,
            (Self::Unsupported(a), Self::Unsupported(b)) => a == b,
            (Self::Shared(a), Self::Shared(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

/// Whether two lists have the same items in any order.
fn same_items(a: &[Value], b: &[Value]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if a == b {
        return true;
    }
    let mut left: HashMap<&Value, usize> = HashMap::with_capacity(a.len());
    a.iter().for_each(|item| *left.entry(item).or_default() += 1);
    b.iter().all(|item| match left.get_mut(item) {
        Some(n) if *n > 0 => {
            *n -= 1;
            true
        }
        _ => false,
    })
}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::None => {}
            Self::Bool(v) => v.hash(state),
            Self::Int(v) => v.hash(state),
            Self::Float(v) => v.to_bits().hash(state),
            Self::Str(v) => v.hash(state),
            Self::Bytes(v) => v.hash(state),
            Self::List(v) | Self::Tuple(v) => v.hash(state),
            Self::Dict(v) => v.hash(state),
            Self::Set(items) | Self::FrozenSet(items) => {
                let each = items.iter().map(|item| {
                    let mut own = DefaultHasher::new();
                    item.hash(&mut own);
                    own.finish()
                });
                each.fold(0, u64::wrapping_add).hash(state);
            }
            Self::ByteArray(v) => v.hash(state),
            Self::Complex(a, b) => (a.to_bits(), b.to_bits()).hash(state),
            Self::Date(v) => v.hash(state),
            Self::Time(v) => v.hash(state),
            Self::DateTime(v) => v.hash(state),
            Self::TimeDelta(v) => v.hash(state),
            Self::Array(v) => v.hash(state),
            Self::Arrow(v) => v.hash(state),
            Self::Reference(v) => v.hash(state),
            Self::Unsupported(v) => v.hash(state),
            Self::Shared(v) => v.hash(state),
        }
    }
}
