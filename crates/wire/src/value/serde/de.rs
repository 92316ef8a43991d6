//! From a [`Value`] to a Rust value.

use bytes::Bytes;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    Deserializer, EnumAccess, Error as _, IntoDeserializer, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::{FitError, as_value};
use crate::value::{Int, Value};

/// Integers beyond this are not all floats.
const EXACT: i64 = 1 << 53;

/// A value that is read.
#[derive(Debug)]
pub(super) struct FromValue(pub(super) Value);

impl FromValue {
    fn wrong(&self, expected: &dyn serde::de::Expected) -> FitError {
        FitError::invalid_type(Unexpected::Other(self.0.type_name()), expected)
    }
}

impl<'de> IntoDeserializer<'de, FitError> for FromValue {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

fn visit_int<'de, V: Visitor<'de>>(int: &Int, visitor: V) -> Result<V::Value, FitError> {
    if let Some(n) = int.as_i64() {
        return visitor.visit_i64(n);
    }
    if let Some(n) = int.as_u64() {
        return visitor.visit_u64(n);
    }
    let int = int.to_bigint();
    if let Ok(n) = i128::try_from(&int) {
        return visitor.visit_i128(n);
    }
    match u128::try_from(&int) {
        Ok(n) => visitor.visit_u128(n),
        Err(_) => Err(FitError::invalid_value(
            Unexpected::Other("an int of more than 128 bits"),
            &visitor,
        )),
    }
}

impl<'de> Deserializer<'de> for FromValue {
    type Error = FitError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FitError> {
        match self.0 {
            Value::None => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(b),
            Value::Int(int) => visit_int(&int, visitor),
            Value::Float(x) => visitor.visit_f64(x),
            Value::Str(text) => visitor.visit_string(text),
            Value::Bytes(bytes) | Value::ByteArray(bytes) => visitor.visit_byte_buf(bytes.into()),
            Value::List(items)
            | Value::Tuple(items)
            | Value::Set(items)
            | Value::FrozenSet(items) => visit_items(items, visitor),
            Value::Dict(pairs) => {
                let pairs =
                    pairs.into_iter().map(|(key, value)| (FromValue(key), FromValue(value)));
                let mut map = MapDeserializer::new(pairs);
                let value = visitor.visit_map(&mut map)?;
                map.end()?;
                Ok(value)
            }
            other => Err(Self(other).wrong(&visitor)),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FitError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FitError> {
        match &self.0 {
            // Python takes an int where a float is asked for. One that is no float is refused.
            Value::Int(int) if int.as_i64().is_none_or(|n| !(-EXACT..=EXACT).contains(&n)) => {
                Err(FitError::invalid_value(Unexpected::Other("an int that is no float"), &visitor))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FitError> {
        match self.0 {
            // A list of bytes is what Rust calls bytes.
            Value::Bytes(bytes) | Value::ByteArray(bytes) => visit_bytes(&bytes, visitor),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, FitError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, FitError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FitError> {
        match self.0 {
            Value::None => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, FitError> {
        if name == as_value::NAME {
            let encoded = self.0.encode().map_err(|error| FitError::new(error.to_string()))?;
            return visitor.visit_byte_buf(encoded.into());
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FitError> {
        match self.0 {
            Value::Str(name) => visitor.visit_enum(Variant { name: name.into(), content: None }),
            Value::Dict(pairs) if pairs.len() == 1 => match pairs.into_iter().next() {
                Some((name, content)) => {
                    visitor.visit_enum(Variant { name, content: Some(content) })
                }
                None => Err(FitError::new("a dict lost its pair")),
            },
            Value::Dict(_) => {
                Err(FitError::new("expected the name of a variant, or a dict of that alone"))
            }
            _ => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FitError> {
        // What nobody looks at may be of any type.
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 char str string bytes byte_buf unit
        unit_struct map struct identifier
    }
}

/// All items must be taken.
pub(super) fn visit_items<'de, V: Visitor<'de>>(
    items: Vec<Value>,
    visitor: V,
) -> Result<V::Value, FitError> {
    let mut seq = SeqDeserializer::new(items.into_iter().map(FromValue));
    let value = visitor.visit_seq(&mut seq)?;
    seq.end()?;
    Ok(value)
}

fn visit_bytes<'de, V: Visitor<'de>>(bytes: &Bytes, visitor: V) -> Result<V::Value, FitError> {
    let mut seq = SeqDeserializer::new(bytes.iter().copied());
    let value = visitor.visit_seq(&mut seq)?;
    seq.end()?;
    Ok(value)
}

/// A variant of an enum, with its content if it has any.
struct Variant {
    name: Value,
    content: Option<Value>,
}

struct Content(Option<Value>);

impl Content {
    fn value(self) -> Result<FromValue, FitError> {
        self.0.map(FromValue).ok_or_else(|| FitError::new("the variant's content is missing"))
    }
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = FitError;
    type Variant = Content;

    fn variant_seed<S: serde::de::DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Content), FitError> {
        Ok((seed.deserialize(FromValue(self.name))?, Content(self.content)))
    }
}

impl<'de> VariantAccess<'de> for Content {
    type Error = FitError;

    fn unit_variant(self) -> Result<(), FitError> {
        match self.0 {
            None | Some(Value::None) => Ok(()),
            Some(_) => Err(FitError::new("the variant has no content")),
        }
    }

    fn newtype_variant_seed<S: serde::de::DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<S::Value, FitError> {
        seed.deserialize(self.value()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, FitError> {
        self.value()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FitError> {
        self.value()?.deserialize_any(visitor)
    }
}
