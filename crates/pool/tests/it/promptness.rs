//! How soon a call ends that nobody wants any more. What is asserted holds on any machine; what is
//! printed is for a quiet one.
//!
//! `SNAKEHOUSE_TRIALS` chooses how often (default 100; soak 1,000), `SNAKEHOUSE_HOLD_SECONDS` for how
//! long native code keeps the interpreter (default 2; soak 60).

use std::time::{Duration, Instant};

use snakehouse_base::{Clock, Deadline, SystemClock};
use snakehouse_pool::{Args, CallError, CallOptions, Pool, Value};

use crate::support::{BOUND, Rig, Trace, call, run, soon, workers};
use crate::turmoil::spec;

/// A deadline and what may pass after it until the caller knows.
const DEADLINE: Duration = Duration::from_millis(20);
const AFTER: Duration = Duration::from_millis(20);

fn size(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn now() -> Instant {
    SystemClock.now()
}

fn report(what: &str, times: &mut [Duration], limit: Duration) -> Duration {
    times.sort();
    let over = times.iter().filter(|time| **time > limit).count();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{what:34} {} trials, median {median:>9.3?}, worst {worst:>9.3?}, over {limit:?}: {over}",
        times.len()
    );
    median
}

/// From the moment the caller goes to the moment the worker has answered the next call.
async fn cancel(pool: &Pool, tool: &str) -> Duration {
    let trace = Trace::new();
    let mut running = Box::pin(pool.call(tool, Args::none().arg(trace.path()), soon()));
    tokio::select! {
        biased;
        outcome = &mut running => panic!("{outcome:?}"),
        () = trace.wait_for("running") => {}
    }
    let began = now();
    drop(running);
    call(pool, "pid", Args::none()).await.unwrap();
    now() - began
}

#[test]
fn a_cancel_reaches_every_kind_of_running_python() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        call(&pool, "pid", Args::none()).await.unwrap();
        for tool in ["spin", "sleep", "read"] {
            let mut times = Vec::new();
            for _ in 0..size("SNAKEHOUSE_TRIALS", 100) / 2 {
                times.push(cancel(&pool, tool).await);
            }
            let limit = Duration::from_millis(5);
            let median = report(&format!("cancel of a {tool}"), &mut times, limit);
            // Far below the grace, after which the worker would be killed.
            assert!(median < Duration::from_millis(200), "{median:?}");
        }
        assert_eq!(pool.workers()[0].restarts, 0);
        rig.end().await;
    });
}

#[test]
fn callers_know_soon_after_their_deadlines() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        call(&pool, "pid", Args::none()).await.unwrap();
        let mut times = Vec::new();
        for trial in 0..size("SNAKEHOUSE_TRIALS", 100) {
            // One runs, the other waits behind it.
            let tool = ["spin", "sleep", "read"][usize::try_from(trial % 3).unwrap()];
            let one = async {
                let deadline = Deadline::after(now(), DEADLINE);
                let options = CallOptions::until(deadline);
                let error = pool.call(tool, Args::none(), options).await.unwrap_err();
                assert!(matches!(error, CallError::Deadline { .. }), "{error:?}");
                now() - deadline.instant().unwrap()
            };
            let other = async {
                let deadline = Deadline::after(now(), DEADLINE);
                let options = CallOptions::until(deadline);
                let error = pool.call("spin", Args::none(), options).await.unwrap_err();
                assert!(matches!(error, CallError::Deadline { .. }), "{error:?}");
                now() - deadline.instant().unwrap()
            };
            let (one, other) = tokio::join!(one, other);
            times.extend([one, other]);
        }
        let median = report("deadline passed to caller knows", &mut times, AFTER);
        // Ten times as much on a machine that has other things to do.
        assert!(median <= 10 * AFTER, "{median:?}");
        assert_eq!(pool.workers()[0].restarts, 0);
        rig.end().await;
    });
}

/// Who waits behind a call that keeps the interpreter to itself may give up: that says nothing about
/// the call that runs.
#[test]
fn native_code_that_holds_the_interpreter_costs_no_worker() {
    run(async {
        let seconds = size("SNAKEHOUSE_HOLD_SECONDS", 2);
        let rig = Rig::new().await;
        let spec = spec().cancel_grace(Some(Duration::from_millis(500)));
        let pool = rig.pool_of(spec, workers(1)).await;
        for tool in ["hold", "hold_at_once"] {
            // Short calls before it, so that others are sent ahead.
            for _ in 0..64 {
                call(&pool, "pid", Args::none()).await.unwrap();
            }
            let options = CallOptions::within(BOUND + Duration::from_secs(seconds));
            let seconds = i64::try_from(seconds).unwrap();
            let mut holding = Box::pin(pool.call(tool, Args::none().arg(seconds), options));
            let impatient = async {
                for _ in 0..8 {
                    let briefly = CallOptions::within(Duration::from_millis(50));
                    let error = pool.call("pid", Args::none(), briefly).await.unwrap_err();
                    assert!(matches!(error, CallError::Deadline { .. }), "{error:?}");
                }
            };
            tokio::select! {
                biased;
                outcome = &mut holding => panic!("{outcome:?}"),
                () = impatient => {}
            }
            assert_eq!(holding.await.unwrap(), Value::from("held"));
            assert_eq!(pool.workers()[0].restarts, 0);
        }
        rig.end().await;
    });
}
