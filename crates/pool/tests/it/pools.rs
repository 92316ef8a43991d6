//! How many workers a pool has, who takes over, and several pools beside each other.

use std::time::Duration;

use snakehouse_base::Coded;
use snakehouse_pool::{Args, CallError, Pool, PoolConfig, Start, WorkerSpec, WorkerState};

use crate::support::{Rig, Watched, call, call_pid, python, run, soon, spec, wait_until, workers};

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
        assert_eq!(other.workers()[0].pid, Some(session.worker().pid));
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
