//! Calls that are taken back from a busy worker, because another one has room.

use snakehouse_pool::{Args, Pool};

use crate::support::{
    BOUND, Rig, Trace, Watched, as_pid, call, call_pid, run, wait_until, workers,
};

/// Calls that are sent ahead of what their worker does.
const AHEAD: usize = 2;

/// Short calls until each worker may have so many at once.
async fn open_the_windows(pool: &Pool) {
    let calling = async {
        loop {
            futures_util::future::join_all((0..64).map(|_| call_pid(pool))).await;
            wait_until(pool, |pool| pool.workers().iter().all(|w| w.in_flight == 0)).await;
            // One that stood still meanwhile may have yet to pass what was taken back from it.
            let (first, second) = tokio::join!(call_pid(pool), call_pid(pool));
            wait_until(pool, |pool| pool.workers().iter().all(|w| w.in_flight == 0)).await;
            if first != second && pool.workers().iter().all(|worker| worker.window > AHEAD) {
                return;
            }
        }
    };
    tokio::time::timeout(BOUND, calling).await.expect("calls are never short");
}

/// Two workers, the second of which comes free; whoever waits behind the first must not wait for it.
#[test]
fn calls_behind_a_long_one_run_where_there_is_room() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(2)).await;
        open_the_windows(&pool).await;
        let before = pool.counters().recalled;
        let (trace, gates) = (Trace::new(), [Trace::new(), Trace::new()]);
        let long = |nth: usize| {
            let args = trace.args(&nth.to_string()).arg(gates[nth].path());
            let pool = pool.clone();
            rig.root.scope().task("long", async move { call(&pool, "append_and_wait", args).await })
        };
        let (first, second) = (long(0), long(1));
        trace.wait_for("0").await;
        trace.wait_for("1").await;
        let short: Vec<_> = (0..2 * AHEAD)
            .map(|_| {
                let pool = pool.clone();
                rig.root.scope().task("short", async move { call_pid(&pool).await })
            })
            .collect();
        let is_ahead = |pool: &Pool| pool.workers().iter().all(|w| w.in_flight == 1 + AHEAD);
        wait_until(&pool, is_ahead).await;
        gates[1].write("go on");
        assert_eq!(second.await.unwrap().unwrap().as_str(), Some("1"));
        let mut pids = Vec::new();
        for call in short {
            pids.push(call.await.unwrap());
        }
        pids.dedup();
        assert_eq!(pids.len(), 1, "all of them ran at one worker, beside the long one");
        let busy = pool.workers().into_iter().find(|worker| worker.pid != Some(pids[0])).unwrap();
        let recalled = pool.counters().recalled - before;
        assert_eq!((busy.in_flight, recalled), (1, AHEAD as u64));
        gates[0].write("go on");
        assert_eq!(first.await.unwrap().unwrap().as_str(), Some("0"));
        // It gets calls again, once it has passed those that were taken back.
        let used = async { while Some(call_pid(&pool).await) != busy.pid {} };
        tokio::time::timeout(BOUND, used).await.expect("it is used no more");
        wait_until(&pool, |pool| pool.counters().answered == pool.counters().accepted).await;
        let counters = pool.counters();
        assert_eq!((counters.failed, counters.late, counters.deaths), (0, 0, 0));
        rig.end().await;
    });
}

/// It stands still before it has begun any of them, and later goes on: each of them runs once.
#[test]
fn calls_at_a_worker_that_stands_still_run_where_there_is_room() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(2)).await;
        open_the_windows(&pool).await;
        let before = pool.counters().recalled;
        let (trace, gate) = (Trace::new(), Trace::new());
        let (busy, args) = (pool.clone(), trace.args("long").arg(gate.path()));
        let scope = rig.root.scope();
        let long = scope.task("long", async move { call(&busy, "append_and_wait", args).await });
        trace.wait_for("long").await;
        let idle = pool.workers().into_iter().find(|worker| worker.in_flight == 0).unwrap();
        let still = idle.pid.map(Watched::new).unwrap();
        still.pause();
        let calls = (0..=2 * AHEAD).map(|nth| {
            let (pool, args) = (pool.clone(), trace.args(&nth.to_string()));
            scope.task("call", async move { call(&pool, "append", args).await })
        });
        let calls: Vec<_> = calls.collect();
        let is_ahead = |pool: &Pool| pool.workers().iter().all(|w| w.in_flight == 1 + AHEAD);
        wait_until(&pool, is_ahead).await;
        gate.write("go on");
        long.await.unwrap().unwrap();
        for call in calls {
            call.await.unwrap().unwrap();
        }
        assert_eq!(pool.counters().recalled, before + 1 + AHEAD as u64);
        still.go_on();
        let used = async {
            while as_pid(&call(&pool, "pid", Args::none()).await.unwrap()) != still.pid {}
        };
        tokio::time::timeout(BOUND, used).await.expect("it is used no more");
        let mut lines = trace.lines();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!((lines.len(), trace.lines().len()), (2 * AHEAD + 2, 2 * AHEAD + 2));
        rig.end().await;
    });
}
