//! Values from and to the types of a program, by serde.
//!
//! What goes through here is exact or refused: an integer that does not fit, a float for an integer,
//! a type that serde has no word for are errors that name both sides. A struct and a map are a
//! `dict`, a tuple is a `tuple`, every other sequence a `list`, `Option::None` and `()` are `None`, an
//! enum is the name of its variant or a `dict` of that name and the content. Dates, arrays and all
//! else that serde does not know travel in a field marked `#[serde(with = "as_value")]`.
//! Tested by round trips in `tests/serde.rs`.

mod args;
pub mod as_value;
mod de;
mod ser;

use std::fmt;

use ::serde::Serialize;
use ::serde::de::DeserializeOwned;
use snakehouse_base::{Coded, Kind};

use super::Value;

/// A value and a type that do not fit each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FitError(String);

impl FitError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl Coded for FitError {
    fn kind(&self) -> Kind {
        Kind::InvalidInput
    }

    fn code(&self) -> &'static str {
        "value_type_mismatch"
    }
}

impl ::serde::de::Error for FitError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl ::serde::ser::Error for FitError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl Value {
    /// The value that a Rust value is in Python.
    ///
    /// # Errors
    /// [`FitError`] if its `Serialize` fails.
    pub fn from_serde<T: Serialize + ?Sized>(value: &T) -> Result<Self, FitError> {
        value.serialize(ser::ToValue(&ser::Budget::new(usize::MAX)))
    }

    /// The same if it is small: of no more than about so many items and bytes of text together, else
    /// `None`. Looks at no more than that, unless a part of it is a [`Value`] of its own.
    ///
    /// # Errors
    /// As [`from_serde`](Self::from_serde).
    pub fn from_serde_within<T: Serialize + ?Sized>(
        value: &T,
        most: usize,
    ) -> Result<Option<Self>, FitError> {
        let budget = ser::Budget::new(most);
        let made = value.serialize(ser::ToValue(&budget));
        if budget.is_over.get() { Ok(None) } else { made.map(Some) }
    }

    /// The Rust value of this type.
    ///
    /// # Errors
    /// [`FitError`] says what was expected and what was found.
    pub fn to_serde<T: DeserializeOwned>(self) -> Result<T, FitError> {
        T::deserialize(de::FromValue(self))
    }

    /// The arguments of a call as a Rust value of this type.
    ///
    /// A struct takes them by the names of its fields; those by position go to its fields in their
    /// order. A tuple and a sequence take arguments by position only, a map takes them by name only,
    /// `()` takes none. Any other type takes exactly one, by position.
    ///
    /// # Errors
    /// [`FitError`] says which argument is missing, unknown, given twice or of another type.
    pub fn args_to_serde<T: DeserializeOwned>(
        args: Vec<Self>,
        kwargs: Vec<(String, Self)>,
    ) -> Result<T, FitError> {
        T::deserialize(args::FromArgs { args, kwargs })
    }
}
