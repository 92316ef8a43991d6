//! The arguments of a call to a Rust value: by the names of a struct's fields, or by position.

use serde::de::value::MapDeserializer;
use serde::de::{Deserializer, Visitor};

use super::FitError;
use super::de::{FromValue, visit_items};
use crate::value::Value;

/// Arguments that are read.
#[derive(Debug)]
pub(super) struct FromArgs {
    pub(super) args: Vec<Value>,
    pub(super) kwargs: Vec<(String, Value)>,
}

impl FromArgs {
    fn only_by_position(self) -> Result<Vec<Value>, FitError> {
        match self.kwargs.first() {
            None => Ok(self.args),
            Some((name, _)) => Err(FitError::new(format!("there is no argument named {name}"))),
        }
    }

    /// The only argument.
    fn one(self) -> Result<FromValue, FitError> {
        let args = self.only_by_position()?;
        let count = args.len();
        match <[Value; 1]>::try_from(args) {
            Ok([only]) => Ok(FromValue(only)),
            Err(_) => Err(FitError::new(format!("expected 1 argument by position, found {count}"))),
        }
    }

    /// Every argument by its name.
    fn named(self, fields: &'static [&'static str]) -> Result<Vec<(String, Value)>, FitError> {
        if self.args.len() > fields.len() {
            let (most, count) = (fields.len(), self.args.len());
            return Err(FitError::new(format!(
                "expected at most {most} arguments by position, found {count}"
            )));
        }
        let mut named: Vec<_> = fields.iter().map(|&name| name.to_owned()).zip(self.args).collect();
        for (name, value) in self.kwargs {
            if named.iter().any(|(known, _)| *known == name) {
                return Err(FitError::new(format!("argument {name} is given twice")));
            }
            if !fields.contains(&name.as_str()) {
                let known = fields.join(", ");
                return Err(FitError::new(format!(
                    "there is no argument named {name}, only {known}"
                )));
            }
            named.push((name, value));
        }
        Ok(named)
    }
}

macro_rules! takes_one {
    ($($method:ident),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FitError> {
            self.one()?.$method(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for FromArgs {
    type Error = FitError;

    takes_one! {
        deserialize_any, deserialize_bool, deserialize_i8, deserialize_i16, deserialize_i32,
        deserialize_i64, deserialize_i128, deserialize_u8, deserialize_u16, deserialize_u32,
        deserialize_u64, deserialize_u128, deserialize_f32, deserialize_f64, deserialize_char,
        deserialize_str, deserialize_string, deserialize_bytes, deserialize_byte_buf,
        deserialize_option, deserialize_identifier
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FitError> {
        match self.only_by_position()?.len() {
            0 => visitor.visit_unit(),
            count => Err(FitError::new(format!("expected no arguments, found {count}"))),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, FitError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, FitError> {
        if name == super::as_value::NAME {
            return self.one()?.deserialize_newtype_struct(name, visitor);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FitError> {
        visit_items(self.only_by_position()?, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, FitError> {
        let args = self.only_by_position()?;
        if args.len() != len {
            let count = args.len();
            return Err(FitError::new(format!(
                "expected {len} arguments by position, found {count}"
            )));
        }
        visit_items(args, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, FitError> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FitError> {
        if !self.args.is_empty() {
            return Err(FitError::new("arguments are given by name here, not by position"));
        }
        let pairs = self.kwargs.into_iter().map(|(name, value)| (name, FromValue(value)));
        visitor.visit_map(MapDeserializer::new(pairs))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FitError> {
        let pairs = self.named(fields)?.into_iter().map(|(name, value)| (name, FromValue(value)));
        visitor.visit_map(MapDeserializer::new(pairs))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FitError> {
        self.one()?.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FitError> {
        visitor.visit_unit()
    }
}
