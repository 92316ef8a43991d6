//! Lanes on real threads.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{join, join_all};
use snakehouse_supervise::{Lane, LaneError, Root, Stopped};
use snakehouse_testkit::{eventually, real_time};

const BOUND: Duration = Duration::from_secs(30);

/// Work that reports its start and ends when told.
fn gate() -> (impl FnOnce() + Send, Receiver<()>, SyncSender<()>) {
    let (started, has_started) = sync_channel(1);
    let (release, released) = sync_channel::<()>(1);
    let work = move || {
        started.send(()).unwrap();
        released.recv().unwrap();
    };
    (work, has_started, release)
}

#[test]
fn a_full_lane_refuses_and_makes_wait_and_serves_in_order() {
    real_time(async {
        let root = Root::new("root");
        let scope = root.scope();
        let lane = Lane::new(scope, "disk", 1, 2);
        let (work, has_started, release) = gate();
        let busy = scope.task("busy", {
            let lane = lane.clone();
            async move { lane.run(work).await }
        });
        has_started.recv().unwrap();

        let order = Arc::new(Mutex::new(Vec::new()));
        let mut queued = Vec::new();
        for n in 0..5 {
            let (own, order) = (lane.clone(), order.clone());
            queued.push(scope.task("queued", async move {
                own.run(move || order.lock().unwrap().push(n)).await
            }));
            // Each takes its place before the next one asks; two fit, three wait outside.
            let expected = (n + 1).min(2);
            eventually("the work is queued", BOUND, || lane.queued(), |n| *n == expected).await;
        }
        let refused = lane.try_run(|| ()).await;
        assert_eq!(refused, Err(LaneError::Saturated { lane: "disk".into() }));
        assert_eq!(lane.queued(), 2);

        release.send(()).unwrap();
        busy.await.unwrap().unwrap();
        for task in queued {
            task.await.unwrap().unwrap();
        }
        let mut served = order.lock().unwrap().clone();
        assert_eq!(served[..2], [0, 1], "what was queued first is served first");
        served.sort_unstable();
        assert_eq!(served, [0, 1, 2, 3, 4]);
        assert!(root.stop().await.is_clean());
    });
}

#[test]
fn a_stop_finishes_what_was_accepted_and_refuses_the_rest() {
    real_time(async {
        let root = Root::new("root");
        let scope = root.scope().clone();
        let lane = Lane::new(&scope.open("lanes"), "disk", 2, 100);
        let (work, has_started, release) = gate();
        let gated = lane.run(work);
        let done = Arc::new(Mutex::new(0));
        let counted = (0..50).map(|_| {
            let done = done.clone();
            lane.run(move || *done.lock().unwrap() += 1)
        });
        let mut accepted = std::pin::pin!(join(gated, join_all(counted)));
        // One poll hands every piece over.
        assert!(futures_util::poll!(accepted.as_mut()).is_pending());
        has_started.recv().unwrap();
        let mut stopping = std::pin::pin!(scope.stop());
        assert!(futures_util::poll!(stopping.as_mut()).is_pending());
        let refused = LaneError::Closed { lane: "disk".into() };
        while lane.try_run(|| ()).await != Err(refused.clone()) {}
        release.send(()).unwrap();
        let report = stopping.await;
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(*done.lock().unwrap(), 50, "accepted work is finished");
        let (gated, counted) = accepted.await;
        assert!(gated.is_ok() && counted.iter().all(Result::is_ok));
        assert_eq!(lane.run(|| ()).await, Err(refused));
    });
}

#[test]
fn a_panic_is_the_result_of_its_work_only() {
    real_time(async {
        let root = Root::new("root");
        let lane = Lane::new(root.scope(), "cpu", 1, 0);
        for n in 0..3 {
            let outcome = lane.run(move || assert!(n > 5, "piece {n}")).await;
            let payload = format!("piece {n}");
            assert_eq!(outcome, Err(LaneError::Panicked { lane: "cpu".into(), payload }));
        }
        assert_eq!(lane.run(|| 7).await, Ok(7), "the thread survived");
        assert_eq!(root.stop().await.ended, [("cpu".to_owned(), Stopped::Gracefully)]);
    });
}

#[test]
fn work_whose_caller_gave_up_before_it_began_does_not_run() {
    real_time(async {
        let root = Root::new("root");
        let lane = Lane::new(root.scope(), "disk", 1, 8);
        let (work, has_started, release) = gate();
        let mut busy = Box::pin(lane.run(work));
        assert!(futures_util::poll!(busy.as_mut()).is_pending());
        has_started.recv().unwrap();
        let ran = Arc::new(Mutex::new(false));
        let mark = ran.clone();
        let mut abandoned = Box::pin(lane.run(move || *mark.lock().unwrap() = true));
        assert!(futures_util::poll!(abandoned.as_mut()).is_pending());
        drop(abandoned);
        release.send(()).unwrap();
        busy.await.unwrap();
        assert!(root.stop().await.is_clean());
        assert!(!*ran.lock().unwrap());
    });
}
