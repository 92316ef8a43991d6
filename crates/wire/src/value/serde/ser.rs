//! From a Rust value to a [`Value`].

use std::cell::Cell;

use bytes::Bytes;
use num_bigint::BigInt;
use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::{FitError, as_value};
use crate::value::Value;

/// How much may be serialized: about one for each item and each byte of a text.
#[derive(Debug)]
pub(super) struct Budget {
    left: Cell<usize>,
    /// More was asked for.
    pub(super) is_over: Cell<bool>,
}

impl Budget {
    pub(super) const fn new(most: usize) -> Self {
        Self { left: Cell::new(most), is_over: Cell::new(false) }
    }
}

/// Makes a value of what is serialized.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToValue<'b>(pub(super) &'b Budget);

impl ToValue<'_> {
    fn spend(self, amount: usize) -> Result<(), FitError> {
        match self.0.left.get().checked_sub(amount) {
            Some(left) => {
                self.0.left.set(left);
                Ok(())
            }
            None => {
                self.0.is_over.set(true);
                Err(FitError::new("it is larger than it may be here"))
            }
        }
    }
}

/// The items of a sequence, and the name of the variant that they are the content of.
#[derive(Debug)]
pub(super) struct Items<'b> {
    to: ToValue<'b>,
    items: Vec<Value>,
    variant: Option<&'static str>,
    is_tuple: bool,
}

/// The pairs of a map or struct, and the name of the variant that they are the content of.
#[derive(Debug)]
pub(super) struct Pairs<'b> {
    to: ToValue<'b>,
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

impl<'b> Items<'b> {
    fn new(to: ToValue<'b>, len: usize, variant: Option<&'static str>, is_tuple: bool) -> Self {
        // A length is only said, not promised.
        Self { to, items: Vec::with_capacity(len.min(4096)), variant, is_tuple }
    }

    fn push<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), FitError> {
        self.items.push(item.serialize(self.to)?);
        Ok(())
    }

    fn finish(self) -> Value {
        let content =
            if self.is_tuple { Value::Tuple(self.items) } else { Value::List(self.items) };
        named(self.variant, content)
    }
}

impl<'b> Pairs<'b> {
    fn new(to: ToValue<'b>, len: usize, variant: Option<&'static str>) -> Self {
        Self { to, pairs: Vec::with_capacity(len.min(4096)), key: None, variant }
    }

    fn push<T: Serialize + ?Sized>(&mut self, key: Value, item: &T) -> Result<(), FitError> {
        self.pairs.push((key, item.serialize(self.to)?));
        Ok(())
    }

    fn finish(self) -> Value {
        named(self.variant, Value::Dict(self.pairs))
    }
}

macro_rules! scalars {
    ($($method:ident: $t:ty),*) => {$(
        fn $method(self, value: $t) -> Result<Value, FitError> {
            self.spend(1)?;
            Ok(value.into())
        }
    )*};
}

impl<'b> Serializer for ToValue<'b> {
    type Ok = Value;
    type Error = FitError;
    type SerializeSeq = Items<'b>;
    type SerializeTuple = Items<'b>;
    type SerializeTupleStruct = Items<'b>;
    type SerializeTupleVariant = Items<'b>;
    type SerializeMap = Pairs<'b>;
    type SerializeStruct = Pairs<'b>;
    type SerializeStructVariant = Pairs<'b>;

    scalars! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32,
        serialize_i64: i64, serialize_i128: i128, serialize_u8: u8, serialize_u16: u16,
        serialize_u32: u32, serialize_u64: u64, serialize_f64: f64
    }

    fn serialize_str(self, value: &str) -> Result<Value, FitError> {
        self.spend(1 + value.len())?;
        Ok(value.into())
    }

    fn serialize_u128(self, value: u128) -> Result<Value, FitError> {
        self.spend(1)?;
        Ok(BigInt::from(value).into())
    }

    fn serialize_f32(self, value: f32) -> Result<Value, FitError> {
        self.spend(1)?;
        Ok(f64::from(value).into())
    }

    fn serialize_char(self, value: char) -> Result<Value, FitError> {
        self.spend(1)?;
        Ok(value.to_string().into())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Value, FitError> {
        self.spend(1 + value.len())?;
        Ok(Value::Bytes(Bytes::copy_from_slice(value)))
    }

    fn serialize_none(self) -> Result<Value, FitError> {
        self.spend(1)?;
        Ok(Value::None)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, FitError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value, FitError> {
        self.spend(1)?;
        Ok(Value::None)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<Value, FitError> {
        self.spend(1)?;
        Ok(Value::None)
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<Value, FitError> {
        self.spend(1 + variant.len())?;
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

    fn serialize_seq(self, len: Option<usize>) -> Result<Items<'b>, FitError> {
        self.spend(1)?;
        Ok(Items::new(self, len.unwrap_or(0), None, false))
    }

    fn serialize_tuple(self, len: usize) -> Result<Items<'b>, FitError> {
        self.spend(1)?;
        Ok(Items::new(self, len, None, true))
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        len: usize,
    ) -> Result<Items<'b>, FitError> {
        self.spend(1)?;
        Ok(Items::new(self, len, None, true))
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Items<'b>, FitError> {
        self.spend(1)?;
        Ok(Items::new(self, len, Some(variant), true))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Pairs<'b>, FitError> {
        self.spend(1)?;
        Ok(Pairs::new(self, len.unwrap_or(0), None))
    }

    fn serialize_struct(self, _name: &'static str, len: usize) -> Result<Pairs<'b>, FitError> {
        self.spend(1)?;
        Ok(Pairs::new(self, len, None))
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Pairs<'b>, FitError> {
        self.spend(1)?;
        Ok(Pairs::new(self, len, Some(variant)))
    }
}

macro_rules! items {
    ($($kind:ident::$method:ident),*) => {$(
        impl $kind for Items<'_> {
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
        impl $kind for Pairs<'_> {
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

impl SerializeMap for Pairs<'_> {
    type Ok = Value;
    type Error = FitError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), FitError> {
        self.key = Some(key.serialize(self.to)?);
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
