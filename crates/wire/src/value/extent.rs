//! How many bytes a value takes, before it is written.
//!
//! Of everyday values this is exact. Then what is written fills its allocation, which becomes
//! [`Bytes`](bytes::Bytes) as it is, without another allocation to say how much of the first is used; and
//! of small values the allocator has the room at hand. For rare types it is a guess: a wrong one costs an
//! allocation. Tested below.

use super::{Int, Value};

/// Of an extension, besides its long part.
const RARE: usize = 48;

/// The bytes of a value at this level.
pub(super) fn extent(value: &Value, depth: usize) -> usize {
    if depth > Value::MAX_DEPTH {
        // It will be refused.
        return 0;
    }
    match value {
        Value::None | Value::Bool(_) => 1,
        Value::Int(int) => int_size(int),
        Value::Float(_) => 9,
        Value::Str(text) => text_size(text),
        Value::Bytes(bytes) => match bytes.len() {
            len @ 0..=0xff => 2 + len,
            len @ 0x100..=0xffff => 3 + len,
            len => 5 + len,
        },
        Value::List(items) => list_size(items, depth),
        Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
            match list_size(items, depth) {
                len @ (1 | 2 | 4 | 8 | 16) => 2 + len,
                len @ 0..=0xff => 3 + len,
                len @ 0x100..=0xffff => 4 + len,
                len => 6 + len,
            }
        }
        Value::Dict(pairs) => pairs.iter().fold(count_size(pairs.len()), |size, (key, item)| {
            size.saturating_add(extent(key, depth + 1)).saturating_add(extent(item, depth + 1))
        }),
        Value::ByteArray(bytes) => RARE + bytes.len(),
        Value::Array(array) => RARE + array.data().len(),
        Value::Arrow(arrow) => RARE + arrow.stream.len(),
        _ => RARE,
    }
}

/// The bytes of a call's body.
pub(super) fn extent_of_call(args: &[Value], kwargs: &[(String, Value)]) -> usize {
    let args =
        args.iter().fold(1 + count_size(args.len()), |all, arg| all.saturating_add(extent(arg, 3)));
    kwargs.iter().fold(args + count_size(kwargs.len()), |all, (name, value)| {
        all.saturating_add(text_size(name)).saturating_add(extent(value, 3))
    })
}

fn list_size(items: &[Value], depth: usize) -> usize {
    items
        .iter()
        .fold(count_size(items.len()), |all, item| all.saturating_add(extent(item, depth + 1)))
}

const fn count_size(count: usize) -> usize {
    match count {
        0..=0xf => 1,
        0x10..=0xffff => 3,
        _ => 5,
    }
}

const fn text_size(text: &str) -> usize {
    match text.len() {
        len @ 0..=0x1f => 1 + len,
        len @ 0x20..=0xff => 2 + len,
        len @ 0x100..=0xffff => 3 + len,
        len => 5 + len,
    }
}

fn int_size(int: &Int) -> usize {
    match int.as_i64() {
        Some(-0x20..=0x7f) => 1,
        Some(-0x80..=0xff) => 2,
        Some(-0x8000..=0xffff) => 3,
        Some(-0x8000_0000..=0xffff_ffff) => 5,
        Some(_) => 9,
        None => RARE,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::codec;
    use super::*;

    /// About where heads change.
    fn length() -> impl Strategy<Value = usize> {
        let limits = prop::sample::select(vec![0usize, 0x1f, 0xff, 0xffff]);
        limits.prop_flat_map(|limit| limit..=limit + 1)
    }

    /// Values of the types whose size is exact.
    fn everyday() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::None),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            (0u32..64).prop_flat_map(|bits| any::<i64>().prop_map(move |n| Value::from(n >> bits))),
            any::<f64>().prop_map(Value::Float),
            "[a-zä]{0,40}".prop_map(Value::Str),
            length().prop_map(|len| Value::Str("x".repeat(len))),
            length().prop_map(|len| Value::from(&*vec![7; len])),
        ];
        scalar.prop_recursive(4, 64, 20, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..20).prop_map(Value::List),
                prop::collection::vec(inner.clone(), 0..20).prop_map(Value::Tuple),
                prop::collection::vec(inner, 0..20).prop_map(|items| {
                    let keys = (0..).map(|n: i64| Value::Str(n.to_string()));
                    Value::Dict(keys.zip(items).collect())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn of_everyday_values_it_is_exact(value in everyday()) {
            prop_assert_eq!(extent(&value, 1), value.encode().unwrap().len());
            let kwargs = [("a name".to_owned(), value.clone())];
            let (body, _) = codec::encode_call(&[value], &kwargs, false).unwrap();
            prop_assert_eq!((body.len(), body.capacity()), (body.len(), body.len()));
        }
    }

    #[test]
    fn many_items_and_long_parts_are_counted() {
        let many = Value::List(vec![Value::None; 70_000]);
        assert_eq!(extent(&many, 1), many.encode().unwrap().len());
        let data = Bytes::from(vec![7; 1 << 20]);
        let long = Value::ByteArray(data);
        assert!((1 << 20..(1 << 20) + 100).contains(&extent(&long, 1)));
    }

    #[test]
    fn what_is_too_deep_is_not_followed_down() {
        let deep = (0..100_000).fold(Value::None, |inner, _| Value::List(vec![inner]));
        assert_eq!(extent(&deep, 1), Value::MAX_DEPTH);
        // Letting go of it would follow it down.
        std::mem::forget(deep);
    }
}
