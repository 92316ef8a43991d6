//! Workers that a pool does not start: both ends of the connection, with the network left out.

use std::collections::BTreeMap;
use std::time::Duration;

use snakehouse_base::Coded;
use snakehouse_pool::{
    Args, AttachError, Attached, Attachments, Birth, Bytes, CallError, CallOptions, Death,
    Farewell, Hosted, HostedSays, Pool, PoolSays, ToHosted, Value, WorkerSpec,
};
use snakehouse_supervise::{CancellationToken, Task};
use tokio::sync::mpsc;

use crate::support::{
    BOUND, Rig, Trace, Watched, call, call_pid, run, soon, spec, wait_until, workers as many,
};

/// A pool that takes in whoever comes.
async fn pool_of(rig: &Rig, attachments: &Attachments, workers: usize) -> Pool {
    rig.pool_of(WorkerSpec::attached("elsewhere", attachments), many(workers)).await
}

/// A worker "elsewhere", and the wire between, which `cut` cuts.
struct Elsewhere {
    process: Watched,
    cut: CancellationToken,
    farewell: Task<Farewell>,
}

async fn attach(rig: &Rig, attachments: &Attachments) -> Elsewhere {
    let scope = rig.root.scope();
    let Attached { mut from_pool, mut to_pool } = attachments.attach("elsewhere").unwrap();
    let hosted = Hosted::start(scope, &rig.reaper, &spec(), BOUND).await.unwrap();
    let process = Watched::new(hosted.pid());
    let cut = CancellationToken::new();
    let (down, frames) = mpsc::channel(usize::try_from(Hosted::AHEAD).unwrap());
    let (told, cancels) = mpsc::channel(1);
    let (up, mut worker_says) = mpsc::channel(4);
    let farewell = scope.task("worker", hosted.relay(ToHosted { frames, cancels }, up));
    let is_cut = cut.clone();
    drop(scope.task("down", async move {
        loop {
            let room = down.capacity() > 0;
            let says = tokio::select! {
                () = is_cut.cancelled() => None,
                says = from_pool.next(room) => says,
                permit = down.reserve(), if !room => match permit {
                    Ok(_room) => continue,
                    Err(_gone) => None,
                },
            };
            let is_there = match says {
                Some(PoolSays::Frames(frames)) => down.try_send(frames).is_ok(),
                Some(PoolSays::Cancels(calls)) => told.send(calls).await.is_ok(),
                None => false,
            };
            if !is_there {
                return;
            }
        }
    }));
    let is_cut = cut.clone();
    let (said, told) = tokio::sync::oneshot::channel();
    drop(scope.task("up", async move {
        while let Some(said) = tokio::select! {
            () = is_cut.cancelled() => return to_pool.lost("it was cut"),
            said = worker_says.recv() => said,
        } {
            if let HostedSays::Frames(frames) = said {
                to_pool.put(&frames).await.unwrap();
            }
        }
        to_pool.end(told.await.unwrap());
    }));
    let farewell = scope.task("farewell", async move {
        let farewell = farewell.await.unwrap();
        let _ = said.send(farewell.clone());
        farewell
    });
    Elsewhere { process, cut, farewell }
}

/// The pool first: with it the workers elsewhere end, and what carries their frames.
async fn end(rig: Rig, pool: Pool) {
    pool.stop().await;
    rig.end().await;
}

#[test]
fn a_worker_elsewhere_is_a_worker() {
    run(async {
        let rig = Rig::new().await;
        let attachments = Attachments::new(1);
        let pool = pool_of(&rig, &attachments, 1).await;
        let elsewhere = attach(&rig, &attachments).await;
        assert_eq!(call_pid(&pool).await, elsewhere.process.pid);

        let large = Value::Bytes(Bytes::from(vec![7; 3 << 20]));
        assert_eq!(call(&pool, "echo", Args::none().arg(large.clone())).await.unwrap(), large);
        let failed = call(&pool, "fail", Args::none().arg("why")).await.unwrap_err();
        assert!(matches!(&failed, CallError::Tool { failure, .. } if failure.message == "why"));

        let info = &pool.workers()[0];
        assert_eq!(info.birth, Some(Birth::Attached { peer: "elsewhere".to_owned() }));
        assert_eq!((info.pid, info.rss), (None, None), "it cannot be looked at from here");

        pool.stop().await;
        let farewell = elsewhere.farewell.await.unwrap();
        assert_eq!(farewell.death, Death::Exited { code: 0 }, "it was told that the pool stops");
        end(rig, pool).await;
    });
}

#[test]
fn a_running_call_elsewhere_can_be_cancelled() {
    run(async {
        let rig = Rig::new().await;
        let attachments = Attachments::new(1);
        let pool = pool_of(&rig, &attachments, 1).await;
        let elsewhere = attach(&rig, &attachments).await;
        let trace = Trace::new();
        let mut running = Box::pin(call(&pool, "append", trace.args("running").arg(600.0)));
        tokio::select! {
            biased;
            _ = &mut running => panic!("it slept enough"),
            () = trace.wait_for("running") => {}
        }
        drop(running);
        assert_eq!(call_pid(&pool).await, elsewhere.process.pid, "it was not killed for it");
        let within = CallOptions::within(Duration::from_millis(50));
        let late = pool.call("sleep", Args::none().arg(600), within).await.unwrap_err();
        assert_eq!(late.code(), "deadline");
        assert_eq!(call_pid(&pool).await, elsewhere.process.pid, "nor for that");
        end(rig, pool).await;
    });
}

