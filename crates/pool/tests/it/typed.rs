//! Python functions declared in Rust as they stand in Python.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use snakehouse_base::Coded;
use snakehouse_pool::{CallError, Pool, PoolConfig, Start, ToolMismatch, Value, WorkerSpec};

use crate::support::{Rig, python, run};

snakehouse_pool::tools! {
    /// What `typed.py` has.
    struct Tools {
        /// How often each word occurs.
        def word_count(text: str, most: int = 3) -> dict[str, int];
        def mirror(
            flag: bool, pair: tuple[int, str], names: list[str], *, extra: float | None = None,
        ) -> tuple[bool, tuple[int, str], list[str], float | None];
        def first(items: list[int]) -> int | None;
        def unique(items: list[int]) -> set[int];
        def loose(anything: Any) -> list[bool];
        def liar() -> int;
        def count(n: int) -> Iterator[int];
    }
}

async fn pool(rig: &Rig, config: PoolConfig) -> Pool {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/typed.py");
    let spec = WorkerSpec::python("typed", python()).module(tools.to_str().unwrap());
    rig.pool_of(spec, config).await
}

#[test]
fn functions_are_called_with_rust_types() {
    run(async {
        let rig = Rig::new().await;
        // Lazy: binding makes the first worker start.
        let config = PoolConfig { start: Start::Lazy, ..PoolConfig::default() };
        let tools = Tools::bind(&pool(&rig, config).await).await.unwrap();
        let counts = tools.word_count("to be or not to be", Some(2)).await.unwrap();
        assert_eq!(counts, BTreeMap::from([("be".to_owned(), 2), ("to".to_owned(), 2)]));
        assert_eq!(tools.word_count("a b c d", None).await.unwrap().len(), 3, "Python's default");
        let names = vec!["x".to_owned()];
        let pair = (7, "seven".to_owned());
        let back = tools.mirror(true, pair.clone(), names.clone(), Some(Some(0.5))).await.unwrap();
        assert_eq!(back, (true, pair, names, Some(0.5)));
        assert_eq!(tools.first(vec![]).await.unwrap(), None);
        assert_eq!(tools.unique(vec![2, 1, 2]).await.unwrap(), BTreeSet::from([1, 2]));
        let loose = Value::List(vec![true.into()]);
        assert_eq!(tools.loose(loose).await.unwrap(), [true]);
        rig.root.stop().await;
    });
}

#[test]
fn a_result_of_another_type_is_an_error_of_its_call() {
    run(async {
        let rig = Rig::new().await;
        let tools = Tools::bind(&pool(&rig, PoolConfig::default()).await).await.unwrap();
        let error = tools.liar().await.unwrap_err();
        assert!(matches!(error, CallError::ResultType { .. }), "{error}");
        assert_eq!(error.code(), "result_type");
        assert!(tools.loose(7).await.is_err(), "an int is no list");
        assert_eq!(tools.first(vec![1]).await.unwrap(), Some(1), "the worker serves on");
        rig.root.stop().await;
    });
}

#[test]
fn a_generator_is_a_typed_stream() {
    run(async {
        let rig = Rig::new().await;
        let tools = Tools::bind(&pool(&rig, PoolConfig::default()).await).await.unwrap();
        let items = tools.count(200).await.unwrap();
        let mut seen = Vec::new();
        while let Some(item) = items.next().await {
            seen.push(item.unwrap());
        }
        assert_eq!(seen, Vec::from_iter(0..200));
        rig.root.stop().await;
    });
}

mod wrong {
    snakehouse_pool::tools! { pub(super) struct Missing { def word_counts(text: str) -> int; } }
    snakehouse_pool::tools! { pub(super) struct Parameter { def first(items: list[str]) -> int | None; } }
    snakehouse_pool::tools! { pub(super) struct Name { def first(things: list[int]) -> int | None; } }
    snakehouse_pool::tools! { pub(super) struct Result { def first(items: list[int]) -> int; } }
    snakehouse_pool::tools! { pub(super) struct Default { def first(items: list[int] = []) -> int | None; } }
    snakehouse_pool::tools! { pub(super) struct TooFew { def first() -> int | None; } }
    snakehouse_pool::tools! { pub(super) struct Plain { def count(n: int) -> int; } }
    snakehouse_pool::tools! { pub(super) struct Stream { def first(items: list[int]) -> Iterator[int]; } }
}

#[test]
fn what_does_not_fit_is_found_at_the_start_and_both_sides_are_named() {
    run(async {
        let rig = Rig::new().await;
        let pool = pool(&rig, PoolConfig::default()).await;
        let missing = wrong::Missing::bind(&pool).await.unwrap_err();
        assert_eq!(missing.code(), "tool_missing");
        assert!(missing.hint().unwrap().contains("word_count"));
        let found = [
            (wrong::Parameter::bind(&pool).await.unwrap_err(), "parameter \"items\" is of another"),
            (wrong::Name::bind(&pool).await.unwrap_err(), "no parameter \"things\""),
            (wrong::Result::bind(&pool).await.unwrap_err(), "its result is of another type"),
            (wrong::Default::bind(&pool).await.unwrap_err(), "\"items\" has no default"),
            (wrong::TooFew::bind(&pool).await.unwrap_err(), "\"items\" is not declared"),
            (wrong::Plain::bind(&pool).await.unwrap_err(), "it is a generator"),
            (wrong::Stream::bind(&pool).await.unwrap_err(), "it is no generator"),
        ];
        for (error, reason) in found {
            assert_eq!(error.code(), "tool_mismatch");
            let text = error.to_string();
            assert!(text.contains(reason), "{text}");
            let ToolMismatch::Different { declared, found, .. } = error else { panic!("{text}") };
            assert!(text.contains(declared) && text.contains(&found), "{text}");
        }
        rig.root.stop().await;
    });
}
