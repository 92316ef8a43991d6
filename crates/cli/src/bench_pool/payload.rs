//! What the calls carry.

use snakehouse_pool::Value;

/// The argument of a call, and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    /// The value.
    pub(crate) value: Value,
    /// The same in MessagePack.
    pub(crate) encoded: Vec<u8>,
    /// Its nominal size.
    pub(crate) size: usize,
}

impl Payload {
    /// A record of everyday values, 100 bytes when encoded.
    pub(crate) fn record() -> Option<Self> {
        let entry = |name: &str, value: Value| (Value::from(name), value);
        Self::new(
            100,
            Value::Dict(vec![
                entry("id", Value::from(1_234_567)),
                entry("text", Value::from("a question of exactly forty-two characters")),
                entry("tags", Value::List(vec![Value::from("tiny"), Value::from("demo")])),
                entry("score", Value::from(0.25)),
                entry("ok", Value::from(true)),
                entry("cause", Value::None),
            ]),
        )
    }

    /// Bytes.
    pub(crate) fn blob(size: usize) -> Option<Self> {
        Self::new(size, Value::from(&*vec![7u8; size]))
    }

    fn new(size: usize, value: Value) -> Option<Self> {
        let encoded = value.encode().ok()?.to_vec();
        Some(Self { value, encoded, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_what_they_say() {
        assert_eq!(Payload::record().unwrap().encoded.len(), 100);
        assert_eq!(Payload::blob(65_536).unwrap().encoded.len(), 65_536 + 5);
    }
}
