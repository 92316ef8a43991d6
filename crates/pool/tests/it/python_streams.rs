//! Streams of Python tools: generators, tools that read, and how both end.

use std::time::Duration;

use snakehouse_base::{Coded, Kind};
use snakehouse_pool::{Args, CallError, CallOptions, Death, Pool, Stream, Value, WorkerSpec};

use crate::support::{Rig, call, call_pid, python, run, soon, wait_until, workers};

pub(crate) fn tools(name: &str) -> WorkerSpec {
    let tools = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(name);
    WorkerSpec::python("streams", python()).module(tools.to_str().unwrap())
}

pub(crate) fn spec() -> WorkerSpec {
    tools("stream_tools.py")
}

async fn open(pool: &Pool, tool: &str, args: Args) -> Stream {
    pool.stream(tool, args, soon()).await.unwrap()
}

async fn all(stream: &Stream) -> (Vec<i64>, Option<CallError>) {
    let mut items = Vec::new();
    loop {
        match stream.next().await {
            Some(Ok(item)) => items.push(item.as_i64().unwrap()),
            Some(Err(error)) => return (items, Some(error)),
            None => return (items, None),
        }
    }
}

#[test]
fn a_generator_gives_its_items_and_its_return_value() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let stream = open(&pool, "count", Args::none().arg(1000)).await;
        assert_eq!(all(&stream).await, ((0..1000).collect(), None));
        assert_eq!(stream.result().await.unwrap(), Value::from(1000));
        // As a call it would lose its items.
        let error = call(&pool, "count", Args::none().arg(3)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidInput);
        let CallError::Tool { failure, .. } = error else { panic!("{error:?}") };
        assert_eq!(failure.code, "is_stream");
        rig.end().await;
    });
}

#[test]
fn the_first_item_does_not_wait_for_the_second() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let stream = open(&pool, "count", Args::none().arg(2).arg(600.0)).await;
        assert_eq!(stream.next().await.unwrap().unwrap(), Value::from(0));
        drop(stream);
        call_pid(&pool).await;
        assert_eq!(pool.workers()[0].restarts, 0);
        rig.end().await;
    });
}

#[test]
fn tools_read_what_the_host_sends() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let stream = open(&pool, "total", Args::none()).await;
        for number in 0..500 {
            stream.send(number).await.unwrap();
        }
        stream.finish_sending();
        assert_eq!(stream.result().await.unwrap(), Value::from(499 * 500 / 2));

        let stream = open(&pool, "echo", Args::none()).await;
        let sending = async {
            for number in 0..5_000 {
                stream.send(number).await.unwrap();
            }
            stream.finish_sending();
        };
        let (items, ()) = tokio::join!(all(&stream), sending);
        assert_eq!(items, ((0..5_000).collect(), None));
        assert_eq!(stream.result().await.unwrap(), Value::from(5_000));

        // What it does not take is dropped, and a later call is not confused by it.
        let stream = open(&pool, "first", Args::none().arg(2)).await;
        let mut sent = 0;
        while stream.send(sent).await.is_ok() {
            sent += 1;
        }
        assert_eq!(stream.result().await.unwrap(), Value::List(vec![0.into(), 1.into()]));
        call_pid(&pool).await;
        assert_eq!(pool.workers()[0].restarts, 0);
        rig.end().await;
    });
}

#[test]
fn what_goes_wrong_comes_after_the_items_before_it() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let (items, error) = all(&open(&pool, "fails_after", Args::none().arg(3)).await).await;
        assert_eq!(items, [0, 1, 2]);
        assert!(error.unwrap().to_string().contains("no more"));
        let (items, error) = all(&open(&pool, "cannot_travel", Args::none()).await).await;
        assert_eq!(items, [1]);
        let Some(CallError::Tool { failure, .. }) = error else { panic!("{error:?}") };
        assert_eq!(failure.code, "unsupported_value");
        assert_eq!(pool.workers()[0].restarts, 0);
        let (items, error) = all(&open(&pool, "dies_after", Args::none().arg(3)).await).await;
        assert_eq!(items, [0, 1, 2]);
        match error.unwrap() {
            CallError::WorkerDied { started: true, cause: Death::Exited { code: 9 }, .. } => {}
            other => panic!("{other:?}"),
        }
        rig.end().await;
    });
}

/// An item that is no value, in the direction of the tool: the tool's error, and nothing else.
#[test]
fn a_bad_item_from_the_host_fails_its_stream_only() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let stream = open(&pool, "total", Args::none()).await;
        stream.send(1).await.unwrap();
        stream.send_bytes(bytes::Bytes::from_static(&[0xc1])).await.unwrap();
        let error = stream.result().await.unwrap_err();
        assert!(matches!(error, CallError::Tool { .. }), "{error:?}");
        call_pid(&pool).await;
        assert_eq!(pool.workers()[0].restarts, 0);
        rig.end().await;
    });
}

#[test]
fn a_slow_reader_stops_the_generator() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let size = 16_000;
        let stream = open(&pool, "blobs", Args::none().arg(200).arg(size)).await;
        let most = 64 * (16_000 + 3);
        wait_until(&pool, |_| stream.held() == most).await;
        for _ in 0..200 {
            assert!(stream.held() <= most);
            assert!(stream.next_bytes().await.unwrap().is_ok());
        }
        assert!(stream.next_bytes().await.is_none());
        rig.end().await;
    });
}

#[test]
fn a_generator_that_nobody_wants_is_closed() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let stream = open(&pool, "closes", Args::none().arg("dropped")).await;
        assert!(stream.next().await.unwrap().is_ok());
        drop(stream);
        let stream = open(&pool, "waits_for_items", Args::none().arg("waiting")).await;
        stream.send(1).await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        drop(stream);
        // It has begun by then.
        let briefly = CallOptions::within(Duration::from_secs(2));
        let stream = pool.stream("closes", Args::none().arg("late"), briefly).await.unwrap();
        let error = loop {
            match stream.next().await.unwrap() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), "deadline");
        let closed = call(&pool, "was_closed", Args::none()).await.unwrap();
        let names = ["dropped", "waiting", "late"].map(Value::from);
        assert_eq!(closed, Value::List(names.into()));
        assert_eq!(pool.workers()[0].restarts, 0);
        rig.end().await;
    });
}

#[test]
fn a_stream_holds_the_only_place_and_calls_wait() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        // Short calls, so that others would be sent ahead.
        for _ in 0..64 {
            call_pid(&pool).await;
        }
        let stream = open(&pool, "echo", Args::none()).await;
        stream.send(1).await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        let mut waiting = Box::pin(call(&pool, "pid", Args::none()));
        tokio::select! {
            biased;
            outcome = &mut waiting => panic!("{outcome:?}"),
            () = wait_until(&pool, |pool| pool.waiting() == 1) => {}
        }
        assert_eq!(pool.workers()[0].in_flight, 1);
        stream.finish_sending();
        assert!(stream.next().await.is_none());
        waiting.await.unwrap();
        rig.end().await;
    });
}
