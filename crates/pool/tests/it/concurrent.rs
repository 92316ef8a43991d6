//! Workers that run several calls at once, on threads and on an event loop.

use std::time::Duration;

use snakehouse_base::Coded;
use snakehouse_pool::{Args, CallError, Mode, Pool, Value, WorkerSpec};

use crate::python_streams::tools;
use crate::scripted;
use crate::support::{Rig, Trace, call, call_pid, run, soon, wait_until, workers};
use crate::turmoil::turmoil;

const CAPACITY: usize = 4;

/// The same tools in both ways.
fn specs() -> [WorkerSpec; 2] {
    [("thread_tools.py", Mode::Threads), ("asyncio_tools.py", Mode::Asyncio)]
        .map(|(name, mode)| tools(name).capacity(CAPACITY, mode))
}

/// Runs a test with each of them.
fn both<F: Future<Output = ()>>(test: impl Fn(Rig, WorkerSpec) -> F) {
    for spec in specs() {
        run(async { test(Rig::new().await, spec).await });
    }
}

type Calling = snakehouse_supervise::Task<Result<Value, CallError>>;

fn spawn(rig: &Rig, pool: &Pool, tool: &'static str, args: Args) -> Calling {
    let pool = pool.clone();
    rig.root.scope().task("call", async move { pool.call(tool, args, soon()).await })
}

#[test]
fn calls_really_run_at_once() {
    both(async |rig: Rig, spec: WorkerSpec| {
        let pool = rig.pool_of(spec, workers(1)).await;
        let meet = || call(&pool, "meet", Args::none());
        // Each of them waits for the other three.
        let met = tokio::join!(meet(), meet(), meet(), meet());
        for one in [met.0, met.1, met.2, met.3] {
            one.unwrap();
        }
        rig.end().await;
    });
}

/// More than may wait for their start cannot be on their way to a worker: what a dead one had started is
/// known by that.
#[test]
fn no_worker_gets_more_than_may_wait_for_their_start() {
    run(async {
        let rig = Rig::new().await;
        let spec = scripted::spec().env("SCRIPT", "wide");
        let pool = rig.pool_of(spec, workers(1)).await;
        assert_eq!(pool.workers()[0].capacity, 4096);
        rig.end().await;
    });
}

#[test]
fn answers_come_in_any_order_and_a_cancel_hits_one_call() {
    both(async |rig: Rig, spec: WorkerSpec| {
        let pool = rig.pool_of(spec, workers(1)).await;
        let hold = |name: &str| call(&pool, "hold", Args::none().arg(name));
        let (mut first, mut second) = (Box::pin(hold("a")), Box::pin(hold("b")));
        let mut third = Box::pin(hold("c"));
        tokio::select! {
            biased;
            _ = &mut first => panic!("not released"),
            _ = &mut second => panic!("not released"),
            _ = &mut third => panic!("not released"),
            () = wait_until(&pool, |pool| pool.workers()[0].in_flight == 3) => {}
        }
        call(&pool, "release", Args::none().arg("b")).await.unwrap();
        assert_eq!(second.await.unwrap(), Value::from("b"));
        drop(first);
        // Its place is free again, and the others are as they were.
        wait_until(&pool, |pool| pool.workers()[0].in_flight == 1).await;
        call(&pool, "release", Args::none().arg("c")).await.unwrap();
        assert_eq!(third.await.unwrap(), Value::from("c"));
        assert_eq!(pool.workers()[0].restarts, 0);
        rig.end().await;
    });
}

#[test]
fn a_death_fails_what_ran_and_nothing_else() {
    both(async |rig: Rig, spec: WorkerSpec| {
        let pool = rig.pool_of(spec, workers(1)).await;
        let trace = Trace::new();
        let lines = ["one", "two", "three"];
        let running = lines.map(|line| spawn(&rig, &pool, "append", trace.args(line)));
        for line in lines {
            trace.wait_for(line).await;
        }
        // All places are taken by the time it runs: what comes then waits.
        let end = spawn(&rig, &pool, "leave_hard", Args::none().arg(9));
        let waiting = [(); 8].map(|()| spawn(&rig, &pool, "pid", Args::none()));
        for call in running.into_iter().chain([end]) {
            let error = call.await.unwrap().unwrap_err();
            assert!(matches!(error, CallError::WorkerDied { started: true, .. }), "{error:?}");
        }
        for call in waiting {
            call.await.unwrap().unwrap();
        }
        assert_eq!(trace.lines().len(), 3, "each ran once");
        rig.end().await;
    });
}

#[test]
fn a_call_that_ignores_its_cancel_costs_the_worker() {
    both(async |rig: Rig, spec: WorkerSpec| {
        let spec = spec.cancel_grace(Some(Duration::from_millis(200)));
        let pool = rig.pool_of(spec, workers(1)).await;
        let before = call_pid(&pool).await;
        let trace = Trace::new();
        let stubborn = call(&pool, "stubborn", Args::none().arg(trace.path()));
        tokio::select! {
            biased;
            outcome = stubborn => panic!("{outcome:?}"),
            () = trace.wait_for("running") => {}
        }
        wait_until(&pool, |pool| pool.workers()[0].restarts == 1).await;
        assert_ne!(call_pid(&pool).await, before);
        rig.end().await;
    });
}

#[test]
fn streams_and_calls_share_a_worker() {
    both(async |rig: Rig, spec: WorkerSpec| {
        let pool = rig.pool_of(spec, workers(1)).await;
        let streams = [
            pool.stream("echo", Args::none(), soon()).await.unwrap(),
            pool.stream("echo", Args::none(), soon()).await.unwrap(),
        ];
        for number in 0..200 {
            for stream in &streams {
                stream.send(number).await.unwrap();
                assert_eq!(stream.next().await.unwrap().unwrap(), Value::from(number));
            }
            call_pid(&pool).await;
        }
        let count = pool.stream("count", Args::none().arg(100), soon()).await.unwrap();
        let mut items = 0;
        while let Some(item) = count.next().await {
            item.unwrap();
            items += 1;
        }
        assert_eq!(items, 100);
        for stream in &streams {
            stream.finish_sending();
            assert!(stream.next().await.is_none());
        }
        // One too many waits for its turn.
        let held = [(); CAPACITY].map(|()| pool.stream("echo", Args::none(), soon()));
        let mut open = Vec::new();
        for stream in held {
            let stream = stream.await.unwrap();
            stream.send(1).await.unwrap();
            stream.next().await.unwrap().unwrap();
            open.push(stream);
        }
        let waiting = pool.stream("count", Args::none().arg(1), soon()).await.unwrap();
        assert_eq!(pool.waiting(), 1);
        open.pop();
        assert_eq!(waiting.next().await.unwrap().unwrap(), Value::from(0));
        assert_eq!(pool.workers()[0].restarts, 0);
        rig.end().await;
    });
}

#[test]
fn cancels_at_random_hit_their_calls_and_no_others() {
    both(async |rig: Rig, spec: WorkerSpec| {
        let pool = rig.pool_of(spec, workers(1)).await;
        turmoil(&pool, &rig, crate::turmoil::calls() / 2).await;
        rig.end().await;
    });
}

#[test]
fn plain_functions_are_refused_on_an_event_loop() {
    run(async {
        let rig = Rig::new().await;
        let spec = tools("thread_tools.py").capacity(CAPACITY, Mode::Asyncio);
        let start = Pool::start(rig.root.scope(), rig.reaper.clone(), spec, workers(1));
        let error = start.await.unwrap_err();
        assert_eq!(error.code(), "worker_not_ready");
        rig.end().await;
    });
}
