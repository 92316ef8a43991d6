//! Rust types that stand for Python's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use bytes::Bytes;
use snakehouse_wire::{Array, ConvertError, Date, DateTime, Time, TimeDelta, Value};

/// A Rust type that stands for a Python type.
pub trait PythonType: Sized {
    /// The JSON Schema of the Python type, as the worker announces it; an empty dict is any type.
    fn schema() -> Value;

    /// The value that travels.
    fn into_value(self) -> Value;

    /// The Rust value of what came.
    ///
    /// # Errors
    /// [`ConvertError`] if it is of another type, or does not fit into this one.
    fn from_value(value: Value) -> Result<Self, ConvertError>;
}

/// A schema with these keys.
fn schema<const N: usize>(keys: [(&str, Value); N]) -> Value {
    Value::from_iter(keys)
}

macro_rules! plain {
    ($($type:ty: [$($key:literal: $said:literal),*];)*) => {$(
        impl PythonType for $type {
            fn schema() -> Value {
                schema([$(($key, Value::from($said))),*])
            }

            fn into_value(self) -> Value {
                self.into()
            }

            fn from_value(value: Value) -> Result<Self, ConvertError> {
                value.try_into()
            }
        }
    )*};
}

plain! {
    (): ["type": "null"];
    bool: ["type": "boolean"];
    i32: ["type": "integer"];
    i64: ["type": "integer"];
    u32: ["type": "integer"];
    u64: ["type": "integer"];
    i128: ["type": "integer"];
    String: ["type": "string"];
    Bytes: ["type": "string", "contentEncoding": "base64", "pythonType": "bytes"];
    Date: ["type": "string", "format": "date", "pythonType": "date"];
    Time: ["type": "string", "format": "time", "pythonType": "time"];
    DateTime: ["type": "string", "format": "date-time", "pythonType": "datetime"];
    TimeDelta: ["type": "string", "format": "duration", "pythonType": "timedelta"];
    Array: ["pythonType": "ndarray"];
}

impl PythonType for f64 {
    fn schema() -> Value {
        schema([("type", Value::from("number"))])
    }

    fn into_value(self) -> Value {
        self.into()
    }

    /// Also an int that a float holds exactly, since Python takes one for the other.
    fn from_value(value: Value) -> Result<Self, ConvertError> {
        match value.as_i64().and_then(|int| i32::try_from(int).ok()) {
            Some(int) => Ok(int.into()),
            None => value.try_into(),
        }
    }
}

/// Any Python value.
impl PythonType for Value {
    fn schema() -> Value {
        schema([])
    }

    fn into_value(self) -> Value {
        self
    }

    fn from_value(value: Value) -> Result<Self, ConvertError> {
        Ok(value)
    }
}

impl<T: PythonType> PythonType for Option<T> {
    fn schema() -> Value {
        schema([("anyOf", Value::List(vec![T::schema(), <()>::schema()]))])
    }

    fn into_value(self) -> Value {
        self.map_or(Value::None, T::into_value)
    }

    fn from_value(value: Value) -> Result<Self, ConvertError> {
        match value {
            Value::None => Ok(None),
            other => T::from_value(other).map(Some),
        }
    }
}

impl<T: PythonType> PythonType for Vec<T> {
    fn schema() -> Value {
        schema([("type", Value::from("array")), ("items", T::schema())])
    }

    fn into_value(self) -> Value {
        Value::List(self.into_iter().map(T::into_value).collect())
    }

    fn from_value(value: Value) -> Result<Self, ConvertError> {
        match value {
            Value::List(items) => items.into_iter().map(T::from_value).collect(),
            other => Err(ConvertError::expected("list", &other)),
        }
    }
}

impl<T: PythonType + Ord> PythonType for BTreeSet<T> {
    fn schema() -> Value {
        schema([
            ("type", Value::from("array")),
            ("uniqueItems", true.into()),
            ("pythonType", "set".into()),
            ("items", T::schema()),
        ])
    }

    fn into_value(self) -> Value {
        Value::Set(self.into_iter().map(T::into_value).collect())
    }

