//! Streams from the host's side: order, ends, credits and deaths, with a worker that follows a script.

use std::time::Duration;

use bytes::Bytes;
use snakehouse_base::{Coded, Kind};
use snakehouse_pool::{
    Args, CallError, CallOptions, Death, Pool, PoolConfig, Start, Stream, Value,
};
use snakehouse_wire::ValueError;

use crate::scripted::{BLOB, spec};
use crate::support::{Rig, run, soon, wait_until, workers};

async fn open(pool: &Pool, tool: &str) -> Stream {
    pool.stream(tool, Args::none(), soon()).await.unwrap()
}

async fn next(stream: &Stream) -> Option<i64> {
    stream.next().await.map(|item| item.unwrap().as_i64().unwrap())
}

/// The items until the end, and the error if there is one.
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

/// The pool is as it was: nothing runs, nothing waits, the same worker answers.
async fn at_rest(pool: &Pool) {
    wait_until(pool, |pool| pool.workers()[0].in_flight == 0 && pool.waiting() == 0).await;
    let stream = open(pool, "plain").await;
    assert_eq!(stream.result().await.unwrap(), Value::from(7));
    assert_eq!(pool.workers()[0].restarts, 0);
}

#[test]
fn items_come_in_order_and_then_the_result() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let stream = open(&pool, "count").await;
        let (items, error) = all(&stream).await;
        assert_eq!((items, error), ((0..1000).collect(), None));
        assert_eq!(stream.result().await.unwrap(), Value::from("done"));
        assert!(stream.next().await.is_none());
        // Whoever wants the result only, gets it.
        assert_eq!(open(&pool, "count").await.result().await.unwrap(), Value::from("done"));
        let long = open(&pool, "long_item").await;
        assert_eq!(long.next_bytes().await.unwrap().unwrap().len(), (3 << 20) + 5);
        assert_eq!(long.result().await.unwrap(), Value::from(1));
        at_rest(&pool).await;
        rig.end().await;
    });
}

#[test]
fn items_go_both_ways_at_once() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let stream = open(&pool, "echo").await;
        let sending = async {
            for number in 0..10_000 {
                stream.send(number).await.unwrap();
            }
            stream.finish_sending();
            assert_eq!(stream.send(1).await, Err(CallError::StreamOver));
        };
        let taking = async {
            for number in 0..10_000 {
                assert_eq!(next(&stream).await, Some(number));
            }
            assert_eq!(next(&stream).await, None);
        };
        tokio::join!(sending, taking);
        at_rest(&pool).await;
        rig.end().await;
    });
}

#[test]
fn an_item_that_is_too_long_is_refused_and_costs_nothing() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let stream = open(&pool, "echo").await;
        let long = Bytes::from(vec![0; Value::MAX_BYTES + 1]);
        let error = stream.send_bytes(long).await.unwrap_err();
        assert_eq!(error, CallError::BadArguments(ValueError::TooLarge));
        stream.send(5).await.unwrap();
        stream.finish_sending();
        assert_eq!(all(&stream).await, (vec![5], None));
        at_rest(&pool).await;
        rig.end().await;
    });
}

#[test]
fn items_that_arrived_come_before_the_error() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let stream = open(&pool, "fails").await;
        let (items, error) = all(&stream).await;
        assert_eq!(items, [0, 1, 2]);
        assert_eq!(error.as_ref().unwrap().code(), "tool_failed");
        assert_eq!(stream.result().await.unwrap_err(), error.unwrap());
        assert!(stream.next().await.is_none(), "it is told once");
        assert_eq!(stream.send(1).await, Err(CallError::StreamOver));

        let stream = open(&pool, "dies").await;
        let (items, error) = all(&stream).await;
        assert_eq!(items, [0, 1, 2]);
        match error.unwrap() {
            CallError::WorkerDied { started: true, cause: Death::Exited { code: 101 }, .. } => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(open(&pool, "plain").await.result().await.unwrap(), Value::from(7));
        rig.end().await;
    });
}

