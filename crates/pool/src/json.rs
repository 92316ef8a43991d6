//! Tool arguments and results as JSON, for the command line and HTTP.
//!
//! JSON says less than Python: a tuple becomes an array, and what JSON has no words for (bytes,
//! NaN, keys that are not text) is refused by name rather than turned into something else.

use serde_json::{Map, Number};
use snakehouse_base::{Coded, Kind};
use snakehouse_wire::Value;

/// A value that JSON cannot say, or JSON that is no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be written as JSON")]
pub struct JsonError {
    what: String,
}

impl Coded for JsonError {
    fn kind(&self) -> Kind {
        Kind::InvalidInput
    }

    fn code(&self) -> &'static str {
        "not_json"
    }

    fn hint(&self) -> Option<String> {
        Some(
            "return numbers, text, lists or dicts with text keys, or call the tool from Rust"
                .into(),
        )
    }
}

/// The value of a JSON document. Integers beyond 64 bits become floats, as `serde_json` reads them.
pub fn from_json(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::None,
        serde_json::Value::Bool(b) => Value::Bool(b),
        serde_json::Value::String(s) => Value::Str(s),
        serde_json::Value::Array(items) => Value::List(items.into_iter().map(from_json).collect()),
        serde_json::Value::Object(map) => {
            Value::Dict(map.into_iter().map(|(k, v)| (Value::Str(k), from_json(v))).collect())
        }
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(small), _) => small.into(),
            (None, Some(large)) => large.into(),
            (None, None) => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
    }
}

/// The JSON document of a value.
///
/// # Errors
/// [`JsonError`] names the type that JSON lacks.
pub fn to_json(value: &Value) -> Result<serde_json::Value, JsonError> {
    let refuse = |what: &str| JsonError { what: what.to_owned() };
    Ok(match value {
        Value::None => serde_json::Value::Null,
        Value::Bool(b) => (*b).into(),
        Value::Str(s) => s.as_str().into(),
        Value::Int(n) => match (n.as_i64(), n.as_u64()) {
            (Some(small), _) => small.into(),
            (None, Some(large)) => large.into(),
            (None, None) => return Err(refuse("an integer beyond 64 bits")),
        },
        Value::Float(f) => {
            Number::from_f64(*f).ok_or_else(|| refuse("a float that is NaN or infinite"))?.into()
        }
        Value::Bytes(_) => return Err(refuse("bytes")),
        Value::List(items) | Value::Tuple(items) => {
            serde_json::Value::Array(items.iter().map(to_json).collect::<Result<_, _>>()?)
        }
        Value::Dict(pairs) => {
            let mut map = Map::new();
            for (key, item) in pairs {
                let key = key.as_str().ok_or_else(|| refuse("a dict key that is not text"))?;
                map.insert(key.to_owned(), to_json(item)?);
            }
            map.into()
        }
        other => return Err(refuse(&format!("a {}", other.type_name()))),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_json_can_say_comes_back() {
        let document = json!({"a": [1, -2.5, null, true, "x"], "b": {"c": u64::MAX}});
        assert_eq!(to_json(&from_json(document.clone())), Ok(document));
    }

    #[test]
    fn what_json_cannot_say_is_named() {
        let nested = Value::List(vec![Value::Dict(vec![(1.into(), Value::None)])]);
        let refused = [
            (Value::Float(f64::NAN), "NaN"),
            (Value::Bytes(vec![1].into()), "bytes"),
            (nested, "dict key"),
            (Value::Set(vec![1.into()]), "a set"),
            (Value::from(i128::MAX), "64 bits"),
        ];
        for (value, word) in refused {
            let error = to_json(&value).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
