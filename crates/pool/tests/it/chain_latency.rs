//! How soon a chain ends that cannot go on. What is asserted holds on any machine; what is printed is for
//! a quiet one.

use std::time::Duration;

use snakehouse_base::{Clock, Coded, Deadline, Kind, SystemClock};
use snakehouse_pool::{
    Args, CallError, CallOptions, HostCall, HostError, HostTool, Pool, WorkerSpec,
};
use tokio::sync::mpsc;

use crate::support::{Rig, call, python, run, soon, wait_until, workers};

const TRIALS: usize = 100;

fn spec() -> WorkerSpec {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/callback_tools.py");
    WorkerSpec::python("chains", python()).module(path.to_str().unwrap())
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what:45} {} trials, median {median:>9.3?}, worst {worst:>9.3?}", times.len());
}

/// The host tool of a chain: `levels` more of them, and then whatever the last one does.
fn again(told: mpsc::Sender<(Duration, CallError)>) -> HostTool {
    HostTool::new("again", move |call: HostCall, levels: i64| {
        let told = told.clone();
        async move {
            let began = SystemClock.now();
            let below = call.call("chain", Args::none().arg(levels - 1), soon()).await;
            if let Err(error @ (CallError::TooDeep { .. } | CallError::WouldDeadlock)) = &below {
                let _ = told.try_send((SystemClock.now() - began, error.clone()));
            }
            below?.as_i64().ok_or_else(|| HostError::of(&CallError::Stopped))
        }
    })
}

#[test]
fn a_chain_that_is_too_deep_knows_at_once() {
    run(async {
        let rig = Rig::new().await;
        let (told, mut hear) = mpsc::channel(64);
        let pool = rig.pool_of(spec().host_tool(again(told)), workers(1)).await;
        let mut times = Vec::new();
        for _ in 0..TRIALS {
            call(&pool, "chain", Args::none().arg(17)).await.unwrap_err();
            let (time, error) = hear.recv().await.unwrap();
            assert!(matches!(error, CallError::TooDeep { limit: 16 }), "{error}");
            times.push(time);
        }
        report("too_deep, asked to known", times);
        rig.end().await;
    });
}

/// A host tool that never ends, as often as it is called.
fn hangs(began: mpsc::Sender<HostCall>) -> HostTool {
    HostTool::raw("hangs", move |call, _| {
        let _ = began.try_send(call);
        std::future::pending()
    })
}

/// Sixteen calls wait on top of each other; the seventeenth cannot run anywhere.
#[test]
fn a_call_that_nobody_can_ever_run_knows_at_once() {
    run(async {
        let rig = Rig::new().await;
        let (began, mut begun) = mpsc::channel(64);
        let pool = rig.pool_of(spec().host_tool(hangs(began)), workers(1)).await;
        let outer = call(&pool, "uncaught", Args::none().arg("hangs"));
        tokio::pin!(outer);
        let first: HostCall = tokio::select! {
            outcome = &mut outer => panic!("{outcome:?}"),
            call = begun.recv() => call.unwrap(),
        };
        let nested: Vec<_> = (0..16)
            .map(|_| {
                let inner = first.clone();
                rig.root.scope().task("nested", async move {
                    inner.call("uncaught", Args::none().arg("hangs"), soon()).await
                })
            })
            .collect();
        for _ in 0..16 {
            begun.recv().await.unwrap();
        }
        // The last of them is not known to wait before its host tool runs, but may be just then.
        let known = async {
            let mut times = Vec::new();
            while times.len() < TRIALS {
                let before = SystemClock.now();
                let error = first.call("plain", Args::none().arg(1), soon()).await.unwrap_err();
                assert_eq!(error, CallError::WouldDeadlock);
                times.push(SystemClock.now() - before);
            }
            times
        };
        let times = tokio::select! {
            outcome = &mut outer => panic!("{outcome:?}"),
            times = known => times,
        };
        report("would_deadlock, asked to known", times);
        nested.iter().for_each(snakehouse_supervise::Task::abort);
        rig.end().await;
    });
}

/// From the top's deadline to the moment when all three levels know.
#[test]
fn the_innermost_of_three_levels_ends_with_the_deadline() {
    struct Dropped(mpsc::Sender<Duration>, Deadline);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let after = SystemClock.now().saturating_duration_since(self.1.instant().unwrap());
            let _ = self.0.try_send(after);
        }
    }
    run(async {
        let rig = Rig::new().await;
        let (ended, mut ends) = mpsc::channel(64);
        let innermost = HostTool::raw("innermost", move |call: HostCall, _| {
            let guard = Dropped(ended.clone(), call.deadline());
            async move {
                let _guard = guard;
                std::future::pending().await
            }
        });
        let down = |name: &str, next: &'static str| {
            HostTool::raw(name, move |call: HostCall, _| async move {
                Ok(call.call("uncaught", Args::none().arg(next), soon()).await?)
            })
        };
        let spec = spec().host_tool(innermost).host_tool(down("middle", "innermost"));
        let pool: Pool = rig.pool_of(spec.host_tool(down("outer", "middle")), workers(1)).await;
        let (mut tops, mut inners) = (Vec::new(), Vec::new());
        while inners.len() < TRIALS / 2 {
            let deadline = Deadline::after(SystemClock.now(), Duration::from_millis(100));
            let args = Args::none().arg("outer");
            let error =
                pool.call("uncaught", args, CallOptions::until(deadline)).await.unwrap_err();
            tops.push(SystemClock.now() - deadline.instant().unwrap());
            assert_eq!(error.kind(), Kind::Deadline, "{error}");
            wait_until(&pool, |pool| pool.workers()[0].in_flight == 0).await;
            // On a slow machine it did not get that deep.
            inners.extend(ends.try_recv());
        }
        report("deadline to the top's caller", tops);
        report("deadline to the end of the innermost", inners);
        assert_eq!(pool.counters().deaths, 0);
        rig.end().await;
    });
}
