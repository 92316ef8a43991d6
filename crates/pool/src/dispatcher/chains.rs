//! Chains of calls under random events: over several pools, through workers that die, restart and are
//! replaced, with callers that give up and deadlines that pass.
//!
//! A world is a few dispatchers and everything around them that a chain needs: workers that run nested
//! calls as the protocol says, host tools that call further tools, connections that hear of things late.
//! After every event each pool keeps its rules ([`Dispatcher::check`]), and something can go on: if
//! nothing does but the time of a worker's return, and calls are open, they would wait for each other for
//! ever. In the end everybody only works off what there is, without a deadline, and every call must have
//! its one outcome.
//!
//! There are 25 worlds of 1,000 events; `cargo xtask soak pool-chains` has 1,000 worlds.

use std::collections::BTreeMap;

use bytes::Bytes;
use snakehouse_base::Chance;
use snakehouse_base::id::Incarnation;
use snakehouse_testkit::for_each_seed;

use super::*;

mod world;

use self::world::World;

const WORLDS: u64 = 25;
const EVENTS: u64 = 1_000;

/// What came of the calls of a world.
#[derive(Debug, Default)]
struct Ends(BTreeMap<&'static str, u64>);

impl Ends {
    fn add(&mut self, end: &'static str, count: u64) {
        *self.0.entry(end).or_default() += count;
    }
}

#[test]
fn every_call_of_every_chain_ends_once_and_nothing_stands_still() {
    let mut all = Ends::default();
    let mut worlds = 0;
    for_each_seed(WORLDS, |chance| {
        let mut world = World::new(chance);
        (0..EVENTS).for_each(|_| world.event());
        for (end, count) in world.finish().0 {
            all.add(end, count);
        }
        worlds += 1;
    });
    println!("{worlds} worlds: {all:?}");
    let happened = [
        "answered",
        "given up",
        "too_deep",
        "would_deadlock",
        "worker_died",
        "session_lost",
        "nested",
        "deaths",
        "recycled",
        "deepest",
    ];
    for end in happened {
        // A test that never gets anywhere proves nothing. One world need not have everything.
        assert!(worlds < 20 || all.0.get(end).is_some_and(|count| *count > 0), "{end}: {all:?}");
    }
}
