//! The dispatcher under random events, against a reference that is simple enough to be believed.
//!
//! The reference keeps its calls in plain vectors and finds the next one by looking at all of them.
//! It is told which workers serve, drain or are gone, and predicts after every single event where
//! each call is, in which order, and how each one ends. The dispatcher's own rules are looked after as
//! well ([`Dispatcher::check`]). A world is one pool of random shape with a few thousand events, after
//! which every call must be over and every worker that is not wanted gone.
//!
//! `SNAKEHOUSE_MODEL_EVENTS` is how many events there are (default 100,000; soak 1,000,000), and
//! `SNAKEHOUSE_SEED` replays one world.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use snakehouse_base::id::Incarnation;
use tokio::sync::oneshot;

use super::*;
use crate::call::CallOptions;
use crate::config::{Recycle, Start};
use crate::worker::{Birth, Life};

mod reference;
mod world;

use self::reference::{End, Reference};
use self::world::World;

const EVENTS_PER_WORLD: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("it is a number"))
}

#[test]
fn every_call_is_where_the_reference_says_and_ends_once() {
    let events = number("SNAKEHOUSE_MODEL_EVENTS").unwrap_or(100_000);
    let seeds = match number("SNAKEHOUSE_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=events.div_ceil(EVENTS_PER_WORLD),
    };
    let mut sum = PoolCounters::default();
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..EVENTS_PER_WORLD {
                world.event();
            }
            world.finish()
        });
        match outcome {
            Ok(counters) => {
                sum.answered += counters.answered;
                sum.cancelled += counters.cancelled;
                sum.failed += counters.failed;
                sum.given_back += counters.given_back;
                sum.grown += counters.grown;
                sum.shrunk += counters.shrunk;
                sum.promoted += counters.promoted;
                sum.deaths += counters.deaths;
                sum.recycled_memory += counters.recycled_memory;
                sum.recycled_calls += counters.recycled_calls;
                sum.recycled_age += counters.recycled_age;
                sum.sessions_recycled += counters.sessions_recycled;
                sum.saturated += counters.saturated;
            }
            Err(panic) => {
                println!("failing world {seed}; replay with SNAKEHOUSE_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{sum:?}");
    // A test that never gets anywhere proves nothing.
    if number("SNAKEHOUSE_SEED").is_none() {
        let each = [
            sum.answered / 10,
            sum.cancelled,
            sum.failed,
            sum.given_back,
            sum.grown,
            sum.shrunk,
            sum.promoted,
            sum.deaths,
            sum.recycled_memory,
            sum.recycled_calls,
            sum.recycled_age,
            sum.sessions_recycled,
            sum.saturated,
        ];
        assert!(each.iter().all(|count| *count >= events / 10_000), "{sum:?}");
    }
}
