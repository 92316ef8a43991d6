//! Values round-trip exactly, limits hold, and garbage is refused without a panic.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use proptest::prelude::*;
use snakehouse_base::Coded;
use snakehouse_wire::{
    Array, Arrow, ArrowKind, DateTime, Int, Order, TimeDelta, UtcOffset, Value, ValueError,
};

fn int() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i128>().prop_map(Value::from),
        (-300i64..300).prop_map(Value::from),
        // Far beyond 128 bits, by way of the decoder.
        prop::collection::vec(any::<u8>(), 17..40).prop_map(|mut content| {
            let mut bytes = vec![0xc7, u8::try_from(content.len()).unwrap(), 1];
            bytes.append(&mut content);
            Value::decode(&bytes.into()).unwrap()
        }),
    ]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::from),
        int(),
        any::<u64>().prop_map(|bits| Value::Float(f64::from_bits(bits))),
        ".{0,40}".prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|b| Value::Bytes(b.into())),
        prop::collection::vec(any::<u8>(), 0..30).prop_map(|b| Value::ByteArray(b.into())),
        any::<(u64, u64)>().prop_map(|(a, b)| Value::Complex(f64::from_bits(a), f64::from_bits(b))),
        moment(),
        (-86_399_999_999_999_999_999i128..86_399_999_999_999_999_999)
            .prop_map(|n| TimeDelta::from_micros(n).unwrap().into()),
        buffer(),
    ]
}

fn moment() -> impl Strategy<Value = Value> {
    let micros = -62_135_596_800_000_000i64..253_402_300_800_000_000;
    let offset = -86_399_999_999i64..86_400_000_000;
    (micros, prop::option::of(offset), any::<bool>(), 0..3).prop_map(
        |(micros, offset, fold, kind)| {
            let DateTime { date, time } = DateTime::from_unix_micros(micros).unwrap();
            let naive = snakehouse_wire::Time::new(
                time.hour(),
                time.minute(),
                time.second(),
                time.microsecond(),
            );
            let time = match offset.and_then(UtcOffset::from_micros) {
                Some(offset) => time.with_offset(offset),
                None => naive.unwrap(),
            };
            let time = time.with_fold(fold);
            match kind {
                0 => date.into(),
                1 => time.into(),
                _ => DateTime { date, time }.into(),
            }
        },
    )
}

fn buffer() -> impl Strategy<Value = Value> {
    let kinds = prop::sample::select(vec![("<f4", 4), (">c16", 16), ("|S7", 7), ("<m8[3D]", 8)]);
    let order = prop::sample::select(vec![Order::C, Order::F]);
    let array = (kinds, order, prop::collection::vec(0u64..4, 0..4)).prop_map(
        |((dtype, size), order, shape)| {
            let len = shape.iter().product::<u64>() * size;
            let data: Vec<u8> = (0..=255).cycle().take(len.try_into().unwrap()).collect();
            Array::new(dtype, &shape, order, data).unwrap().into()
        },
    );
    let arrow = prop::collection::vec(any::<u8>(), 0..30)
        .prop_map(|stream| Arrow { kind: ArrowKind::Table, stream: stream.into() }.into());
    prop_oneof![array, arrow]
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(5, 200, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::List),
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::Tuple),
            prop::collection::hash_map(".{0,6}", inner.clone(), 0..20)
                .prop_map(|map| map.into_iter().collect()),
            prop::collection::hash_map(any::<i64>(), inner, 0..20)
                .prop_map(|map| map.into_iter().map(|(k, v)| (vec_key(k), v)).collect()),
            prop::collection::hash_set(any::<i64>(), 0..20)
                .prop_map(|set| Value::Set(set.into_iter().map(vec_key).collect())),
            prop::collection::hash_set(any::<i64>(), 0..20).prop_map(|set| Value::FrozenSet(
                set.into_iter().map(|n| Value::FrozenSet(vec![n.into()])).collect()
            )),
        ]
    })
}

/// A tuple as a dict key.
fn vec_key(n: i64) -> Value {
    Value::Tuple(vec![n.into(), Value::from("k")])
}

proptest! {
    #[test]
    fn values_come_back_exactly(value in value()) {
        let bytes = value.encode().unwrap();
        prop_assert_eq!(Value::decode(&bytes), Ok(value));
    }

    #[test]
    fn truncated_values_are_refused(value in value(), at: prop::sample::Index) {
        let bytes = value.encode().unwrap();
        let cut = bytes.slice(..at.index(bytes.len()));
        prop_assert!(Value::decode(&cut).is_err());
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(value) = Value::decode(&Bytes::from(bytes)) {
            let bytes = value.encode().unwrap();
            prop_assert_eq!(Value::decode(&bytes), Ok(value));
        }
    }

    #[test]
    fn mangled_values_never_panic(value in value(), at: prop::sample::Index, with: u8) {
        let mut bytes = value.encode().unwrap().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = with;
        let _ = Value::decode(&bytes.into());
    }
}

