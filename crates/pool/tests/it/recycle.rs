//! Workers that are replaced while they are used.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use snakehouse_base::{ByteSize, Coded, Deadline};
use snakehouse_pool::{Args, CallError, Death, KillReason, PoolConfig, Recycle, WorkerState};

use crate::support::{
    BOUND, Rig, Trace, Watched, as_pid, call, call_pid, run, soon, wait_until, workers,
};

/// Replacements. `SNAKEHOUSE_RECYCLES` sets another number.
fn recycles() -> u64 {
    let given = std::env::var("SNAKEHOUSE_RECYCLES").ok();
    given.map_or(100, |text| text.parse().expect("a number of replacements"))
}

/// No call fails, and when it is over exactly as many interpreters are there as before.
#[test]
fn a_hundred_replacements_under_load_fail_no_call() {
    run(async {
        let rig = Rig::new().await;
        let recycle = Recycle { calls: Some(40), jitter: 0.5, seed: Some(1), ..Recycle::default() };
        let pool = rig.pool(PoolConfig { recycle, ..workers(3) }).await;
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let callers: Vec<_> = (0..6)
            .map(|_| {
                let (pool, over, seen) = (pool.clone(), over.clone(), seen.clone());
                rig.root.scope().task("caller", async move {
                    let mut calls = 0;
                    while !over.load(Ordering::Relaxed) {
                        let pid = call_pid(&pool).await;
                        let watch = || Watched::find(pid);
                        seen.lock().unwrap().entry(pid).or_insert_with(watch);
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        let enough = async {
            while pool.counters().recycled_calls < recycles() {
                tokio::task::yield_now().await;
            }
        };
        let bound = BOUND * u32::try_from(3 + recycles() / 100).unwrap();
        tokio::time::timeout(bound, enough).await.expect("workers are not replaced");
        over.store(true, Ordering::Relaxed);
        let mut calls = 0;
        for caller in callers {
            calls += caller.await.unwrap();
        }
        let settled = |state| matches!(state, WorkerState::Ready);
        wait_until(&pool, |pool| {
            let workers = pool.workers();
            workers.len() == 3 && workers.iter().all(|worker| settled(worker.state))
        })
        .await;
        let counters = pool.counters();
        assert_eq!((counters.accepted, counters.answered), (calls, calls));
        assert_eq!((counters.failed, counters.deaths, counters.late), (0, 0, 0));
        assert_eq!(counters.served, 3 + counters.recycled_calls);
        let kept: Vec<_> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
        for (pid, watched) in seen.lock().unwrap().iter() {
            match (kept.contains(pid), watched) {
                (true, Some(watched)) => assert!(watched.is_alive()),
                // Its place is vacant, so it is dead; one that was gone when it was looked for is.
                (false, Some(watched)) => watched.gone(),
                (_, None) => {}
            }
        }
        rig.end().await;
    });
}

#[test]
fn a_worker_that_holds_too_much_is_replaced() {
    run(async {
        let rig = Rig::new().await;
        let limit = ByteSize::mib(200);
        let recycle = Recycle { memory: Some(limit), ..Recycle::default() };
        let pool = rig.pool(PoolConfig { recycle, ..workers(1) }).await;
        let first = call_pid(&pool).await;
        // What it held when it was found: several callers, so that calls are sent ahead.
        let hoarding = async || {
            let mut held = 0;
            while pool.counters().recycled_memory == 0 && held < 1 << 31 {
                let value = call(&pool, "hoard", Args::none().arg(1)).await.unwrap();
                held = value.as_i64().unwrap();
            }
            held
        };
        let caught = futures_util::future::join_all((0..2).map(|_| hoarding())).await;
        let caught = caught.into_iter().max().unwrap();
        let parts = |tenths: u64| i64::try_from(limit.0 / 10 * tenths).unwrap();
        println!("caught at {} MiB of {} MiB", caught >> 20, limit.0 >> 20);
        assert!(caught >= parts(9), "{caught}");
        assert!(caught <= parts(11), "{caught}");
        let replaced = async { while call_pid(&pool).await == first {} };
        tokio::time::timeout(BOUND, replaced).await.unwrap();
        rig.end().await;
    });
}

/// An interpreter holds more than that: its replacement would hold as much, and so on for ever.
#[test]
fn a_limit_below_what_a_fresh_worker_holds_replaces_none() {
    run(async {
        let rig = Rig::new().await;
        let recycle = Recycle { memory: Some(ByteSize::mib(1)), ..Recycle::default() };
        let pool = rig.pool(PoolConfig { recycle, ..workers(2) }).await;
        wait_until(&pool, |pool| pool.counters().memory_too_low == 2).await;
        for _ in 0..100 {
            call_pid(&pool).await;
        }
        let counters = pool.counters();
        assert_eq!((counters.recycled_memory, counters.memory_too_low), (0, 2));
        assert_eq!(counters.served, 2);
        rig.end().await;
    });
}

#[test]
fn an_old_worker_is_replaced_though_nobody_calls() {
    run(async {
        let rig = Rig::new().await;
        let age = Some(Duration::from_millis(300));
        let pool =
            rig.pool(PoolConfig { recycle: Recycle { age, ..Recycle::default() }, ..workers(1) });
        let pool = pool.await;
        let first = pool.workers()[0].pid;
        wait_until(&pool, |pool| {
            let workers = pool.workers();
            pool.counters().recycled_age >= 2 && workers.iter().all(|w| w.pid != first)
        })
        .await;
        rig.end().await;
    });
}

/// A running call is finished by the worker that began it.
#[test]
fn all_workers_are_replaced_on_request_and_no_call_fails() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(2)).await;
        let (trace, gate) = (Trace::new(), Trace::new());
        let args = trace.args("begun").arg(gate.path());
        let mut slow = Box::pin(call(&pool, "append_and_wait", args));
        tokio::select! {
            biased;
            _ = &mut slow => panic!("it waits"),
            () = trace.wait_for("begun") => {}
        }
        let before: Vec<_> = pool.workers().iter().map(|w| Watched::new(w.pid.unwrap())).collect();
        assert_eq!(pool.recycle_all(), 2);
        gate.write("go on");
        assert_eq!(slow.await.unwrap().as_str(), Some("begun"));
        before.iter().for_each(Watched::gone);
        wait_until(&pool, |pool| pool.workers().len() == 2).await;
        let counters = pool.counters();
        assert_eq!((counters.recycled_asked, counters.failed, counters.deaths), (2, 0, 0));
        rig.end().await;
    });
}

/// What it was waited for and not done is ended by its replacement, and the error says so.
#[test]
fn a_call_that_outlasts_the_drain_and_the_grace_is_told_why() {
    run(async {
        let rig = Rig::new().await;
        let brief = Duration::from_millis(100);
        let recycle = Recycle { drain_within: brief, ..Recycle::default() };
        let pool = rig.pool(PoolConfig { recycle, stop_grace: brief, ..workers(1) }).await;
        let trace = Trace::new();
        let mut endless = Box::pin(call(&pool, "append", trace.args("begun").arg(600.0)));
        tokio::select! {
            biased;
            _ = &mut endless => panic!("it slept enough"),
            () = trace.wait_for("begun") => {}
        }
        assert_eq!(pool.recycle_all(), 1);
        match endless.await.unwrap_err() {
            CallError::WorkerDied { started: true, cause, .. } => {
                assert_eq!(cause, Death::Killed(KillReason::Recycled));
            }
            other => panic!("{other:?}"),
        }
        rig.end().await;
    });
}

/// The session keeps its worker, with its state, until it is closed.
#[test]
fn a_session_is_waited_for() {
    run(async {
        let rig = Rig::new().await;
        let recycle = Recycle { calls: Some(3), jitter: 0.0, ..Recycle::default() };
        let pool = rig.pool(PoolConfig { recycle, ..workers(1) }).await;
        let session = pool.session(Deadline::never()).await.unwrap();
        let pinned = Watched::new(session.worker().unwrap().pid);
        for expected in 1..=3 {
            let count = session.call("count", Args::none(), soon()).await.unwrap();
            assert_eq!(count.as_i64(), Some(expected));
        }
        let drains = |state| state == WorkerState::Draining;
        wait_until(&pool, |pool| pool.workers().iter().any(|worker| drains(worker.state))).await;
        assert_ne!(call_pid(&pool).await, pinned.pid, "others have the new one");
        let count = session.call("count", Args::none(), soon()).await.unwrap();
        assert_eq!(count.as_i64(), Some(4), "and the session its own");
        drop(session);
        pinned.gone();
        wait_until(&pool, |pool| pool.workers().len() == 1).await;
        rig.end().await;
    });
}

#[test]
fn a_session_is_not_waited_for_for_ever() {
    run(async {
        let rig = Rig::new().await;
        let drain_within = Duration::from_millis(200);
        let recycle = Recycle { calls: Some(1), jitter: 0.0, drain_within, ..Recycle::default() };
        let pool = rig.pool(PoolConfig { recycle, ..workers(1) }).await;
        let session = pool.session(Deadline::never()).await.unwrap();
        let pid = session.call("pid", Args::none(), soon()).await.unwrap();
        let pinned = Watched::new(as_pid(&pid));
        assert_eq!(session.ended().await.death(), Some(&Death::Killed(KillReason::Recycled)));
        let error = session.call("pid", Args::none(), soon()).await.unwrap_err();
        assert_eq!(error.code(), "session_lost");
        assert!(matches!(error, CallError::SessionLost { .. }));
        pinned.gone();
        assert_eq!(pool.counters().sessions_recycled, 1);
        rig.end().await;
    });
}
