//! Guards by key: the registry against a plain map, and its bound.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use snakehouse_base::Chance;
use snakehouse_guard::{
    Breaker, BreakerConfig, BreakerState, Registry, RegistryError, Trip, Window,
};
use snakehouse_testkit::Process;
use tokio::time::Instant;

use crate::iterations;

/// A guard of which forgetting matters while it is busy.
#[derive(Debug)]
struct Guard {
    config: u8,
    busy: bool,
}

#[derive(Clone, Debug)]
enum Op {
    /// Ask for the guard of a key and keep it; a busy one must not be forgotten.
    Ask {
        key: u8,
        config: u8,
        busy: bool,
    },
    /// Let go of one that is held.
    Drop(usize),
    Remove(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0u8..8, 0u8..2, any::<bool>())
            .prop_map(|(key, config, busy)| Op::Ask { key, config, busy }),
        4 => any::<usize>().prop_map(Op::Drop),
        1 => (0u8..8).prop_map(Op::Remove),
    ]
}

proptest! {
    #[test]
    fn agrees_with_a_plain_map(
        capacity in 1usize..5,
        ops in prop::collection::vec(op(), 0..120),
    ) {
        let registry: Registry<u8, u8, Guard> =
            Registry::new(capacity, |guard: &Guard| !guard.busy).unwrap();
        // Configuration, whether busy, and how many hold it.
        let mut known: BTreeMap<u8, (u8, bool)> = BTreeMap::new();
        let mut held: Vec<(u8, Arc<Guard>)> = Vec::new();
        for op in ops {
            match op {
                Op::Ask { key, config, busy } => {
                    let expected = match known.get(&key) {
                        Some((same, _)) if *same == config => Ok(()),
                        Some(_) => Err(RegistryError::Conflict { key: key.to_string() }),
                        None => {
                            if known.len() >= capacity {
                                let holds = |key: u8| held.iter().any(|(own, _)| *own == key);
                                known.retain(|key, (_, busy)| *busy || holds(*key));
                            }
                            let full = known.len() >= capacity;
                            if full { Err(RegistryError::Full { capacity }) } else { Ok(()) }
                        }
                    };
                    let made = registry.get_or_make(&key, config, |c| Ok(Guard { config: *c, busy }));
                    prop_assert_eq!(made.as_ref().map(drop), expected.as_ref().copied());
                    if let Ok(guard) = made {
                        known.entry(key).or_insert((config, busy));
                        prop_assert_eq!((guard.config, guard.busy), known[&key]);
                        if let Some((_, same)) = held.iter().find(|(own, _)| *own == key) {
                            prop_assert!(Arc::ptr_eq(same, &guard), "one guard per key");
                        }
                        held.push((key, guard));
                    }
                }
                Op::Drop(n) if !held.is_empty() => drop(held.remove(n % held.len())),
                Op::Drop(_) => {}
                Op::Remove(key) => {
                    let was = registry.remove(&key).is_some();
                    prop_assert_eq!(was, known.remove(&key).is_some());
                    // Holders keep theirs; who asks next gets another.
                    held.retain(|(own, _)| *own != key);
                }
            }
            let mut keys = registry.keys();
            keys.sort_unstable();
            prop_assert_eq!(keys, known.keys().copied().collect::<Vec<_>>());
        }
    }
}

/// BW6: any number of keys, one after the other, need the memory of a thousand.
#[test]
fn many_keys_stay_within_the_capacity() {
    let name = "registry::many_keys_stay_within_the_capacity";
    snakehouse_testkit::in_own_process(name, || {
        let now = Instant::now().into_std();
        let registry: Registry<u64, Duration, Window> =
            Registry::new(1000, |_: &Window| true).unwrap();
        let ask = |key: u64| {
            let window = registry.get_or_make(&key, Duration::ZERO, |ramp| Ok(Window::new(*ramp)));
            window.unwrap().set(now, Duration::from_secs(1));
        };
        (0..10_000).for_each(ask);
        let before = Process::current().resident();
        (10_000..iterations()).for_each(ask);
        assert!(registry.keys().len() <= 1000);
        let grown = Process::current().resident().saturating_sub(before);
        assert!(grown < 1 << 20, "{grown} bytes for keys that are forgotten");
    });
}

/// A registry of breakers: asked for by configuration, looked at, reset, listed, deleted.
#[test]
fn breakers_by_key() {
    let registry: Registry<&str, BreakerConfig, Breaker> =
        Registry::new(2, Breaker::is_fresh).unwrap();
    let config = BreakerConfig { trip: Trip::Consecutive(1), ..BreakerConfig::default() };
    let ask = |key: &&'static str, config| {
        let make = |config: &BreakerConfig| Breaker::with_chance(key, *config, Chance::seeded(1));
        registry.get_or_make(key, config, make)
    };
    ask(&"a", config).unwrap().try_admit().unwrap().failure();
    assert!(ask(&"a", config).unwrap().try_admit().is_err(), "the same breaker");
    assert!(matches!(ask(&"a", BreakerConfig::default()), Err(RegistryError::Conflict { .. })));
    drop(ask(&"b", config).unwrap());
    drop(ask(&"c", config).unwrap());
    let mut keys = registry.keys();
    keys.sort_unstable();
    assert_eq!(keys, ["a", "c"], "the open one is remembered, the fresh one made room");
    registry.get(&"a").unwrap().reset();
    assert_eq!(registry.get(&"a").unwrap().state(), BreakerState::Closed);
    assert!(registry.get(&"a").unwrap().is_fresh());
    assert!(registry.remove(&"a").is_some() && registry.get(&"a").is_none());
    let invalid = BreakerConfig { probes: 0, ..config };
    assert!(matches!(ask(&"d", invalid), Err(RegistryError::Config(_))), "nothing is stored");
    assert!(registry.get(&"d").is_none());
}
