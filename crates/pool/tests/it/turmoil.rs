//! Callers that give up at random moments: no call is hit by another's cancel, none is lost, and the
//! worker lives.
//!
//! `SNAKEHOUSE_CALLS` chooses how many calls are made (default 4,000; soak 100,000).

use std::time::Duration;

use snakehouse_base::Chance;
use snakehouse_pool::{Args, CallError, CallOptions, Pool, PoolConfig, Value, WorkerSpec};

use crate::support::{Rig, python, run, soon, wait_until, workers};

const CALLERS: i64 = 16;

pub(crate) fn calls() -> i64 {
    std::env::var("SNAKEHOUSE_CALLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4_000)
}

pub(crate) fn spec() -> WorkerSpec {
    let tools = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/work_tools.py");
    WorkerSpec::python("work", python()).module(tools.to_str().unwrap())
}

/// What one caller saw.
#[derive(Debug, Default)]
struct Seen {
    answered: u64,
    gave_up: u64,
}

/// Makes calls one after the other, of which half are given up at random.
async fn caller(pool: Pool, seed: u64, numbers: std::ops::Range<i64>) -> Seen {
    let chance = Chance::seeded(seed);
    let mut seen = Seen::default();
    for number in numbers {
        let below = |most: u64| chance.next_u64() % most;
        let how = ["none", "none", "spin", "sleep", "many"][usize::try_from(below(5)).unwrap()];
        let micros = u32::try_from(below(1500)).unwrap();
        let args = Args::none().arg(number).arg(how).arg(f64::from(micros) * 1e-6);
        let patience = match below(4) {
            0 | 1 => None,
            // At the end of its time, or before the worker has even read it.
            2 => Some(Duration::from_micros(below(2000))),
            _ => Some(Duration::from_micros(below(100))),
        };
        let options = patience.map_or_else(soon, CallOptions::within);
        match pool.call("work", args, options).await {
            Ok(value) => {
                assert_eq!(value, Value::from(number), "another call's answer");
                seen.answered += 1;
            }
            Err(CallError::Deadline { .. }) if patience.is_some() => seen.gave_up += 1,
            Err(error) => panic!("call {number}, {how}, {patience:?}: {error}"),
        }
    }
    seen
}

pub(crate) async fn turmoil(pool: &Pool, rig: &Rig, calls: i64) {
    let each = calls / CALLERS;
    let tasks: Vec<_> = (0..CALLERS)
        .map(|n| {
            let numbers = n * each..(n + 1) * each;
            let caller = caller(pool.clone(), n.unsigned_abs(), numbers);
            rig.root.scope().task("caller", caller)
        })
        .collect();
    let (mut answered, mut gave_up) = (0, 0);
    for task in tasks {
        let seen = task.await.unwrap();
        answered += seen.answered;
        gave_up += seen.gave_up;
    }
    assert_eq!(answered + gave_up, (each * CALLERS).unsigned_abs());
    assert!(gave_up > answered / 20, "{gave_up} of {answered} gave up");
    wait_until(pool, |pool| pool.workers().iter().all(|worker| worker.in_flight == 0)).await;
    assert_eq!(pool.waiting(), 0);
    for worker in pool.workers() {
        assert_eq!(worker.restarts, 0, "a cancel escaped, or cost the worker: {worker:?}");
        let said = pool.output(worker.id);
        assert!(said.is_empty(), "{said:?}");
    }
    // An oracle's counts: each call is answered by the worker, or was cancelled before it began.
    let counters = pool.counters();
    assert_eq!(counters.accepted, (each * CALLERS).unsigned_abs());
    assert_eq!(counters.answered + counters.cancelled, counters.accepted, "{counters:?}");
    assert!(counters.answered - counters.late >= answered, "{counters:?}");
}

#[test]
fn cancels_at_random_hit_their_calls_and_no_others() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        turmoil(&pool, &rig, calls() / 2).await;
        rig.end().await;
    });
}

#[test]
fn cancels_at_random_over_several_workers() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), PoolConfig { ..workers(3) }).await;
        turmoil(&pool, &rig, calls() / 2).await;
        rig.end().await;
    });
}