    fn from_value(value: Value) -> Result<Self, ConvertError> {
        match value {
            Value::Set(items) | Value::FrozenSet(items) => {
                items.into_iter().map(T::from_value).collect()
            }
            other => Err(ConvertError::expected("set", &other)),
        }
    }
}

/// The schema of a dict. JSON's own keys are text; others are said in `pythonKeys`.
fn dict<K: PythonType, V: PythonType>() -> Value {
    let (key, text) = (K::schema(), String::schema());
    let mut said = vec![("type", Value::from("object")), ("additionalProperties", V::schema())];
    if key != text {
        said.push(("pythonKeys", key));
    }
    Value::from_iter(said)
}

fn pairs<K: PythonType, V: PythonType>(value: Value) -> Result<Vec<(K, V)>, ConvertError> {
    match value {
        Value::Dict(pairs) => {
            pairs.into_iter().map(|(k, v)| Ok((K::from_value(k)?, V::from_value(v)?))).collect()
        }
        other => Err(ConvertError::expected("dict", &other)),
    }
}

macro_rules! map {
    ($map:ident: $($bound:ident)|+) => {
        impl<K: PythonType $(+ $bound)+, V: PythonType> PythonType for $map<K, V> {
            fn schema() -> Value {
                dict::<K, V>()
            }

            fn into_value(self) -> Value {
                self.into_iter().map(|(k, v)| (k.into_value(), v.into_value())).collect()
            }

            fn from_value(value: Value) -> Result<Self, ConvertError> {
                pairs(value).map(Self::from_iter)
            }
        }
    };
}

map!(BTreeMap: Ord);
map!(HashMap: Eq | Hash);

macro_rules! tuple {
    ($count:literal: $($type:ident)*) => {
        impl<$($type: PythonType),*> PythonType for ($($type,)*) {
            fn schema() -> Value {
                schema([
                    ("type", Value::from("array")),
                    ("pythonType", "tuple".into()),
                    ("prefixItems", Value::List(vec![$($type::schema()),*])),
                    ("items", false.into()),
                    ("minItems", $count.into()),
                ])
            }

            fn into_value(self) -> Value {
                #[expect(non_snake_case, reason = "a type's letter names its place")]
                let ($($type,)*) = self;
                Value::Tuple(vec![$($type.into_value()),*])
            }

            fn from_value(value: Value) -> Result<Self, ConvertError> {
                let expected = concat!("a tuple of ", $count);
                match value {
                    Value::Tuple(items) if items.len() == $count => {
                        let mut items = items.into_iter();
                        Ok(($($type::from_value(items.next().unwrap_or(Value::None))?,)*))
                    }
                    other => Err(ConvertError::expected(expected, &other)),
                }
            }
        }
    };
}

tuple!(1: A);
tuple!(2: A B);
tuple!(3: A B C);
tuple!(4: A B C D);

#[cfg(test)]
mod tests {
    use super::*;

    fn back<T: PythonType + Clone + PartialEq + std::fmt::Debug>(value: T) {
        let travelled = Value::decode(&value.clone().into_value().encode().expect("it travels"))
            .expect("it is a value");
        assert_eq!(T::from_value(travelled), Ok(value));
    }

    #[test]
    fn values_come_back() {
        back(());
        back(u64::MAX);
        back("text".to_owned());
        back(vec![Some(1.5), None]);
        back(BTreeSet::from([1, 2]));
        back(BTreeMap::from([(1, "one".to_owned())]));
        back(HashMap::from([("k".to_owned(), (true, Bytes::from_static(b"b")))]));
        back(("a".to_owned(), 2, 3.0, vec![4]));
        assert_eq!(f64::from_value(Value::from(3)), Ok(3.0));
    }

    #[test]
    fn what_is_of_another_type_is_refused() {
        assert!(f64::from_value(Value::from("3")).is_err());
        assert!(<(i64, i64)>::from_value(Value::Tuple(vec![1.into()])).is_err());
        assert!(<(i64,)>::from_value(Value::List(vec![1.into()])).is_err());
        assert!(BTreeSet::<i64>::from_value(Value::List(vec![])).is_err());
        assert!(BTreeMap::<i64, i64>::from_value(Value::None).is_err());
        assert!(i32::from_value(Value::from(i64::MAX)).is_err());
    }
}
