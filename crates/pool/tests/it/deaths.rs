//! Workers that die: what fails, what does not, what comes after.

use std::time::Duration;

use snakehouse_base::id::Incarnation;
use snakehouse_base::{Coded, Kind};
use snakehouse_pool::{
    Args, CallError, Death, KillReason, Pool, PoolConfig, PoolError, Value, WorkerSpec,
};

use crate::support::{
    BOUND, Rig, Trace, Watched, call, call_pid, open_the_window, python, run, spec, tools,
    wait_until, watched, workers,
};

fn died(error: CallError) -> (Incarnation, Death) {
    match error {
        CallError::WorkerDied { incarnation, started: true, cause, .. } => (incarnation, cause),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_way_to_end_is_told_apart() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let ways = [
            ("leave", Some(7), Death::Exited { code: 7 }),
            ("leave_hard", Some(0), Death::Exited { code: 0 }),
            ("segfault", None, Death::Signalled { signal: 11 }),
        ];
        for (lives, (tool, status, expected)) in ways.into_iter().enumerate() {
            let args = status.map_or_else(Args::none, |status| Args::none().arg(status));
            let error = call(&pool, tool, args).await.unwrap_err();
            assert_eq!(error.kind(), Kind::WorkerDied);
            assert_eq!(died(error), (Incarnation(lives as u64 + 1), expected), "{tool}");
        }
        call_pid(&pool).await;
        assert_eq!(pool.workers()[0].restarts, 3);
        rig.end().await;
    });
}

#[test]
fn a_killed_worker_fails_its_call_and_no_other() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let worker = Watched::new(call_pid(&pool).await);
        let task = |tool: &'static str, args: Args| {
            let pool = pool.clone();
            rig.root.scope().task(tool, async move { call(&pool, tool, args).await })
        };
        let trace = Trace::new();
        let running = task("append", trace.args("running").arg(600.0));
        trace.wait_for("running").await;
        let waiting: Vec<_> = (0..50).map(|n| task("echo", Args::none().arg(n))).collect();
        wait_until(&pool, |pool| pool.waiting() == 50).await;

        worker.kill();

        let (incarnation, cause) = died(running.await.unwrap().unwrap_err());
        assert_eq!((incarnation, cause), (Incarnation(1), Death::Signalled { signal: 9 }));
        for (n, waiting) in waiting.into_iter().enumerate() {
            assert_eq!(waiting.await.unwrap().unwrap().as_i64(), Some(n as i64));
        }
        let info = pool.workers().remove(0);
        assert_eq!((info.incarnation, info.restarts), (Incarnation(2), 1));
        assert_ne!(info.pid, Some(worker.pid));
        rig.end().await;
    });
}

/// Calls that were sent ahead and not started run on the next incarnation, once each.
#[test]
fn calls_sent_ahead_run_exactly_once() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        open_the_window(&pool, "echo").await;
        let trace = Trace::new();
        // Not by a call: that could be a slow one and close the window.
        let worker = Watched::new(pool.workers()[0].pid.unwrap());
        let task = |name: String, seconds: f64| {
            let (pool, args) = (pool.clone(), trace.args(&name).arg(seconds));
            rig.root.scope().task(&name, async move { call(&pool, "append", args).await })
        };
        // A slow call before the rest is sent would close the window.
        worker.pause();
        let first = task("first".to_owned(), 600.0);
        wait_until(&pool, |pool| pool.workers()[0].in_flight == 1).await;
        let ahead: Vec<_> = (0..20).map(|n| task(n.to_string(), 0.0)).collect();
        // How many of them depends on how short the calls before were; the rest wait.
        wait_until(&pool, |pool| pool.workers()[0].in_flight + pool.waiting() == 21).await;
        assert!(pool.workers()[0].in_flight > 1);
        worker.go_on();
        trace.wait_for("first").await;

        worker.kill();

        died(first.await.unwrap().unwrap_err());
        for ahead in ahead {
            ahead.await.unwrap().unwrap();
        }
        let mut expected = vec!["first".to_owned()];
        expected.extend((0..20).map(|n| n.to_string()));
        // The tasks asked in no certain order.
        let mut ran = trace.lines();
        ran.sort();
        expected.sort();
        assert_eq!(ran, expected);
        rig.end().await;
    });
}

#[test]
fn what_a_dead_worker_leaves_is_ended() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(2)).await;
        let worker = Watched::new(call_pid(&pool).await);
        let mut left = Vec::new();
        // Each on whichever worker is free; both get some in the end.
        for _ in 0..4 {
            left.push(watched(&call(&pool, "litter", Args::none()).await.unwrap()));
        }
        assert!(left.iter().flatten().all(Watched::is_alive));
        let owners: Vec<_> =
            pool.workers().iter().filter_map(|info| info.pid).map(Watched::new).collect();
        assert!(owners.iter().any(|owner| owner.pid == worker.pid));
        for owner in &owners {
            owner.kill();
        }
        for process in left.iter().flatten() {
            process.gone();
        }
        call_pid(&pool).await;
        rig.end().await;
    });
}

