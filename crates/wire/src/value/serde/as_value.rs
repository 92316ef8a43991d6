//! For a field that is a [`Value`] as it is: `#[serde(with = "as_value")]`.
//!
//! Dates, arrays, sets, bytearrays and integers of any size have no word in serde. A field that is
//! marked so takes and gives them, whatever they are, without a change. It means something only to
//! [`Value::from_serde`] and its kin; to other formats it is a few bytes.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::ser::{Error as _, Serialize, Serializer};

use crate::value::Value;

/// A newtype of this name holds the bytes of a value.
pub(super) const NAME: &str = "$snakehouse::Value";

/// Writes the value as it is.
///
/// # Errors
/// The serializer's, if the value breaks a limit.
pub fn serialize<S: Serializer>(value: &Value, serializer: S) -> Result<S::Ok, S::Error> {
    let encoded = value.encode().map_err(S::Error::custom)?;
    serializer.serialize_newtype_struct(NAME, &Raw(&encoded))
}

/// Reads the value as it is.
///
/// # Errors
/// The deserializer's, if it is not one of a value.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    let encoded = deserializer.deserialize_newtype_struct(NAME, Encoded)?;
    Value::decode(&encoded).map_err(D::Error::custom)
}

struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

struct Encoded;

impl<'de> Visitor<'de> for Encoded {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
        Ok(bytes.into())
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        deserializer.deserialize_byte_buf(self)
    }
}
