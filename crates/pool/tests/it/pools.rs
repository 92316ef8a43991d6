//! How many workers a pool has, who takes over, and several pools beside each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use snakehouse_base::{Chance, Coded};
use snakehouse_pool::{Args, CallError, Pool, PoolConfig, Recycle, Start, WorkerSpec, WorkerState};

use crate::support::{
    BOUND, Rig, Watched, call, call_pid, python, run, soon, spec, wait_until, workers,
};

fn lazy(most: usize) -> PoolConfig {
    PoolConfig { start: Start::Lazy, ..workers(most) }
}

#[test]
fn a_lazy_pool_has_no_worker_until_it_is_called() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(lazy(2)).await;
        assert_eq!(pool.workers(), []);
        call_pid(&pool).await;
        assert_eq!(pool.workers().len(), 1);
        let other = rig.pool(lazy(2)).await;
        let session = other.session(soon().deadline).await.unwrap();
        assert_eq!(other.workers()[0].pid, Some(session.worker().unwrap().pid));
        rig.end().await;
    });
}

/// It has no handle by which it could be stopped.
#[test]
fn of_a_start_that_is_given_up_nothing_is_left() {
    run(async {
        let rig = Rig::new().await;
        let mute = WorkerSpec::program("mute", "/bin/sleep", ["600"]);
        let scopes = || {
            let tree = rig.root.scope().tree();
            tree.children.iter().filter(|node| node.name == "mute").count()
        };
        let looks_for = async |count: usize| {
            let found = async {
                while scopes() != count {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(BOUND, found).await.expect("it is there, or still there");
        };
        let start = Pool::start(rig.root.scope(), rig.reaper.clone(), mute, workers(1));
        tokio::select! {
            biased;
            _ = start => panic!("it never says hello"),
            () = looks_for(1) => {}
        }
        looks_for(0).await;
        rig.end().await;
    });
}

/// The caller learns at once and not at its deadline, with the worker's own words.
#[test]
fn a_lazy_pool_that_cannot_start_says_so_to_its_caller() {
    run(async {
        let rig = Rig::new().await;
        let broken =
            || WorkerSpec::program("broken", "/bin/sh", ["-c", "echo no luck >&2; exit 5"]);
        let pool = rig.pool_of(broken(), lazy(1)).await;
        let error = call(&pool, "echo", Args::none()).await.unwrap_err();
        assert_eq!(error.code(), "no_worker");
        assert!(error.to_string().contains("no luck"), "{error}");
        let error = pool.session(soon().deadline).await.unwrap_err();
        assert!(matches!(error, CallError::NoWorker { .. }), "{error:?}");
        assert_eq!(pool.waiting(), 0);
        rig.end().await;
    });
}

#[test]
fn a_pool_grows_while_calls_wait_and_shrinks_when_they_are_over() {
    run(async {
        let rig = Rig::new().await;
        let config = PoolConfig {
            min_workers: Some(1),
            grow_after: Duration::from_millis(20),
            shrink_after: Duration::from_millis(200),
            ..workers(3)
        };
        let pool = rig.pool(config).await;
        assert_eq!(pool.workers().len(), 1);
        let mut long: Vec<_> =
            (0..8).map(|_| Box::pin(call(&pool, "sleep", Args::none().arg(600)))).collect();
        let polled = std::future::poll_fn(|cx| {
            let mut polled = long.iter_mut().map(|call| call.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(polled.by_ref().filter(|pending| *pending).count())
        });
        assert_eq!(polled.await, 8);
        let busy = |state| state == WorkerState::Busy;
        wait_until(&pool, |pool| {
            pool.workers().iter().filter(|worker| busy(worker.state)).count() == 3
        })
        .await;
        assert_eq!(pool.waiting(), 5);
        drop(long);
        wait_until(&pool, |pool| pool.workers().len() == 1).await;
        call_pid(&pool).await;
        let counters = pool.counters();
        assert_eq!((counters.grown, counters.shrunk, counters.deaths), (2, 2, 0));
        rig.end().await;
    });
}

/// The next call does not wait for an interpreter to start.
#[test]
fn a_spare_worker_takes_over_at_a_death() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(PoolConfig { standby: 1, ..workers(1) }).await;
        let spare = |pool: &Pool| {
            let workers = pool.workers();
            let spare = workers.iter().find(|worker| worker.state == WorkerState::Standby);
            spare.and_then(|worker| worker.pid)
        };
        for round in 1..=5 {
            wait_until(&pool, |pool| spare(pool).is_some()).await;
            let (serving, next) = (call_pid(&pool).await, spare(&pool).unwrap());
            assert_ne!(serving, next, "it has no calls");
            Watched::new(serving).kill();
            wait_until(&pool, |pool| pool.counters().deaths == round).await;
            assert_eq!(call_pid(&pool).await, next);
            assert_eq!(pool.counters().promoted, round);
        }
        rig.end().await;
    });
}

#[test]
fn all_that_are_killed_at_once_come_back() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(4)).await;
        for round in 1..=3 {
            let before: Vec<_> = pool.workers().iter().map(|w| w.pid.unwrap()).collect();
            let before: Vec<_> = before.into_iter().map(Watched::new).collect();
            before.iter().for_each(Watched::kill);
            wait_until(&pool, |pool| {
                let workers = pool.workers();
                let back = |state| state == WorkerState::Ready;
                workers.len() == 4 && workers.iter().all(|w| back(w.state) && w.restarts == round)
            })
            .await;
            before.iter().for_each(Watched::gone);
            call_pid(&pool).await;
        }
        let counters = pool.counters();
        assert_eq!((counters.deaths, counters.served), (12, 16));
        rig.end().await;
    });
}

