//! Python's built-in values, exactly.
//!
//! [`Value`] holds what travels in the body of a Python call. What goes in comes out equal and of
//! the same type, or is refused with a [`ValueError`]: integers of any size, floats bit by bit (the
//! payload of a NaN and the sign of zero included), tuples apart from lists, dicts in their order
//! with any hashable key. Conversions from and to Rust types are in `convert`, the bytes in
//! `codec`. Tested by round trips of generated values and by garbage, and against the Python
//! package by the golden vectors in `tests/golden`.

mod codec;
mod convert;
mod int;
mod keys;

use std::hash::{Hash, Hasher};

use bytes::Bytes;
use snakehouse_base::{Coded, Kind};

pub use convert::ConvertError;
pub use int::Int;

/// A Python value.
///
/// Two values are equal if they have the same type and content; floats are compared by their bits,
/// so a NaN equals itself and `0.0` differs from `-0.0`.
#[derive(Clone, Debug)]
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
    /// A dict has two keys that are one in Python.
    #[error("dict has the key {0} twice")]
    DuplicateKey(String),
    /// A dict has a key of this type.
    #[error("a {0} cannot be a dict key")]
    UnhashableKey(&'static str),
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
            | Self::DuplicateKey(_)
            | Self::UnhashableKey(_) => Kind::InvalidInput,
            _ => Kind::Corrupt,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::TooDeep => "value_too_deep",
            Self::TooLarge => "value_too_large",
            Self::TooManyItems => "value_too_many_items",
            Self::DuplicateKey(_) => "value_duplicate_key",
            Self::UnhashableKey(_) => "value_unhashable_key",
            _ => "value_malformed",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::TooLarge | Self::TooManyItems => {
                Some("pass large data as bytes, or in several calls".to_owned())
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
            _ => false,
        }
    }
}

impl Eq for Value {}

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
        }
    }
}
