//! Whether a value is small, found out without looking at all of a large one.
//!
//! Whoever has to answer others meanwhile encodes small values himself and gives large ones to a
//! thread that may take its time.

use super::Value;

impl Value {
    /// Whether it has no more than about so many items and bytes of text, data and so on together.
    /// Looks at no more of it than that.
    pub fn is_within(&self, most: usize) -> bool {
        let mut left = Some(most);
        spend(self, 1, &mut left);
        left.is_some()
    }
}

fn spend(value: &Value, depth: usize, left: &mut Option<usize>) {
    let beside: usize = match value {
        Value::Str(text) => text.len(),
        Value::Bytes(bytes) | Value::ByteArray(bytes) => bytes.len(),
        Value::Array(array) => array.data().len(),
        Value::Arrow(arrow) => arrow.stream.len(),
        Value::Shared(shared) => usize::try_from(shared.buffer().len()).unwrap_or(usize::MAX),
        _ => 0,
    };
    *left = left.and_then(|left| left.checked_sub(beside)?.checked_sub(1));
    if depth > Value::MAX_DEPTH {
        // It cannot be encoded: that is found out soon.
        return;
    }
    let mut each = |item: &Value| {
        if left.is_some() {
            spend(item, depth + 1, left);
        }
        left.is_some()
    };
    match value {
        Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
            let _all = items.iter().all(each);
        }
        Value::Dict(pairs) => {
            let _all = pairs.iter().all(|(key, item)| each(key) && each(item));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_and_bytes_count() {
        assert!(Value::None.is_within(1));
        assert!(!Value::None.is_within(0));
        assert!(Value::from("four").is_within(5) && !Value::from("four").is_within(4));
        let list = Value::from(vec![1, 2, 3]);
        assert!(list.is_within(4) && !list.is_within(3));
        let dict = Value::from_iter([("key", list)]);
        assert!(dict.is_within(9) && !dict.is_within(8));
        assert!(!Value::from(&*vec![0; 100]).is_within(100));
    }

    #[test]
    fn no_more_is_looked_at_than_that() {
        let long = Value::List(vec![Value::List(Vec::new()); 1 << 20]);
        let began = std::iter::repeat_n((), 1000);
        // A million items a thousand times would take minutes here.
        began.for_each(|()| assert!(!long.is_within(10)));
    }
}