proptest! {
    #[test]
    fn a_call_is_the_list_of_its_arguments(
        args in prop::collection::vec(value(), 0..4), kwargs in prop::collection::vec(value(), 0..4),
    ) {
        let kwargs: Vec<_> =
            kwargs.into_iter().enumerate().map(|(n, value)| (format!("name{n}"), value)).collect();
        let named = kwargs.iter().map(|(name, value)| (name.as_str().into(), value.clone()));
        let call = Value::List(vec![Value::List(args.clone()), Value::Dict(named.collect())]);
        let (bytes, buffers) = Value::encode_call(&args, &kwargs, true).unwrap();
        prop_assert_eq!(bytes, call.encode().unwrap());
        prop_assert!(buffers.is_empty());
    }
}

#[test]
fn a_name_that_is_given_twice_is_refused() {
    for count in [2, 20] {
        let mut kwargs: Vec<_> = (1..count).map(|n| (format!("name{n}"), Value::None)).collect();
        assert!(Value::encode_call(&[], &kwargs, false).is_ok());
        kwargs.push(("name1".to_owned(), Value::None));
        let refused = Value::encode_call(&[], &kwargs, false);
        assert_eq!(refused, Err(ValueError::DuplicateKey("\"name1\"".into())));
    }
}

#[test]
fn the_arguments_of_a_call_have_the_limits_of_values() {
    let nested =
        |levels| (1..levels).fold(Value::List(vec![]), |inner, _| Value::List(vec![inner]));
    let call = |levels| Value::encode_call(&[nested(levels)], &[], false);
    assert!(call(Value::MAX_DEPTH - 2).is_ok());
    assert_eq!(call(Value::MAX_DEPTH - 1), Err(ValueError::TooDeep));
}

#[test]
fn values_are_small() {
    // Lists and dicts move them.
    assert!(size_of::<Value>() <= 40, "{}", size_of::<Value>());
}

#[test]
fn nesting_has_a_limit_both_ways() {
    for wrap in [Value::List as fn(Vec<Value>) -> Value, Value::Tuple] {
        let nested = |levels| (1..levels).fold(wrap(vec![]), |inner, _| wrap(vec![inner]));
        let deepest = nested(Value::MAX_DEPTH);
        assert_eq!(Value::decode(&deepest.encode().unwrap()), Ok(deepest));
        assert_eq!(nested(Value::MAX_DEPTH + 1).encode(), Err(ValueError::TooDeep));
    }
    let bytes = Bytes::from(vec![0x91; 1 << 20]);
    assert_eq!(Value::decode(&bytes), Err(ValueError::TooDeep));
}

#[test]
fn counts_that_cannot_be_true_allocate_nothing() {
    for bytes in [&b"\xdd\xff\xff\xff\xff"[..], b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"] {
        assert_eq!(Value::decode(&Bytes::from_static(bytes)), Err(ValueError::Truncated));
    }
    let nils = [&b"\xdd\x02\x00\x00\x00"[..], &vec![0xc0; 0x0200_0000]].concat();
    assert_eq!(Value::decode(&nils.into()), Err(ValueError::TooManyItems));
}

#[test]
fn dicts_that_python_cannot_hold_are_refused() {
    let twice = Value::Dict(vec![(1.into(), 1.into()), (true.into(), 2.into())]);
    assert_eq!(twice.encode(), Err(ValueError::DuplicateKey("Bool(true)".into())));
    let list = Value::Dict(vec![(Value::List(vec![]), 1.into())]);
    assert_eq!(list.encode(), Err(ValueError::UnhashableKey("list")));
}

#[test]
fn integers_have_one_form() {
    assert_eq!(Int::from(5u64), Int::from(5i64));
    assert_eq!(Int::from(5i128), Int::from(5i64));
    let long = Bytes::from_static(b"\xc7\x09\x01\x00\x00\x00\x00\x00\x00\x00\x00\x05");
    assert_eq!(Value::decode(&long), Ok(Value::from(5)));
    assert_eq!(Int::from(u64::MAX).as_u64(), Some(u64::MAX));
    assert_eq!(Int::from(u64::MAX).as_i64(), None);
}

#[test]
fn bytes_are_slices_of_the_input() {
    let encoded = Value::Bytes(vec![9; 1000].into()).encode().unwrap();
    let Ok(Value::Bytes(inner)) = Value::decode(&encoded) else { panic!("bytes") };
    assert_eq!(inner.as_ptr(), encoded[3..].as_ptr());
}

#[test]
fn sets_are_equal_in_any_order_and_have_one_encoding() {
    let [a, b] = [[1, 300, -5], [300, -5, 1]].map(|items| {
        let items = items.map(Value::from).to_vec();
        Value::Set(vec![Value::FrozenSet(items), "x".into()])
    });
    let turned = Value::Set(vec!["x".into(), a.as_set().unwrap()[0].clone()]);
    assert!(a == b && b == turned && a != Value::Set(vec!["x".into()]));
    assert_eq!(a.encode().unwrap(), turned.encode().unwrap());
    assert_eq!(b.encode().unwrap(), turned.encode().unwrap());
    let hash = |value: &Value| {
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(value, &mut hasher);
        std::hash::Hasher::finish(&hasher)
    };
    assert_eq!(hash(&a), hash(&turned));
    let twice = Value::FrozenSet(vec![1.into(), Value::Complex(1.0, -0.0)]);
    assert_eq!(twice.encode().unwrap_err().code(), "value_duplicate_key");
}
