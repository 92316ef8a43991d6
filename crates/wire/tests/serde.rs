//! Types of a program to values and back, and the arguments of a call by name and by position.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use num_bigint::BigInt;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use snakehouse_base::Coded;
use snakehouse_wire::value::serde::as_value;
use snakehouse_wire::{Date, Value};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Point,
    Circle(f64),
    Box(i32, i32),
    Named { name: String, sides: u8 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Inner(u64);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Everything {
    flag: bool,
    small: i8,
    large: i128,
    huge: u128,
    real: f64,
    text: String,
    letter: char,
    items: Vec<Option<i64>>,
    pair: (u16, String),
    inner: Inner,
    map: BTreeMap<i32, Vec<u8>>,
    shape: Shape,
    #[serde(with = "as_value")]
    raw: Value,
    nothing: (),
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Point),
        any::<i32>().prop_map(|n| Shape::Circle(f64::from(n))),
        any::<(i32, i32)>().prop_map(|(a, b)| Shape::Box(a, b)),
        (".{0,8}", any::<u8>()).prop_map(|(name, sides)| Shape::Named { name, sides }),
    ]
}

fn raw() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::None),
        Just(Date::new(2024, 2, 29).unwrap().into()),
        Just(Value::from(BigInt::from(1) << 200)),
        any::<i64>().prop_map(|n| Value::FrozenSet(vec![n.into()])),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(|b| Value::ByteArray(b.into())),
    ]
}

prop_compose! {
    fn everything()(
        (flag, small, large, huge) in any::<(bool, i8, i128, u128)>(),
        real in any::<f64>().prop_filter("a NaN equals nothing", |x| !x.is_nan()),
        (text, letter) in (".{0,20}", any::<char>()),
        items in prop::collection::vec(any::<Option<i64>>(), 0..5),
        pair in (any::<u16>(), ".{0,5}"),
        inner in any::<u64>(),
        map in prop::collection::btree_map(any::<i32>(), prop::collection::vec(any::<u8>(), 0..4), 0..4),
        shape in shape(),
        raw in raw(),
    ) -> Everything {
        let inner = Inner(inner);
        Everything { flag, small, large, huge, real, text, letter, items, pair, inner, map, shape, raw, nothing: () }
    }
}

proptest! {
    #[test]
    fn what_goes_in_comes_out_also_through_bytes(thing in everything()) {
        let value = Value::from_serde(&thing).unwrap();
        prop_assert_eq!(&value.clone().to_serde::<Everything>().unwrap(), &thing);
        let travelled = Value::decode(&value.encode().unwrap()).unwrap();
        prop_assert_eq!(travelled.to_serde::<Everything>().unwrap(), thing);
    }
}

#[test]
fn types_are_what_python_calls_them() {
    let of = |value: &dyn Fn() -> Value| value().type_name();
    assert_eq!(of(&|| Value::from_serde(&(1, 2)).unwrap()), "tuple");
    assert_eq!(of(&|| Value::from_serde(&[1u8, 2][..]).unwrap()), "list");
    assert_eq!(of(&|| Value::from_serde(&Shape::Point).unwrap()), "str");
    assert_eq!(of(&|| Value::from_serde(&Shape::Circle(1.0)).unwrap()), "dict");
    assert_eq!(of(&|| Value::from_serde(&None::<u8>).unwrap()), "NoneType");
    assert_eq!(Value::from_serde(&u128::MAX).unwrap(), (BigInt::from(u128::MAX)).into());
    assert_eq!(Value::from_serde(&1.5f32).unwrap(), Value::Float(1.5));
}

fn refused<T: DeserializeOwned + std::fmt::Debug>(value: impl Into<Value>) -> String {
    let error = value.into().to_serde::<T>().unwrap_err();
    assert_eq!(error.code(), "value_type_mismatch");
    error.to_string()
}

#[test]
fn what_does_not_fit_is_refused_and_both_sides_are_named() {
    assert!(refused::<i64>(1.5).contains("floating point `1.5`, expected i64"));
    assert!(refused::<u8>(256).contains("256"));
    assert!(refused::<i64>(i128::MAX).contains("expected i64"));
    assert!(refused::<f64>((1i64 << 53) + 1).contains("an int that is no float"));
    assert_eq!(Value::from(7).to_serde::<f64>(), Ok(7.0));
    assert!(refused::<String>(true).contains("expected a string"));
    assert!(refused::<String>(Date::new(2024, 1, 1).unwrap()).contains("datetime.date"));
    assert!(refused::<(u8, u8)>(vec![1, 2, 3]).contains("3"));
    assert!(refused::<i128>(BigInt::from(1) << 127).contains("expected i128"));
    assert!(refused::<u128>(BigInt::from(1) << 128).contains("more than 128 bits"));
    assert!(refused::<Shape>("Square").contains("unknown variant `Square`"));
    assert!(refused::<Shape>(Value::Dict(Vec::new())).contains("the name of a variant"));
    assert!(refused::<Shape>("Circle").contains("content is missing"));
}

