//! Calls that end well, and calls that fail because of what the tool does.

use snakehouse_base::id::WorkerId;
use snakehouse_base::{Coded, Kind};
use snakehouse_pool::{Args, CallError, OutputStream, PoolConfig, Value};

use crate::support::{Rig, call, run, soon, wait_until, workers};

#[test]
fn a_tool_is_called_and_everything_ends() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let sum = call(&pool, "add", Args::none().arg(40).kwarg("b", 2)).await.unwrap();
        assert_eq!(sum.as_i64(), Some(42));
        rig.end().await;
    });
}

#[test]
fn a_tool_that_raises_is_a_typed_error_and_the_worker_lives() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let before = crate::support::call_pid(&pool).await;
        let error = call(&pool, "fail", Args::none().arg("no luck")).await.unwrap_err();
        match &error {
            CallError::Tool { tool, failure } => {
                assert_eq!(tool, "fail");
                assert_eq!(&*failure.type_name, "ValueError");
                assert_eq!(failure.message, "no luck");
                let line = failure.traceback.last().unwrap();
                assert_eq!(line.function, "fail");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(error.kind(), Kind::Tool);
        assert_eq!(crate::support::call_pid(&pool).await, before);
        rig.end().await;
    });
}

#[test]
fn an_unknown_tool_is_named_with_what_there_is() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let error = call(&pool, "ech", Args::none()).await.unwrap_err();
        assert_eq!(error.code(), "unknown_tool");
        assert!(error.hint().unwrap().contains("echo"), "{:?}", error.hint());
        rig.end().await;
    });
}

#[test]
fn bodies_of_every_size_come_back() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        for size in [0, 1, 1000, 32 << 10, (1 << 20) - 20, 1 << 20, (3 << 20) + 7] {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            let value = Value::Bytes(bytes.into());
            let back = call(&pool, "echo", Args::none().arg(value.clone())).await.unwrap();
            assert!(back == value, "{size} bytes came back as others");
        }
        rig.end().await;
    });
}

#[test]
fn what_a_tool_prints_is_kept_and_is_no_answer() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        call(&pool, "raw_stdout", Args::none().arg(Value::Bytes(vec![0xff; 100].into())))
            .await
            .unwrap();
        let args = Args::none().arg("hello").kwarg("times", 2);
        assert_eq!(call(&pool, "say", args).await.unwrap(), Value::None);
        // The lines travel beside the answer; the worker's end makes them complete.
        let died = call(&pool, "leave_hard", Args::none().arg(3)).await.unwrap_err();
        assert_eq!(died.code(), "worker_died");
        call(&pool, "echo", Args::none().arg(1)).await.unwrap();
        let lines = pool.output(WorkerId(0));
        let on = |stream| {
            let of = lines.iter().filter(move |line| line.stream == stream);
            of.map(|line| line.text.trim_start_matches('\u{fffd}')).collect::<Vec<_>>()
        };
        assert_eq!(on(OutputStream::Stdout), ["hello", "hello"]);
        assert_eq!(on(OutputStream::Stderr), ["HELLO"]);
        rig.end().await;
    });
}

#[test]
fn as_many_calls_wait_as_may_wait() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(PoolConfig { queue: 2, ..workers(1) }).await;
        // The first runs, the next two wait.
        let mut calls: Vec<_> =
            (0..4).map(|_| Box::pin(call(&pool, "sleep", Args::none().arg(600)))).collect();
        let error = std::future::poll_fn(|cx| {
            let mut ready = calls.iter_mut().map(|call| call.as_mut().poll(cx));
            ready.find(std::task::Poll::is_ready).unwrap_or(std::task::Poll::Pending)
        })
        .await
        .unwrap_err();
        assert_eq!(error, CallError::Saturated { limit: 2 });
        assert_eq!(error.kind(), Kind::Saturated);
        assert_eq!(pool.waiting(), 2);
        drop(calls);
        assert_eq!(pool.waiting(), 0);
        rig.end().await;
    });
}

#[test]
fn many_calls_at_once_are_each_answered_once() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(3)).await;
        let calls = (0..2000).map(|n: i64| {
            let pool = pool.clone();
            async move {
                let back = call(&pool, "echo", Args::none().arg(n)).await.unwrap();
                assert_eq!(back.as_i64(), Some(n));
            }
        });
        let tasks: Vec<_> = calls.map(|call| rig.root.scope().task("call", call)).collect();
        for task in tasks {
            task.await.unwrap();
        }
        let infos = pool.workers();
        assert_eq!(infos.iter().map(|info| info.calls).sum::<u64>(), 2000);
        assert!(infos.iter().all(|info| info.in_flight == 0 && info.restarts == 0), "{infos:?}");
        rig.end().await;
    });
}

#[test]
fn stopping_ends_what_waits_and_what_runs() {
    run(async {
        let rig = Rig::new().await;
        let grace = std::time::Duration::from_millis(100);
        let pool = rig.pool(PoolConfig { stop_grace: grace, ..workers(1) }).await;
        let running = rig.root.scope().task("running", {
            let pool = pool.clone();
            async move { call(&pool, "sleep", Args::none().arg(600)).await }
        });
        wait_until(&pool, |pool| pool.workers()[0].in_flight == 1).await;
        let waiting = rig.root.scope().task("waiting", {
            let pool = pool.clone();
            async move { call(&pool, "echo", Args::none().arg(1)).await }
        });
        wait_until(&pool, |pool| pool.waiting() == 1).await;
        pool.stop().await;
        assert_eq!(waiting.await.unwrap(), Err(CallError::Stopped));
        assert_eq!(running.await.unwrap().unwrap_err().code(), "worker_died");
        assert_eq!(call(&pool, "echo", Args::none()).await, Err(CallError::Stopped));
        rig.end().await;
    });
}

#[test]
fn a_call_carries_its_place_in_a_trace() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let traced = soon().traced(header.parse().unwrap());
        let told = pool.call("where", Args::none(), traced).await.unwrap();
        assert_eq!(told.as_str(), Some(header));
        let told = call(&pool, "where", Args::none()).await.unwrap();
        assert_eq!(told.as_str(), Some("None"));
        rig.end().await;
    });
}
