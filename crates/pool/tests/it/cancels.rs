//! Deadlines and callers that give up.

use std::time::Duration;

use snakehouse_base::{Coded, Deadline, Kind};
use snakehouse_pool::{Args, CallError, CallOptions, PoolConfig, Value, Where};

use crate::support::{
    Rig, Trace, Watched, call, call_pid, open_the_window, run, spec, wait_until, workers,
};

fn briefly() -> CallOptions {
    CallOptions::within(Duration::from_millis(200))
}

#[test]
fn a_call_that_runs_is_interrupted_at_its_deadline() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let before = call_pid(&pool).await;
        for (tool, args) in [("sleep", Args::none().arg(600)), ("spin", Args::none())] {
            let error = pool.call(tool, args, briefly()).await.unwrap_err();
            assert_eq!(error, CallError::Deadline { at: Where::Worker });
            assert_eq!(error.kind(), Kind::Deadline);
        }
        assert_eq!(call_pid(&pool).await, before, "the worker lives");
        rig.end().await;
    });
}

#[test]
fn a_call_that_waits_is_forgotten_at_its_deadline() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let trace = Trace::new();
        let mut running = Box::pin(call(&pool, "sleep", Args::none().arg(600)));
        assert!(futures_poll(&mut running).await.is_none());
        let error = pool.call("append", trace.args("ran"), briefly()).await.unwrap_err();
        assert_eq!(error, CallError::Deadline { at: Where::Queue });
        drop(running);
        call_pid(&pool).await;
        assert!(trace.lines().is_empty(), "it ran all the same");
        rig.end().await;
    });
}

#[test]
fn a_dropped_call_makes_room_at_once() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let before = call_pid(&pool).await;
        for tool in ["spin", "spin", "spin"] {
            let mut dropped = Box::pin(call(&pool, tool, Args::none()));
            assert!(futures_poll(&mut dropped).await.is_none());
            wait_until(&pool, |pool| pool.workers()[0].in_flight == 1).await;
            drop(dropped);
            assert_eq!(call_pid(&pool).await, before);
        }
        assert_eq!(pool.workers()[0].restarts, 0);
        rig.end().await;
    });
}

#[test]
fn a_tool_that_does_not_end_costs_its_worker() {
    run(async {
        let rig = Rig::new().await;
        let spec = spec().cancel_grace(Some(Duration::from_millis(100)));
        let pool = rig.pool_of(spec, workers(1)).await;
        let before = call_pid(&pool).await;
        let trace = Trace::new();
        // A cancel that comes before the tool is deaf ends it like any other.
        let in_time = CallOptions::within(Duration::from_secs(2));
        let stubborn = pool.call("stubborn", Args::none().arg(trace.path()), in_time);
        let (outcome, ()) = tokio::join!(stubborn, trace.wait_for("running"));
        assert_eq!(outcome, Err(CallError::Deadline { at: Where::Worker }));
        assert_ne!(call_pid(&pool).await, before);
        assert_eq!(pool.workers()[0].restarts, 1);
        rig.end().await;
    });
}

/// The answers of short calls wait for company while the next call runs: a caller that gave up on
/// one of them is no reason to kill the worker.
#[test]
fn a_cancelled_call_that_is_over_costs_no_other() {
    run(async {
        let rig = Rig::new().await;
        // Time enough for a worker that goes on to say so, on any machine; the call that it runs then
        // takes longer.
        let spec = spec().cancel_grace(Some(Duration::from_secs(1)));
        let pool = rig.pool_of(spec, workers(1)).await;
        open_the_window(&pool, "sleep").await;
        let worker = Watched::new(pool.workers()[0].pid.unwrap());
        let task = |seconds: f64, options: CallOptions| {
            let (pool, args) = (pool.clone(), Args::none().arg(seconds));
            rig.root.scope().task("call", async move { pool.call("sleep", args, options).await })
        };
        // All three are read at once.
        worker.pause();
        let over = [task(0.0, briefly()), task(0.0, briefly())];
        wait_until(&pool, |pool| pool.workers()[0].in_flight == 2).await;
        let bystander = task(2.0, crate::support::soon());
        wait_until(&pool, |pool| pool.workers()[0].in_flight == 3).await;
        for over in over {
            let error = over.await.unwrap().unwrap_err();
            assert_eq!(error, CallError::Deadline { at: Where::Worker });
        }
        worker.go_on();
        assert_eq!(bystander.await.unwrap(), Ok(Value::from("slept")));
        assert_eq!(pool.workers()[0].restarts, 0);
        rig.end().await;
    });
}

#[test]
fn a_stopped_process_costs_its_worker_and_not_the_caller() {
    run(async {
        let rig = Rig::new().await;
        let spec = spec().cancel_grace(Some(Duration::from_millis(100)));
        let pool = rig.pool_of(spec, workers(1)).await;
        let error = pool.call("stop_self", Args::none(), briefly()).await.unwrap_err();
        assert_eq!(error.code(), "deadline");
        call_pid(&pool).await;
        rig.end().await;
    });
}

#[test]
fn a_deadline_that_has_passed_costs_nothing() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(PoolConfig { ..workers(1) }).await;
        let passed = Deadline::after(tokio::time::Instant::now().into_std(), Duration::ZERO);
        let error = pool.call("count", Args::none(), CallOptions::until(passed)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Deadline);
        let forever = CallOptions::until(Deadline::never());
        let count = pool.call("count", Args::none(), forever).await.unwrap();
        assert_eq!(count, Value::from(1), "it ran all the same");
        rig.end().await;
    });
}

/// Polls once and lets the rest of the runtime go on.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let polled = std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    })
    .await;
    tokio::task::yield_now().await;
    polled
}

/// The outcome was the cancel; what the tool gave afterwards is for nobody.
#[test]
fn a_late_reply_is_counted_and_dropped() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let trace = Trace::new();
        let mut given_up = Box::pin(call(&pool, "shrug", trace.args("begun")));
        tokio::select! {
            biased;
            _ = &mut given_up => panic!("it slept enough"),
            () = trace.wait_for("begun") => {}
        }
        drop(given_up);
        wait_until(&pool, |pool| pool.workers()[0].in_flight == 0).await;
        assert_eq!(pool.counters().late, 1);
        let counters = pool.counters();
        assert_eq!((counters.answered, counters.failed), (1, 0));
        call_pid(&pool).await;
        rig.end().await;
    });
}
