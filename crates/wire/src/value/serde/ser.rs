//! From a Rust value to a [`Value`].

use bytes::Bytes;
use num_bigint::BigInt;
use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::{FitError, as_value};
use crate::value::Value;

/// Makes a value of what is serialized.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToValue;

/// The items of a sequence, and the name of the variant that they are the content of.
#[derive(Debug)]
pub(super) struct Items {
    items: Vec<Value>,
    variant: Option<&'static str>,
    is_tuple: bool,
}

/// The pairs of a map or struct, and the name of the variant that they are the content of.
#[derive(Debug)]
pub(super) struct Pairs {
    pairs: Vec<(Value, Value)>,
    key: Option<Value>,
    variant: Option<&'static str>,
}

/// The content of a variant behind its name.
fn named(variant: Option<&'static str>, content: Value) -> Value {
    match variant {
        None => content,
        Some(name) => Value::Dict(vec![(name.into(), content)]),
    }
}

impl Items {
    fn new(len: usize, variant: Option<&'static str>, is_tuple: bool) -> Self {
        // A length is only said, not promised.
        Self { items: Vec::with_capacity(len.min(4096)), variant, is_tuple }
    }

    fn push<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), FitError> {
        self.items.push(item.serialize(ToValue)?);
        Ok(())
    }

    fn finish(self) -> Value {
        let content =
            if self.is_tuple { Value::Tuple(self.items) } else { Value::List(self.items) };
        named(self.variant, content)
    }
}

impl Pairs {
    fn new(len: usize, variant: Option<&'static str>) -> Self {
        Self { pairs: Vec::with_capacity(len.min(4096)), key: None, variant }
    }

    fn push<T: Serialize + ?Sized>(&mut self, key: Value, item: &T) -> Result<(), FitError> {
        self.pairs.push((key, item.serialize(ToValue)?));
        Ok(())
    }

    fn finish(self) -> Value {
        named(self.variant, Value::Dict(self.pairs))
    }
}

macro_rules! scalars {
    ($($method:ident: $t:ty),*) => {$(
        fn $method(self, value: $t) -> Result<Value, FitError> {
            Ok(value.into())
        }
    )*};
}

impl Serializer for ToValue {
    type Ok = Value;
    type Error = FitError;
    type SerializeSeq = Items;
    type SerializeTuple = Items;
    type SerializeTupleStruct = Items;
    type SerializeTupleVariant = Items;
    type SerializeMap = Pairs;
    type SerializeStruct = Pairs;
    type SerializeStructVariant = Pairs;

    scalars! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32,
        serialize_i64: i64, serialize_i128: i128, serialize_u8: u8, serialize_u16: u16,
        serialize_u32: u32, serialize_u64: u64, serialize_f64: f64, serialize_str: &str
    }

    fn serialize_u128(self, value: u128) -> Result<Value, FitError> {
        Ok(BigInt::from(value).into())
    }

    fn serialize_f32(self, value: f32) -> Result<Value, FitError> {
        Ok(f64::from(value).into())
    }

    fn serialize_char(self, value: char) -> Result<Value, FitError> {
        Ok(value.to_string().into())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Value, FitError> {
        Ok(Value::Bytes(Bytes::copy_from_slice(value)))
    }

    fn serialize_none(self) -> Result<Value, FitError> {
        Ok(Value::None)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, FitError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value, FitError> {
        Ok(Value::None)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<Value, FitError> {
        Ok(Value::None)
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<Value, FitError> {
        Ok(variant.into())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<Value, FitError> {
        let content = value.serialize(self)?;
        match content {
            Value::Bytes(encoded) if name == as_value::NAME => {
                Value::decode(&encoded).map_err(|error| FitError::new(error.to_string()))
            }
            content => Ok(content),
        }
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value, FitError> {
        Ok(named(Some(variant), value.serialize(self)?))
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Items, FitError> {
        Ok(Items::new(len.unwrap_or(0), None, false))
    }

    fn serialize_tuple(self, len: usize) -> Result<Items, FitError> {
        Ok(Items::new(len, None, true))
    }

    fn serialize_tuple_struct(self, _name: &'static str, len: usize) -> Result<Items, FitError> {
        Ok(Items::new(len, None, true))
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Items, FitError> {
        Ok(Items::new(len, Some(variant), true))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Pairs, FitError> {
        Ok(Pairs::new(len.unwrap_or(0), None))
    }

    fn serialize_struct(self, _name: &'static str, len: usize) -> Result<Pairs, FitError> {
        Ok(Pairs::new(len, None))
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Pairs, FitError> {
        Ok(Pairs::new(len, Some(variant)))
    }
}

macro_rules! items {
    ($($kind:ident::$method:ident),*) => {$(
        impl $kind for Items {
            type Ok = Value;
            type Error = FitError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), FitError> {
                self.push(value)
            }

            fn end(self) -> Result<Value, FitError> {
                Ok(self.finish())
            }
        }
    )*};
}

items!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

macro_rules! fields {
    ($($kind:ident),*) => {$(
        impl $kind for Pairs {
            type Ok = Value;
            type Error = FitError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), FitError> {
                self.push(name.into(), value)
            }

            fn end(self) -> Result<Value, FitError> {
                Ok(self.finish())
            }
        }
    )*};
}

fields!(SerializeStruct, SerializeStructVariant);

impl SerializeMap for Pairs {
    type Ok = Value;
    type Error = FitError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), FitError> {
        self.key = Some(key.serialize(ToValue)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), FitError> {
        let key =
            self.key.take().ok_or_else(|| FitError::new("a map gave a value before its key"))?;
        self.push(key, value)
    }

    fn end(self) -> Result<Value, FitError> {
        Ok(self.finish())
    }
}