#[test]
fn another_worker_s_processes_are_left_alone() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(2)).await;
        let a = pool.session(crate::support::soon().deadline).await.unwrap();
        let b = pool.session(crate::support::soon().deadline).await.unwrap();
        assert_ne!(a.worker().unwrap().id, b.worker().unwrap().id);
        let of_a = watched(&a.call("litter", Args::none(), crate::support::soon()).await.unwrap());
        let of_b = watched(&b.call("litter", Args::none(), crate::support::soon()).await.unwrap());
        Watched::new(a.worker().unwrap().pid).kill();
        of_a.iter().for_each(Watched::gone);
        assert!(of_b.iter().all(Watched::is_alive));
        b.call("pid", Args::none(), crate::support::soon()).await.unwrap();
        rig.end().await;
        of_b.iter().for_each(Watched::gone);
    });
}

#[test]
fn garbage_and_silence_cost_the_worker() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let (_, cause) = died(call(&pool, "garbage", Args::none()).await.unwrap_err());
        assert!(matches!(cause, Death::Killed(KillReason::Garbage(_))), "{cause:?}");
        let (_, cause) = died(call(&pool, "hang_up", Args::none()).await.unwrap_err());
        assert_eq!(cause, Death::Killed(KillReason::ClosedSocket));
        call_pid(&pool).await;
        rig.end().await;
    });
}

#[test]
fn a_worker_that_never_serves_is_a_typed_error_with_its_words() {
    run(async {
        let rig = Rig::new().await;
        let start_within = async |spec: WorkerSpec, start_within: Duration| {
            let config = PoolConfig { start_within, ..workers(1) };
            let start = Pool::start(rig.root.scope(), rig.reaper.clone(), spec, config);
            let error = start.await.unwrap_err();
            assert_eq!(error.kind(), Kind::Environment);
            error
        };
        let start = async |spec: WorkerSpec| start_within(spec, BOUND).await;

        let mute = WorkerSpec::program("mute", "/bin/sleep", ["600"]);
        let error = start_within(mute, Duration::from_secs(2)).await;
        assert_eq!(error.code(), "worker_not_ready");
        assert!(error.to_string().contains("did not say hello"), "{error}");

        let shell = ["-c", "echo no luck >&2; exit 5"];
        match start(WorkerSpec::program("early", "/bin/sh", shell)).await {
            PoolError::NotReady { cause, output, .. } => {
                assert_eq!(cause, Death::Exited { code: 5 });
                assert_eq!(output, ["no luck"]);
            }
            other => panic!("{other:?}"),
        }

        let error = start(WorkerSpec::program(
            "chatty",
            "/bin/sh",
            ["-c", "echo this is no frame >&0; sleep 600"],
        ))
        .await;
        assert!(error.to_string().contains("protocol"), "{error}");

        let nothing: [&str; 0] = [];
        let error = start(WorkerSpec::program("missing", "/no/such/program", nothing)).await;
        assert_eq!(error.code(), "worker_not_started");
        assert!(error.to_string().contains("/no/such/program"), "{error}");

        rig.end().await;
    });
}

#[test]
fn a_module_that_cannot_be_imported_is_named() {
    run(async {
        let rig = Rig::new().await;
        for (module, expected) in
            [("no_such_module", "no_such_module"), ("/no/such/file.py", "/no/such/file.py")]
        {
            let spec = WorkerSpec::python("tools", python()).module(module);
            let start = Pool::start(rig.root.scope(), rig.reaper.clone(), spec, workers(1));
            let error = start.await.unwrap_err();
            assert_eq!(error.code(), "worker_not_ready");
            assert!(error.to_string().contains(expected), "{error}");
        }
        rig.end().await;
    });
}

#[test]
fn a_worker_that_stops_serving_later_keeps_coming_back() {
    run(async {
        let rig = Rig::new().await;
        let copy = tempfile::tempdir().unwrap();
        let module = copy.path().join("tools.py");
        std::fs::copy(tools(), &module).unwrap();
        let spec = WorkerSpec::python("tools", python()).module(module.to_str().unwrap());
        let pool = rig.pool_of(spec, workers(1)).await;
        let broken = copy.path().join("away.py");
        std::fs::rename(&module, &broken).unwrap();
        call(&pool, "leave_hard", Args::none().arg(1)).await.unwrap_err();
        wait_until(&pool, |pool| pool.workers()[0].restarts >= 2).await;
        std::fs::rename(&broken, &module).unwrap();
        assert_eq!(
            call(&pool, "echo", Args::none().arg("back")).await.unwrap(),
            Value::from("back")
        );
        rig.end().await;
    });
}

#[test]
fn ten_kills_in_a_row_are_ten_restarts() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        for kills in 0..10 {
            let worker = Watched::new(call_pid(&pool).await);
            worker.kill();
            worker.gone();
            wait_until(&pool, |pool| pool.workers()[0].restarts == kills + 1).await;
        }
        call_pid(&pool).await;
        rig.end().await;
    });
}