#[test]
fn a_bad_item_is_the_end_of_its_stream_and_of_nothing_else() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let stream = open(&pool, "bad").await;
        let (items, error) = all(&stream).await;
        assert_eq!(items, [0, 1]);
        let error = error.unwrap();
        assert_eq!((error.kind(), error.code()), (Kind::Corrupt, "bad_item"));
        assert!(stream.next().await.is_none());
        assert_eq!(stream.result().await.unwrap_err(), error);
        let over = stream.send(1).await.unwrap_err();
        assert_eq!((over.kind(), over.code()), (Kind::Conflict, "stream_over"));
        at_rest(&pool).await;
        rig.end().await;
    });
}

#[test]
fn a_slow_reader_holds_no_more_than_its_credits() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let stream = open(&pool, "blobs").await;
        // Everything that it has credit for arrives, and nothing more: 64 items.
        let held = 64 * (BLOB + 3);
        wait_until(&pool, |_| stream.held() == held).await;
        for byte in 0..100u8 {
            assert!(stream.held() <= held);
            let item = stream.next().await.unwrap().unwrap();
            assert_eq!(item, Value::from(&*vec![byte; BLOB]));
            for _ in 0..100 {
                tokio::task::yield_now().await;
                assert!(stream.held() <= held);
            }
        }
        assert_eq!(stream.result().await.unwrap(), Value::None);
        at_rest(&pool).await;
        rig.end().await;
    });
}

#[test]
fn more_than_the_credits_is_a_broken_protocol() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let stream = open(&pool, "flood").await;
        wait_until(&pool, |pool| pool.workers()[0].restarts == 1).await;
        let mut items = 0;
        let error = loop {
            match stream.next_bytes().await.unwrap() {
                Ok(_) => items += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(items, 64);
        assert_eq!(error.code(), "worker_died");
        assert!(error.to_string().contains("no credit"), "{error}");
        rig.end().await;
    });
}

#[test]
fn a_dropped_stream_is_cancelled_and_its_late_items_are_counted() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        for tool in ["hangs", "count", "echo"] {
            let stream = open(&pool, tool).await;
            if tool == "echo" {
                stream.send(1).await.unwrap();
            }
            assert!(next(&stream).await.is_some());
            drop(stream);
            at_rest(&pool).await;
        }
        // Until one is dropped that has not given its first items yet.
        let mut tries = 0;
        while pool.counters().late_items == 0 {
            tries += 1;
            assert!(tries < 1000, "nothing is ever late");
            drop(open(&pool, "count").await);
            at_rest(&pool).await;
        }
        // One that waits is forgotten.
        let running = open(&pool, "hangs").await;
        assert_eq!(next(&running).await, Some(0));
        let waiting = open(&pool, "count").await;
        wait_until(&pool, |pool| pool.waiting() == 1).await;
        drop(waiting);
        assert_eq!(pool.waiting(), 0);
        drop(running);
        at_rest(&pool).await;
        rig.end().await;
    });
}

#[test]
fn a_stream_waits_for_its_turn_with_what_is_sent_to_it() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let first = open(&pool, "hangs").await;
        assert_eq!(next(&first).await, Some(0));
        // All are busy: they wait like calls, whatever they are.
        let streams = [open(&pool, "echo").await, open(&pool, "echo").await];
        for stream in &streams {
            stream.send(5).await.unwrap();
            stream.finish_sending();
        }
        assert_eq!(pool.waiting(), 2);
        drop(first);
        for stream in streams {
            assert_eq!(all(&stream).await, (vec![5], None));
        }
        at_rest(&pool).await;
        rig.end().await;
    });
}