#[test]
fn bytes_are_a_sequence_and_any_field_may_be_left_out_of_sight() {
    let bytes = Value::from(&b"abc"[..]);
    assert_eq!(bytes.to_serde::<Vec<u8>>().unwrap(), b"abc");
    #[derive(Debug, PartialEq, Deserialize)]
    struct Few {
        a: i64,
    }
    let date: Value = Date::new(2024, 1, 1).unwrap().into();
    let dict: Value = [("a", Value::from(1)), ("b", date)].into_iter().collect();
    assert_eq!(dict.to_serde::<Few>(), Ok(Few { a: 1 }));
}

#[derive(Debug, PartialEq, Deserialize)]
struct Lookup {
    key: String,
    #[serde(default)]
    limit: Option<u32>,
}

fn given<T: DeserializeOwned>(args: &[Value], kwargs: &[(&str, Value)]) -> Result<T, String> {
    let kwargs = kwargs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Value::args_to_serde(args.to_vec(), kwargs).map_err(|error| error.to_string())
}

#[test]
fn a_struct_takes_arguments_by_name_and_by_position() {
    let expected = || Ok(Lookup { key: "k".into(), limit: Some(3) });
    assert_eq!(given(&[], &[("limit", 3.into()), ("key", "k".into())]), expected());
    assert_eq!(given(&["k".into(), 3.into()], &[]), expected());
    assert_eq!(given(&["k".into()], &[("limit", 3.into())]), expected());
    assert_eq!(given(&["k".into()], &[]), Ok(Lookup { key: "k".into(), limit: None }));
    let wrong = |args: &[Value], kwargs: &[_]| given::<Lookup>(args, kwargs).unwrap_err();
    assert!(wrong(&[], &[]).contains("missing field `key`"));
    assert!(wrong(&["k".into()], &[("key", "l".into())]).contains("key is given twice"));
    assert!(wrong(&["k".into()], &[("limits", 3.into())]).contains("no argument named limits"));
    assert!(wrong(&["k".into(), 3.into(), 4.into()], &[]).contains("at most 2"));
    assert!(wrong(&[1.into()], &[]).contains("expected a string"));
}

#[test]
fn other_types_take_what_their_shape_says() {
    assert_eq!(given::<()>(&[], &[]), Ok(()));
    assert!(given::<()>(&[1.into()], &[]).unwrap_err().contains("expected no arguments"));
    assert_eq!(given::<String>(&["only".into()], &[]), Ok("only".to_owned()));
    assert_eq!(given::<Option<i64>>(&[Value::None], &[]), Ok(None));
    assert!(given::<i64>(&[], &[]).unwrap_err().contains("expected 1 argument"));
    assert!(given::<i64>(&[], &[("n", 1.into())]).unwrap_err().contains("no argument named n"));
    assert_eq!(given::<(i64, String)>(&[1.into(), "b".into()], &[]), Ok((1, "b".to_owned())));
    assert!(given::<(i64, i64)>(&[1.into()], &[]).unwrap_err().contains("expected 2 arguments"));
    assert_eq!(given::<Vec<i64>>(&[1.into(), 2.into()], &[]), Ok(vec![1, 2]));
    assert_eq!(given::<Inner>(&[7.into()], &[]), Ok(Inner(7)));
    assert_eq!(given::<Shape>(&["Point".into()], &[]), Ok(Shape::Point));
    let map = given::<BTreeMap<String, i64>>(&[], &[("a", 1.into())]).unwrap();
    assert_eq!(map, BTreeMap::from([("a".to_owned(), 1)]));
    let by_name = given::<BTreeMap<String, i64>>(&[1.into()], &[]).unwrap_err();
    assert!(by_name.contains("by name"));
}

#[test]
fn what_is_large_is_not_looked_at_to_its_end() {
    let list = vec!["four"; 1000];
    let whole = Value::from_serde(&list).unwrap();
    assert_eq!(Value::from_serde_within(&list, 5001), Ok(Some(whole)));
    assert_eq!(Value::from_serde_within(&list, 5000), Ok(None));
    let endless = vec![(); 1 << 30];
    assert_eq!(Value::from_serde_within(&endless, 1000), Ok(None));
    let map = BTreeMap::from([(1, (2.5, "text".to_owned()))]);
    assert_eq!(Value::from_serde_within(&map, 9), Ok(Some(Value::from_serde(&map).unwrap())));
    assert_eq!(Value::from_serde_within(&map, 8), Ok(None));
}
