//! A call runs once; one that says that twice is harmless runs twice at most. A breaker that opens on
//! dead workers.

use std::time::Duration;

use snakehouse_base::{Backoff, Coded, Jitter, Kind};
use snakehouse_guard::{BreakerConfig, Trip};
use snakehouse_pool::{Args, CallError, CallOptions, Pool, PoolConfig, PoolError};

use crate::support::{Rig, Trace, call, run, soon, spec, workers};

/// Dies during the first `deaths` runs of a trace.
fn dies_at_first(trace: &Trace, deaths: i64) -> Args {
    trace.args("ran").arg(deaths)
}

#[test]
fn an_idempotent_call_runs_once_more_and_no_other_does() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(2)).await;
        let harmless = soon().idempotent(true);

        let trace = Trace::new();
        let result = pool.call("die_at_first", dies_at_first(&trace, 1), harmless).await;
        assert_eq!(result.unwrap().as_i64(), Some(2));
        assert_eq!(trace.lines().len(), 2, "one extra execution");

        let trace = Trace::new();
        let error = pool.call("die_at_first", dies_at_first(&trace, 9), harmless).await;
        assert_eq!(error.unwrap_err().code(), "worker_died");
        assert_eq!(trace.lines().len(), 2, "not more than one");

        let trace = Trace::new();
        let error = call(&pool, "die_at_first", dies_at_first(&trace, 1)).await;
        assert_eq!(error.unwrap_err().code(), "worker_died");
        assert_eq!(trace.lines().len(), 1, "nobody said that it is harmless");

        let trace = Trace::new();
        let session = pool.session(soon().deadline).await.unwrap();
        let error = session.call("die_at_first", dies_at_first(&trace, 1), harmless).await;
        assert_eq!(error.unwrap_err().code(), "worker_died");
        assert_eq!(trace.lines().len(), 1, "its session is gone");

        let stats = pool.stats();
        assert_eq!((stats.repeated, stats.outcomes.ok, stats.outcomes.worker_died), (2, 1, 3));
        rig.end().await;
    });
}

#[test]
fn a_repeat_has_the_call_s_own_deadline_and_a_failure_is_not_repeated() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let trace = Trace::new();
        let error = pool.call("fail", Args::none().arg("no"), soon().idempotent(true)).await;
        assert_eq!(error.unwrap_err().code(), "tool_failed");
        assert_eq!(pool.stats().repeated, 0, "the worker lived");

        // The second run never ends. How far it got when the time was over, the machine decides: if
        // the worker was not back yet, the error is that of the run that may have had an effect.
        let short = CallOptions::within(Duration::from_millis(500)).idempotent(true);
        let hanging = dies_at_first(&trace, 1).kwarg("hang", true);
        let error = pool.call("die_at_first", hanging, short).await.unwrap_err();
        assert!(
            matches!(
                error,
                CallError::WorkerDied { started: true, .. } | CallError::Deadline { .. }
            ),
            "{error:?}"
        );
        assert!(trace.lines().len() <= 2);
        rig.end().await;
    });
}

#[test]
fn a_breaker_opens_on_dead_workers_and_closes_with_a_probe_that_lives() {
    run(async {
        let rig = Rig::new().await;
        let open = Backoff::new(Duration::from_secs(1), Duration::from_secs(2), Jitter::None);
        let rules = BreakerConfig {
            trip: Trip::Consecutive(3),
            open: open.unwrap(),
            ..BreakerConfig::default()
        };
        let pool = rig.pool(PoolConfig { breaker: Some(rules), ..workers(1) }).await;
        // Failures of tools are no matter of the breaker.
        for _ in 0..5 {
            call(&pool, "fail", Args::none().arg("no")).await.unwrap_err();
        }
        let die = || call(&pool, "leave_hard", Args::none().arg(1));
        die().await.unwrap_err();
        die().await.unwrap_err();
        call(&pool, "echo", Args::none().arg(1)).await.unwrap();
        for _ in 0..3 {
            assert_eq!(die().await.unwrap_err().code(), "worker_died", "a success began anew");
        }
        let error = call(&pool, "echo", Args::none().arg(1)).await.unwrap_err();
        assert_eq!((error.code(), error.kind()), ("breaker_open", Kind::Unavailable));
        assert!(error.is_without_effect());
        let stream = pool.stream("echo", Args::none().arg(1), CallOptions::stream()).await;
        assert_eq!(stream.unwrap_err().code(), "breaker_open");

        let probing = async {
            loop {
                match call(&pool, "echo", Args::none().arg(1)).await {
                    Ok(_) => return,
                    Err(CallError::BreakerOpen { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        tokio::time::timeout(crate::support::BOUND, probing).await.expect("it never closed");
        call(&pool, "echo", Args::none().arg(1)).await.unwrap();
        let outcomes = pool.stats().outcomes;
        assert_eq!((outcomes.worker_died, outcomes.ok), (5, 3));
        assert!(outcomes.breaker_open >= 2, "{outcomes:?}");
        rig.end().await;
    });
}

#[test]
fn rules_that_cannot_be_kept_are_refused() {
    run(async {
        let rig = Rig::new().await;
        let rules = BreakerConfig { probes: 0, ..BreakerConfig::default() };
        let config = PoolConfig { breaker: Some(rules), ..workers(1) };
        let start = Pool::start(rig.root.scope(), rig.reaper.clone(), spec(), config);
        let error = start.await.unwrap_err();
        assert!(matches!(error, PoolError::BadConfig { .. }), "{error:?}");
        assert_eq!((error.code(), error.kind()), ("bad_pool_config", Kind::InvalidInput));
        rig.end().await;
    });
}

/// Every worker is killed at once, again and again, under load: what did not run is run by others,
/// and as many serve as before.
#[test]
fn a_storm_takes_only_what_ran() {
    run(async {
        let rig = Rig::new().await;
        let began = tokio::time::Instant::now();
        let pool = rig.pool(workers(4)).await;
        let cold = began.elapsed();
        for _ in 0..3 {
            let before = pool.stats().outcomes;
            let callers: Vec<_> = (0..200)
                .map(|n| {
                    let pool = pool.clone();
                    let calling = async move {
                        call(&pool, "sleep", Args::none().arg(0.001 * f64::from(n % 9))).await
                    };
                    rig.root.scope().task("caller", calling)
                })
                .collect();
            crate::support::wait_until(&pool, |pool| pool.stats().outcomes.ok > before.ok + 10)
                .await;
            let storm = tokio::time::Instant::now();
            for worker in pool.workers() {
                if let Some(pid) = worker.pid {
                    crate::support::Watched::new(pid).kill();
                }
            }
            let (mut ok, mut died) = (0, 0);
            for caller in callers {
                match caller.await.unwrap() {
                    Ok(_) => ok += 1,
                    Err(CallError::WorkerDied { started: true, .. }) => died += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
            assert!(died <= 4, "one call runs on each of four workers: {died} died");
            assert_eq!(ok + died, 200);
            crate::support::wait_until(&pool, |pool| {
                pool.workers().iter().filter(|worker| worker.pid.is_some()).count() == 4
                    && pool
                        .workers()
                        .iter()
                        .all(|worker| worker.state == snakehouse_pool::WorkerState::Ready)
            })
            .await;
            println!(
                "storm: four workers back after {:?}; a cold start took {cold:?}",
                storm.elapsed()
            );
        }
        rig.end().await;
    });
}
