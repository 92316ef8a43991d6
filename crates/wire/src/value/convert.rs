//! From Rust types to values and back.

use bytes::Bytes;
use num_bigint::BigInt;
use snakehouse_base::{Coded, Kind};

use super::{Array, Arrow, Date, DateTime, Int, Reference, Time, TimeDelta, Value};

/// A value is not of the Rust type that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub struct ConvertError {
    expected: &'static str,
    found: &'static str,
}

impl ConvertError {
    /// `found` is not the `expected` type.
    pub fn expected(expected: &'static str, found: &Value) -> Self {
        Self { expected, found: found.type_name() }
    }
}

impl Coded for ConvertError {
    fn kind(&self) -> Kind {
        Kind::InvalidInput
    }

    fn code(&self) -> &'static str {
        "value_type_mismatch"
    }
}

impl Value {
    fn mismatch(&self, expected: &'static str) -> ConvertError {
        ConvertError::expected(expected, self)
    }
}

macro_rules! from_int {
    ($via:ty: $($t:ty),*) => {$(
        impl From<$t> for Value {
            fn from(n: $t) -> Self {
                Self::Int(Int::from(<$via>::from(n)))
            }
        }
    )*};
}

from_int!(i64: i8, i16, i32, i64, u8, u16, u32);
from_int!(u64: u64);
from_int!(i128: i128);

impl From<BigInt> for Value {
    fn from(n: BigInt) -> Self {
        Self::Int(n.into())
    }
}

impl From<()> for Value {
    fn from((): ()) -> Self {
        Self::None
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<f64> for Value {
    fn from(x: f64) -> Self {
        Self::Float(x)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Str(text)
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(bytes))
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

impl<K: Into<Value>, V: Into<Value>> FromIterator<(K, V)> for Value {
    /// A dict.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self::Dict(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

macro_rules! try_into_int {
    ($($t:ty),*) => {$(
        impl TryFrom<Value> for $t {
            type Error = ConvertError;

            fn try_from(value: Value) -> Result<Self, ConvertError> {
                let fits = match &value {
                    Value::Int(int) => <$t>::try_from(&int.to_bigint()).ok(),
                    _ => None,
                };
                fits.ok_or_else(|| value.mismatch(concat!("an int that fits ", stringify!($t))))
            }
        }
    )*};
}

try_into_int!(i32, i64, u32, u64, i128);

impl TryFrom<Value> for () {
    type Error = ConvertError;

    fn try_from(value: Value) -> Result<Self, ConvertError> {
        match value {
            Value::None => Ok(()),
            other => Err(other.mismatch("NoneType")),
        }
    }
}

impl TryFrom<Value> for bool {
    type Error = ConvertError;

    fn try_from(value: Value) -> Result<Self, ConvertError> {
        match value {
            Value::Bool(b) => Ok(b),
            other => Err(other.mismatch("bool")),
        }
    }
}

impl TryFrom<Value> for f64 {
    type Error = ConvertError;

    fn try_from(value: Value) -> Result<Self, ConvertError> {
        match value {
            Value::Float(x) => Ok(x),
            other => Err(other.mismatch("float")),
        }
    }
}

impl TryFrom<Value> for String {
    type Error = ConvertError;

    fn try_from(value: Value) -> Result<Self, ConvertError> {
        match value {
            Value::Str(text) => Ok(text),
            other => Err(other.mismatch("str")),
        }
    }
}

impl TryFrom<Value> for Bytes {
    type Error = ConvertError;

    fn try_from(value: Value) -> Result<Self, ConvertError> {
        match value {
            Value::Bytes(bytes) => Ok(bytes),
            other => Err(other.mismatch("bytes")),
        }
    }
}

impl<T: TryFrom<Value, Error = ConvertError>> TryFrom<Value> for Vec<T> {
    type Error = ConvertError;

    fn try_from(value: Value) -> Result<Self, ConvertError> {
        match value {
            Value::List(items) | Value::Tuple(items) => {
                items.into_iter().map(T::try_from).collect()
            }
            other => Err(other.mismatch("list or tuple")),
        }
    }
}

macro_rules! own_type {
    ($($t:ident: $expected:literal),*) => {$(
        impl From<$t> for Value {
            fn from(value: $t) -> Self {
                Self::$t(value)
            }
        }

        impl TryFrom<Value> for $t {
            type Error = ConvertError;

            fn try_from(value: Value) -> Result<Self, ConvertError> {
                match value {
                    Value::$t(value) => Ok(value),
                    other => Err(other.mismatch($expected)),
                }
            }
        }
    )*};
}

own_type!(
    Date: "datetime.date", Time: "datetime.time", DateTime: "datetime.datetime",
    TimeDelta: "datetime.timedelta", Array: "numpy.ndarray", Arrow: "a pyarrow table or batch",
    Reference: "snakehouse.Reference"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_types_come_back() {
        assert_eq!(i64::try_from(Value::from(-7)), Ok(-7));
        assert_eq!(u64::try_from(Value::from(u64::MAX)), Ok(u64::MAX));
        assert_eq!(Vec::<String>::try_from(Value::from(vec!["a", "b"])).unwrap(), ["a", "b"]);
        assert_eq!(Value::from(None::<bool>), Value::None);
        let dict: Value = [("k", 1), ("l", 2)].into_iter().collect();
        assert_eq!(dict.get("l").and_then(Value::as_i64), Some(2));
        let array = Array::of(&[2], &[1u8, 2]).unwrap();
        assert_eq!(Array::try_from(Value::from(array.clone())), Ok(array));
    }

    #[test]
    fn a_wrong_type_is_named() {
        let error = i32::try_from(Value::from(1i64 << 40)).unwrap_err();
        assert_eq!(error.to_string(), "expected an int that fits i32, found int");
        let error = Vec::<i64>::try_from(Value::from("no")).unwrap_err();
        assert_eq!(error.to_string(), "expected list or tuple, found str");
    }
}
