//! SIGKILL of random workers under load: what ends, what is run again, and what is left.
//!
//! 50 kills; `SNAKEHOUSE_KILLS` sets another number. A failure prints its seed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use futures_util::future::join_all;
use snakehouse_base::Chance;
use snakehouse_pool::{CallError, WorkerState};
use snakehouse_testkit::{LeakProbe, for_each_seed, in_own_process};

use crate::support::{Rig, Trace, Watched, call, run, wait_until, workers};

const WORKERS: usize = 4;
/// Callers that always have a call under way: more than the workers can have.
const CALLERS: usize = 24;

fn kills() -> usize {
    std::env::var("SNAKEHOUSE_KILLS").map_or(50, |text| text.parse().expect("a number of kills"))
}

#[test]
fn every_call_ends_once_whichever_worker_is_killed_and_nothing_is_left() {
    in_own_process(
        "kills::every_call_ends_once_whichever_worker_is_killed_and_nothing_is_left",
        || for_each_seed(1, |chance| run(load(chance, kills()))),
    );
}

/// How the calls ended, by their number.
type Ends = Rc<RefCell<BTreeMap<u64, Result<(), CallError>>>>;

async fn load(chance: Chance, kills: usize) {
    let probe = LeakProbe::start();
    let rig = Rig::new().await;
    let before = LeakProbe::watching(&[rig.cache.path()]);
    let pool = rig.pool(workers(WORKERS)).await;
    let (trace, ends) = (Trace::new(), Ends::default());
    let (next, stop) = (Cell::new(0), Cell::new(false));
    let caller = async || {
        while !stop.get() {
            let number = next.replace(next.get() + 1);
            // Some are too short to be hit, some long enough to be sure of it.
            let seconds = [0.0, 0.0, 0.001, 0.01][below(&chance, 4)];
            let args = trace.args(&number.to_string()).arg(seconds);
            let end = call(&pool, "append", args).await.map(|_none| ());
            let earlier = ends.borrow_mut().insert(number, end);
            assert_eq!(earlier, None, "call {number} ended twice");
        }
    };
    let killer = async {
        let mut killed = BTreeSet::new();
        let mut alive = Vec::new();
        while killed.len() < kills {
            // At any moment: also two at once, also one that starts.
            let ended = ends.borrow().len() + below(&chance, 4 * CALLERS);
            wait_until(&pool, |pool| {
                let pids = pool.workers().into_iter().filter_map(|worker| worker.pid);
                alive = pids.filter(|pid| !killed.contains(pid)).collect();
                ends.borrow().len() >= ended && !alive.is_empty()
            })
            .await;
            let pid = alive[below(&chance, alive.len())];
            Watched::new(pid).kill();
            killed.insert(pid);
        }
        stop.set(true);
    };
    tokio::join!(join_all((0..CALLERS).map(|_| caller())), killer);
    let is_whole = |worker: &snakehouse_pool::WorkerInfo| {
        worker.state == WorkerState::Ready && worker.in_flight == 0
    };
    wait_until(&pool, |pool| pool.workers().iter().all(is_whole)).await;
    assert_eq!(pool.workers().len(), WORKERS, "slots before and after");
    assert_eq!(pool.waiting(), 0);

    let runs = runs(&trace);
    drop(trace);
    let ends = ends.take();
    assert_eq!(ends.len() as u64, next.get(), "a call has no end");
    let mut failed = 0;
    for (number, end) in &ends {
        let runs = runs.get(number).copied().unwrap_or_default();
        match end {
            Ok(()) => assert_eq!(runs, 1, "call {number} has a result"),
            Err(CallError::WorkerDied { started: true, .. }) => {
                assert!(runs <= 1, "call {number} ran {runs} times");
                failed += 1;
            }
            Err(error) => panic!("call {number} was not started and failed: {error}"),
        }
    }
    assert!(failed >= kills / 20, "{failed} calls were hit by {kills} kills");
    assert!(failed <= kills, "a worker that runs one call at a time had more than one running");
    pool.stop().await;
    drop(pool);
    before.require_clean();
    rig.end().await;
    probe.require_clean();
}

/// A number from 0 to `end - 1`.
fn below(chance: &Chance, end: usize) -> usize {
    usize::try_from(chance.next_u64() % end as u64).expect("it is below a usize")
}

/// How often each call began.
fn runs(trace: &Trace) -> BTreeMap<u64, usize> {
    let mut runs = BTreeMap::new();
    for line in trace.lines() {
        *runs.entry(line.parse().expect("the number of a call")).or_default() += 1;
    }
    runs
}