/// Three that work, one that dies at once, one that never says hello: those that work are there
/// before the last one has had its time.
#[test]
fn what_is_broken_does_not_keep_other_pools_from_starting() {
    run(async {
        let rig = Rig::new().await;
        let scope = rig.root.scope();
        let start = |name: &str, spec: WorkerSpec| {
            let (scope, reaper) = (scope.clone(), rig.reaper.clone());
            rig.root
                .scope()
                .task(name, async move { Pool::start(&scope, reaper, spec, workers(4)).await })
        };
        let mut mute = start("mute", WorkerSpec::program("mute", "/bin/sleep", ["600"]));
        let early = start("early", WorkerSpec::program("early", "/bin/sh", ["-c", "exit 5"]));
        let lost = WorkerSpec::python("lost", python()).module("no_such_module");
        let lost = start("lost", lost);
        let working: Vec<_> = (0..3).map(|_| start("works", spec())).collect();
        for pool in working {
            call_pid(&pool.await.unwrap().unwrap()).await;
        }
        let mute_yet = tokio::time::timeout(Duration::ZERO, &mut mute).await;
        assert!(mute_yet.is_err(), "it has a minute for its hello");
        for broken in [early, lost] {
            assert_eq!(broken.await.unwrap().unwrap_err().code(), "worker_not_ready");
        }
        mute.abort();
        rig.end().await;
    });
}

/// A worker that cannot start fails the pool's start at once, though others still try.
#[test]
fn a_broken_pool_is_reported_by_its_first_worker() {
    run(async {
        let rig = Rig::new().await;
        // Each first one of the starts takes its time, each other one fails.
        let flag = rig.cache.path().join("flag");
        let script =
            format!("if mkdir {} 2>/dev/null; then sleep 600; else exit 3; fi", flag.display());
        let spec = WorkerSpec::program("half", "/bin/sh", ["-c".to_owned(), script]);
        let start = Pool::start(rig.root.scope(), rig.reaper.clone(), spec, workers(2));
        let error = start.await.unwrap_err();
        assert!(error.to_string().contains("status 3"), "{error}");
        rig.end().await;
    });
}

/// Everything at once: calls, callers that give up, deaths, replacement, growth, shrinking, a spare
/// worker. What a call ends with is what was done to it, and nothing is left over.
#[test]
fn a_pool_that_changes_all_the_time_loses_no_call() {
    run(async {
        let rig = Rig::new().await;
        let ms = Duration::from_millis;
        let config = PoolConfig {
            min_workers: Some(1),
            standby: 1,
            grow_after: ms(5),
            shrink_after: ms(50),
            recycle: Recycle { calls: Some(60), jitter: 0.5, seed: Some(3), ..Recycle::default() },
            ..workers(3)
        };
        let pool = rig.pool(config).await;
        let chance = Arc::new(Chance::seeded(3));
        let over = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let (pool, over, chance) = (pool.clone(), over.clone(), chance.clone());
                rig.root.scope().task("caller", async move {
                    let (mut fine, mut died, mut given_up) = (0, 0, 0);
                    while !over.load(Ordering::Relaxed) {
                        let seconds = [0.0, 0.001, 0.01][pick(&chance, 3)];
                        let asked = call(&pool, "sleep", Args::none().arg(seconds));
                        if pick(&chance, 10) == 0 {
                            drop(tokio::time::timeout(ms(1), asked).await);
                            given_up += 1;
                            continue;
                        }
                        match asked.await {
                            Ok(_) => fine += 1,
                            Err(CallError::WorkerDied { started: true, .. }) => died += 1,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    (fine, died, given_up)
                })
            })
            .collect();
        for kills in 1..=20 {
            let served = pool.counters().answered + 50;
            let mut pids = Vec::new();
            wait_until(&pool, |pool| {
                pids = pool.workers().iter().filter_map(|worker| worker.pid).collect();
                pool.counters().answered >= served && !pids.is_empty()
            })
            .await;
            // It may end by itself before it is hit.
            if let Some(worker) = Watched::find(pids[pick(&chance, pids.len())]) {
                worker.kill();
                worker.gone();
            }
            assert!(pool.counters().deaths <= kills);
        }
        over.store(true, Ordering::Relaxed);
        let (mut fine, mut died, mut given_up) = (0, 0, 0);
        for caller in callers {
            let sums = caller.await.unwrap();
            (fine, died, given_up) = (fine + sums.0, died + sums.1, given_up + sums.2);
        }
        // One serves and one is to spare, and both are idle.
        wait_until(&pool, |pool| {
            let mut states: Vec<_> = pool.workers().iter().map(|w| w.state).collect();
            states.sort_by_key(|state| *state == WorkerState::Standby);
            states == [WorkerState::Ready, WorkerState::Standby]
        })
        .await;
        let counters = pool.counters();
        assert!(counters.recycled_calls > 0 && counters.promoted > 0, "{counters:?}");
        assert_eq!(counters.accepted, counters.answered + counters.cancelled + counters.failed);
        assert_eq!(counters.accepted, fine + died + given_up);
        assert!(counters.answered >= fine && counters.failed >= died, "{counters:?}");
        assert_eq!(counters.refused_steps, 0);
        rig.end().await;
    });
}

fn pick(chance: &Chance, below: usize) -> usize {
    usize::try_from(chance.next_u64() >> 1).unwrap() % below
}