/// More than is on its way to a worker that reads nothing, wherever it waits.
const MUCH: usize = 24 << 20;

#[test]
fn a_cancel_overtakes_what_the_worker_does_not_read() {
    run(async {
        let rig = Rig::new().await;
        let attachments = Attachments::new(1);
        let pool = pool_of(&rig, &attachments, 1).await;
        let elsewhere = attach(&rig, &attachments).await;
        let trace = Trace::new();
        let args = trace.args("running").arg(600.0);
        let stream = pool.stream("append", args, CallOptions::within(BOUND)).await.unwrap();
        trace.wait_for("running").await;
        stream.send(Value::Bytes(vec![0; MUCH].into())).await.unwrap();
        drop(stream);
        assert_eq!(call_pid(&pool).await, elsewhere.process.pid, "it was not killed for it");
        assert_eq!(pool.stats().deaths, BTreeMap::new());
        end(rig, pool).await;
    });
}

#[test]
fn a_death_elsewhere_is_told_with_its_cause_and_with_what_had_started() {
    run(async {
        let rig = Rig::new().await;
        let attachments = Attachments::new(2);
        let pool = pool_of(&rig, &attachments, 2).await;
        let first = attach(&rig, &attachments).await;
        let error = call(&pool, "segfault", Args::none()).await.unwrap_err();
        let CallError::WorkerDied { started, cause, .. } = error else { panic!("{error:?}") };
        assert_eq!((started, cause), (true, Death::Signalled { signal: 11 }));
        assert!(first.farewell.await.unwrap().started.is_some());

        // A call waits for the next one.
        let (pid, second) = tokio::join!(call_pid(&pool), attach(&rig, &attachments));
        assert_eq!(pid, second.process.pid);
        end(rig, pool).await;
    });
}

#[test]
fn of_a_lost_worker_nobody_knows_what_it_did_and_it_is_ended() {
    run(async {
        let rig = Rig::new().await;
        let attachments = Attachments::new(1);
        let pool = pool_of(&rig, &attachments, 1).await;
        let elsewhere = attach(&rig, &attachments).await;
        let trace = Trace::new();
        let mut running = Box::pin(call(&pool, "append", trace.args("running").arg(600.0)));
        tokio::select! {
            biased;
            _ = &mut running => panic!("it slept enough"),
            () = trace.wait_for("running") => {}
        }
        elsewhere.cut.cancel();
        let error = running.await.unwrap_err();
        assert_eq!(error.code(), "outcome_unknown");
        let CallError::OutcomeUnknown { cause, .. } = error else { panic!("{error:?}") };
        assert_eq!(cause.code(), "link_lost");
        assert!(!cause.is_own_fault());
        assert_eq!(elsewhere.farewell.await.unwrap().death, Death::Signalled { signal: 9 });
        elsewhere.process.gone();
        end(rig, pool).await;
    });
}

#[test]
fn a_call_elsewhere_that_ignores_its_cancel_costs_the_worker_its_place() {
    run(async {
        let rig = Rig::new().await;
        let attachments = Attachments::new(1);
        let spec = WorkerSpec::attached("elsewhere", &attachments)
            .cancel_grace(Some(Duration::from_millis(50)));
        let pool = rig.pool_of(spec, many(1)).await;
        let elsewhere = attach(&rig, &attachments).await;
        call_pid(&pool).await;
        let trace = Trace::new();
        let mut deaf = Box::pin(call(&pool, "stubborn", Args::none().arg(trace.path())));
        tokio::select! {
            biased;
            outcome = &mut deaf => panic!("{outcome:?}"),
            () = trace.wait_for("running") => {}
        }
        drop(deaf);
        assert_eq!(elsewhere.farewell.await.unwrap().death, Death::Signalled { signal: 9 });
        wait_until(&pool, |_| attachments.attached() == 0).await;
        let next = attach(&rig, &attachments).await;
        assert_eq!(call_pid(&pool).await, next.process.pid);
        end(rig, pool).await;
    });
}

#[test]
fn no_more_are_let_in_than_the_pool_takes() {
    run(async {
        let rig = Rig::new().await;
        let attachments = Attachments::new(1);
        let pool = pool_of(&rig, &attachments, 1).await;
        let elsewhere = attach(&rig, &attachments).await;
        call_pid(&pool).await;
        let error = attachments.attach("another").unwrap_err();
        assert!(matches!(error, AttachError::Full { most: 1 }));
        assert_eq!(error.code(), "too_many_attached");
        elsewhere.process.kill();
        elsewhere.farewell.await.unwrap();
        wait_until(&pool, |_| attachments.attached() == 0).await;
        let next = attach(&rig, &attachments).await;
        assert_eq!(
            pool.call("pid", Args::none(), soon()).await.unwrap().as_i64(),
            Some(next.process.pid.into())
        );
        end(rig, pool).await;
    });
}

#[test]
fn one_that_went_before_it_had_a_place_is_passed_over() {
    run(async {
        let rig = Rig::new().await;
        let attachments = Attachments::new(1);
        for _ in 0..5 {
            drop(attachments.attach("gone").unwrap());
        }
        let pool = pool_of(&rig, &attachments, 1).await;
        let elsewhere = attach(&rig, &attachments).await;
        assert_eq!(call_pid(&pool).await, elsewhere.process.pid);
        assert_eq!(pool.counters().starts, 1);
        end(rig, pool).await;
    });
}
