//! The dispatcher under random events, against a reference that is simple enough to be believed.
//!
//! The reference keeps its calls in plain vectors and finds the next one by looking at all of them.
//! It is told which workers serve, drain or are gone, and predicts after every single event where
//! each call is, in which order, and how each one ends. The dispatcher's own rules are looked after as
//! well ([`Dispatcher::check`]). A world is one pool of random shape with a few thousand events, after
//! which every call must be over and every worker that is not wanted gone.
//!
//! There are 50 worlds of 2,000 events; `cargo xtask soak pool-model` has 500.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use snakehouse_base::id::Incarnation;
use snakehouse_testkit::for_each_seed;
use tokio::sync::oneshot;

use super::*;
use crate::call::CallOptions;
use crate::config::{Recycle, Start};
use crate::session::{Affinity, SessionLimits, SessionOptions, Space, Tag};
use crate::worker::Birth;

mod reference;
mod world;

use self::reference::{End, Reference};
use self::world::World;

const WORLDS: u64 = 50;
const EVENTS: u64 = 2_000;

#[test]
fn every_call_is_where_the_reference_says_and_ends_once() {
    let mut worlds = Vec::new();
    for_each_seed(WORLDS, |chance| {
        let mut world = World::new(chance);
        (0..EVENTS).for_each(|_| world.event());
        worlds.push(world.finish());
    });
    type Count = fn(&PoolCounters) -> u64;
    let happened: [(&str, Count); 17] = [
        ("answered", |count| count.answered / 10),
        ("cancelled", |count| count.cancelled),
        ("failed", |count| count.failed),
        ("given back", |count| count.given_back),
        ("recalled", |count| count.recalled),
        ("late", |count| count.late),
        ("grown", |count| count.grown),
        ("shrunk", |count| count.shrunk),
        ("promoted", |count| count.promoted),
        ("deaths", |count| count.deaths),
        ("recycled", |count| {
            count.recycled_memory.min(count.recycled_calls).min(count.recycled_age)
        }),
        ("sessions recycled", |count| count.sessions_recycled),
        ("saturated", |count| count.saturated),
        ("sessions expired", |count| count.sessions_expired),
        ("sessions lost", |count| count.sessions_lost),
        ("sessions moved", |count| count.sessions_moved),
        ("sessions refused", |count| count.sessions_refused),
    ];
    for (what, count) in happened {
        let sum: u64 = worlds.iter().map(count).sum();
        println!("{what}: {sum} in {} worlds", worlds.len());
        // A test that never gets anywhere proves nothing. One world need not have everything.
        assert!(sum > 0 || worlds.len() < 20, "{what} never happened");
    }
}
