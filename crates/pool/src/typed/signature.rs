//! A Python signature, as Rust declares it and as a worker announces it.

use std::fmt;

use snakehouse_wire::{ToolInfo, ToolKind, Value};

/// A function that Rust expects a worker to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Its name.
    pub name: &'static str,
    /// As it was written, for people.
    pub written: &'static str,
    /// Its parameters, in order.
    pub parameters: Vec<Parameter>,
    /// The schema of its result, or of a generator's items.
    pub result: Value,
    /// Whether it is a generator.
    pub is_generator: bool,
}

/// One parameter that Rust passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Its schema.
    pub schema: Value,
    /// Whether Rust may leave it out.
    pub has_default: bool,
}

impl Signature {
    /// Why a tool is not what was declared; `None` if it is.
    pub(super) fn mismatch(&self, tool: &ToolInfo) -> Option<String> {
        if tool.kind.is_generator() != self.is_generator {
            return Some(match tool.kind {
                ToolKind::Generator | ToolKind::AsyncGenerator => {
                    "it is a generator: declare Iterator[...]".to_owned()
                }
                ToolKind::Function | ToolKind::AsyncFunction => "it is no generator".to_owned(),
            });
        }
        if let Some(wrong) = self.wrong_parameter(&tool.parameters) {
            return Some(wrong);
        }
        (!agrees(&self.result, &tool.result)).then(|| match self.is_generator {
            true => "its items are of another type".to_owned(),
            false => "its result is of another type".to_owned(),
        })
    }

    fn wrong_parameter(&self, theirs: &Value) -> Option<String> {
        // A worker that cannot say what it takes is believed.
        let properties = theirs.get("properties").and_then(entries)?;
        let open = theirs.get("additionalProperties") != Some(&Value::Bool(false));
        for ours in &self.parameters {
            let found = properties.iter().find(|(name, _)| name.as_str() == Some(ours.name));
            match found {
                None if open => {}
                None => return Some(format!("it has no parameter {:?}", ours.name)),
                Some((_, schema)) if !agrees(&ours.schema, schema) => {
                    return Some(format!("its parameter {:?} is of another type", ours.name));
                }
                Some(_) => {}
            }
        }
        let required = theirs.get("required").and_then(Value::as_slice).unwrap_or_default();
        let needed = required.iter().filter_map(Value::as_str);
        for name in needed {
            match self.parameters.iter().find(|ours| ours.name == name) {
                None => return Some(format!("its parameter {name:?} is not declared")),
                Some(ours) if ours.has_default => {
                    return Some(format!("its parameter {name:?} has no default"));
                }
                Some(_) => {}
            }
        }
        None
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.written)
    }
}

/// Whether two schemas say the same, where both say something.
fn agrees(ours: &Value, theirs: &Value) -> bool {
    let (Some(ours), Some(theirs)) = (entries(ours), entries(theirs)) else {
        return match (ours, theirs) {
            (Value::None, _) | (_, Value::None) => true,
            (Value::List(ours), Value::List(theirs)) => {
                ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| agrees(a, b))
            }
            (ours, theirs) => ours == theirs,
        };
    };
    if ours.is_empty() || theirs.is_empty() {
        return true;
    }
    // What kind of thing it is must be said by both; what is in it may be left open.
    let named = ["type", "pythonType", "anyOf", "enum", "pythonKeys"];
    let get = |schema: &[(Value, Value)], key: &str| {
        schema.iter().find(|(name, _)| name.as_str() == Some(key)).map(|(_, said)| said.clone())
    };
    named.into_iter().chain(["items", "prefixItems", "additionalProperties"]).all(|key| {
        match (get(ours, key), get(theirs, key)) {
            (Some(ours), Some(theirs)) => agrees(&ours, &theirs),
            (None, None) => true,
            _ => !named.contains(&key),
        }
    })
}

fn entries(value: &Value) -> Option<&[(Value, Value)]> {
    match value {
        Value::Dict(entries) => Some(entries),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::typed::PythonType;

    #[test]
    fn schemas_agree_where_both_say_something() {
        let any = Value::schema();
        let list: fn(Value) -> Value =
            |items| Value::from_iter([("type", Value::from("array")), ("items", items)]);
        assert!(agrees(&i64::schema(), &any));
        assert!(agrees(&any, &i64::schema()));
        assert!(agrees(&Vec::<i64>::schema(), &list(any.clone())));
        assert!(agrees(&Vec::<i64>::schema(), &Value::from_iter([("type", "array")])));
        assert!(agrees(&Option::<i64>::schema(), &Option::<u32>::schema()));
        assert!(!agrees(&i64::schema(), &String::schema()));
        assert!(!agrees(&i64::schema(), &Option::<i64>::schema()));
        assert!(!agrees(&Vec::<i64>::schema(), &Vec::<String>::schema()));
        assert!(!agrees(&Vec::<i64>::schema(), &<(i64, i64)>::schema()));
        assert!(!agrees(&BTreeMap::<i64, i64>::schema(), &BTreeMap::<String, i64>::schema()));
        assert!(!agrees(&String::schema(), &bytes::Bytes::schema()));
    }
}