#[test]
fn the_deadline_covers_the_stream_to_its_end() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let briefly = || CallOptions::within(Duration::from_millis(100));
        // Its items have come by then.
        let later = CallOptions::within(Duration::from_secs(2));
        let stream = pool.stream("hangs", Args::none(), later).await.unwrap();
        let waiting = pool.stream("count", Args::none(), briefly()).await.unwrap();
        let (items, error) = all(&stream).await;
        assert_eq!(
            (items, error.unwrap().to_string()),
            (vec![0, 1, 2], "the deadline passed while the call was at the worker".to_owned(),)
        );
        let (items, error) = all(&waiting).await;
        assert_eq!(error.unwrap().code(), "deadline");
        assert!(items.is_empty());
        at_rest(&pool).await;
        // Also when nobody looks.
        let unseen = pool.stream("hangs", Args::none(), briefly()).await.unwrap();
        let after = open(&pool, "plain").await;
        assert_eq!(after.result().await.unwrap(), Value::from(7));
        assert_eq!(unseen.result().await.unwrap_err().code(), "deadline");
        // A sender who waits for credit learns of it.
        let stream = pool.stream("hangs", Args::none(), briefly()).await.unwrap();
        while stream.send(1).await.is_ok() {}
        assert_eq!(stream.result().await.unwrap_err().code(), "deadline");
        at_rest(&pool).await;
        rig.end().await;
    });
}

#[test]
fn a_tool_that_ignores_the_end_of_its_stream_costs_its_worker() {
    run(async {
        let rig = Rig::new().await;
        let spec = spec().cancel_grace(Some(Duration::from_millis(100)));
        let pool = rig.pool_of(spec, workers(1)).await;
        let stream = open(&pool, "stubborn").await;
        assert_eq!(next(&stream).await, Some(0));
        drop(stream);
        assert_eq!(open(&pool, "plain").await.result().await.unwrap(), Value::from(7));
        assert_eq!(pool.workers()[0].restarts, 1);
        rig.end().await;
    });
}

#[test]
fn a_worker_that_cannot_stream_says_so() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec().env("SCRIPT", "no_streams"), workers(1)).await;
        let stream = open(&pool, "count").await;
        let error = stream.result().await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidInput);
        assert!(error.to_string().contains("cannot stream"), "{error}");
        wait_until(&pool, |pool| pool.workers()[0].in_flight == 0).await;
        rig.end().await;
    });
}

#[test]
fn a_stopped_pool_ends_its_streams() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let running = open(&pool, "hangs").await;
        assert_eq!(next(&running).await, Some(0));
        let waiting = open(&pool, "count").await;
        pool.stop().await;
        assert_eq!(waiting.result().await.unwrap_err(), CallError::Stopped);
        assert!(running.result().await.is_err());
        let refused = pool.stream("count", Args::none(), soon()).await.unwrap_err();
        assert_eq!(refused, CallError::Stopped);
        rig.end().await;
    });
}

#[test]
fn a_session_s_stream_stays_with_its_worker() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let session = pool.session(soon().deadline).await.unwrap();
        let stream = session.stream("dies", Args::none(), soon()).await.unwrap();
        assert_eq!(all(&stream).await.0, [0, 1, 2]);
        session.ended().await;
        let error = session.stream("count", Args::none(), soon()).await.unwrap_err();
        assert_eq!(error.code(), "session_lost");
        rig.end().await;
    });
}

#[test]
fn ten_thousand_streams_that_cannot_be_sent_are_ten_thousand_errors() {
    run(async {
        let rig = Rig::new().await;
        // Lazy, so that all of them wait before there is a worker.
        let config = PoolConfig { start: Start::Lazy, ..workers(1) };
        let pool = rig.pool_of(spec().env("SCRIPT", "no_streams"), config).await;
        let mut all = Vec::new();
        for _ in 0..9_999 {
            all.push(open(&pool, "count").await);
        }
        for stream in all {
            assert_eq!(stream.result().await.unwrap_err().code(), "tool_failed");
        }
        rig.end().await;
    });
}
