//! Permits: SE1 to SE7.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use snakehouse_base::{ByteSize, Deadline};
use snakehouse_guard::Permits;
use snakehouse_testkit::{counted, for_each_seed, settle, virtual_time, virtual_time_counted};
use tokio::time::{Instant, sleep};

const NOTHING: ByteSize = ByteSize(0);

#[test]
fn a_thousand_waiters_cost_nothing_for_an_hour_and_are_served_in_order() {
    virtual_time_counted(async |jumps| {
        let permits = Permits::counted(1).unwrap();
        let held = permits.acquire(NOTHING).await;
        let hours = Duration::from_secs(2 * 3600);
        let deadline = Deadline::after(Instant::now().into_std(), hours);
        let order = Rc::new(RefCell::new(Vec::new()));
        let (waiters, polls): (Vec<_>, Vec<_>) = (0..1000)
            .map(|n| {
                let (permits, order) = (permits.clone(), order.clone());
                counted(async move {
                    let _permit = permits.acquire_by(NOTHING, deadline).await.unwrap();
                    order.borrow_mut().push(n);
                })
            })
            .unzip();
        // Each waiter is a task of its own, so that a wake-up of one is a poll of one.
        let local = tokio::task::LocalSet::new();
        // audit(spawn): the set is dropped, with its tasks, right here
        let tasks: Vec<_> = waiters.into_iter().map(|waiter| local.spawn_local(waiter)).collect();
        local
            .run_until(async {
                settle().await;
                let before = jumps.count();
                sleep(Duration::from_secs(3600)).await;
                // One timer, that of this hour, is reached in at most six jumps.
                assert!(jumps.count() - before <= 6, "another timer fired");
                assert!(polls.iter().all(|polls| polls.count() == 1), "nobody was woken");
                assert_eq!(permits.waiting(), 1000);
                drop(held);
                join_all(tasks).await;
            })
            .await;
        assert_eq!(*order.borrow(), (0..1000).collect::<Vec<_>>());
        assert!(polls.iter().all(|polls| polls.count() == 2), "one wake-up each");
    });
}

#[test]
fn count_and_bytes_hold_together_and_an_oversized_request_runs_alone() {
    virtual_time(async {
        let permits = Permits::new(3, ByteSize(100)).unwrap();
        let small = permits.acquire(ByteSize(60)).await;
        assert!(permits.try_acquire(ByteSize(60)).is_none(), "bytes are used up");
        let tiny = permits.try_acquire(ByteSize(40)).unwrap();
        let empty = permits.try_acquire(NOTHING).unwrap();
        assert!(permits.try_acquire(NOTHING).is_none(), "the count is used up");
        drop((tiny, empty));

        let mut huge = Box::pin(permits.acquire(ByteSize(1_000_000)));
        assert!(futures_util::poll!(huge.as_mut()).is_pending());
        assert!(permits.try_acquire(ByteSize(1)).is_none(), "nobody overtakes");
        drop(small);
        let huge = huge.await;
        assert!(permits.try_acquire(ByteSize(1)).is_none(), "it runs alone");
        drop(huge);
        assert_eq!(permits.in_flight(), (0, NOTHING));
    });
}

#[test]
fn a_waiter_that_leaves_makes_room_for_those_behind_it() {
    virtual_time(async {
        let permits = Permits::new(10, ByteSize(100)).unwrap();
        let _held = permits.acquire(ByteSize(50)).await;
        let mut large = Box::pin(permits.acquire(ByteSize(80)));
        assert!(futures_util::poll!(large.as_mut()).is_pending());
        let mut small = Box::pin(permits.acquire(ByteSize(50)));
        assert!(futures_util::poll!(small.as_mut()).is_pending());
        drop(large);
        assert!(futures_util::poll!(small.as_mut()).is_ready());
    });
}

#[test]
fn waiting_ends_at_the_deadline_only() {
    virtual_time(async {
        let permits = Permits::counted(1).unwrap();
        let _held = permits.acquire(NOTHING).await;
        let start = Instant::now();
        let deadline = Deadline::after(start.into_std(), Duration::from_secs(9));
        assert!(permits.acquire_by(NOTHING, deadline).await.is_none());
        assert_eq!(start.elapsed(), Duration::from_secs(9));
        assert_eq!(permits.waiting(), 0);
    });
}

#[test]
fn whoever_is_cancelled_at_whatever_point_returns_what_it_held() {
    let peak = Cell::new(0);
    for_each_seed(50, |chance| {
        virtual_time(async {
            let permits = Permits::new(4, ByteSize(64)).unwrap();
            let work = (0..200).map(|_| {
                let (bytes, hold, patience) =
                    (chance.next_u64() % 70, chance.next_u64() % 30, chance.next_u64() % 100);
                let (permits, peak) = (&permits, &peak);
                async move {
                    let held = async {
                        let _permit = permits.acquire(ByteSize(bytes)).await;
                        let (count, bytes) = permits.in_flight();
                        assert!(count <= 4 && bytes.0 <= 64);
                        peak.set(peak.get().max(count));
                        sleep(Duration::from_millis(hold)).await;
                    };
                    let _ = tokio::time::timeout(Duration::from_millis(patience), held).await;
                }
            });
            join_all(work).await;
            assert_eq!(permits.in_flight(), (0, NOTHING));
            assert_eq!(permits.waiting(), 0);
        });
    });
    assert_eq!(peak.get(), 4, "the count was used up somewhere");
}

#[test]
fn permits_need_room() {
    assert!(Permits::counted(0).is_err());
    assert!(Permits::new(1, NOTHING).is_err());
}
