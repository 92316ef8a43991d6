//! Random schedules of the asynchronous shells. A failing schedule is printed and can be replayed.
//!
//! `cargo test -p snakehouse-guard --features shuttle --test shuttle --release`; the number of
//! schedules comes from `SNAKEHOUSE_SCHEDULES` (default 5,000).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use shuttle::future::{block_on, spawn, yield_now};
use shuttle::thread;
use snakehouse_base::{ByteSize, Chance, Clock as _, ManualClock};
use snakehouse_guard::{Breaker, BreakerConfig, BreakerState, Permits, Trip, Verdict};

fn check(test: impl Fn() + Send + Sync + 'static) {
    let schedules =
        std::env::var("SNAKEHOUSE_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000);
    shuttle::check_random(test, schedules);
}

/// SE1, SE2, SE4: never over the limits, everything comes back, whoever is dropped whenever.
#[test]
fn permits_stay_within_their_limits_and_come_back() {
    check(|| {
        let permits = Permits::new(2, ByteSize(10)).unwrap();
        let held = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..8u64)
            .map(|n| {
                let (permits, held) = (permits.clone(), held.clone());
                spawn(async move {
                    let mut waiting = Box::pin(permits.acquire(ByteSize(n * 2)));
                    // Every third gives up after a few turns, wherever it is by then.
                    let mut turns = 0;
                    let permit = std::future::poll_fn(|cx| {
                        turns += 1;
                        match waiting.as_mut().poll(cx) {
                            Poll::Ready(permit) => Poll::Ready(Some(permit)),
                            Poll::Pending if n % 3 == 0 && turns > 1 => Poll::Ready(None),
                            Poll::Pending if n % 3 == 0 => {
                                cx.waker().wake_by_ref();
                                Poll::Pending
                            }
                            Poll::Pending => Poll::Pending,
                        }
                    })
                    .await;
                    drop(waiting);
                    if permit.is_some() {
                        assert!(held.fetch_add(1, Ordering::SeqCst) < 2, "a third permit");
                        yield_now().await;
                        held.fetch_sub(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
        assert_eq!(permits.in_flight(), (0, ByteSize(0)));
        assert_eq!(permits.waiting(), 0);
    });
}

/// An aborted task returns what it held and leaves the queue.
#[test]
fn an_aborted_holder_and_an_aborted_waiter_free_their_places() {
    check(|| {
        let permits = Permits::counted(1).unwrap();
        let forever = |permits: Permits| async move {
            let _permit = permits.acquire(ByteSize(0)).await;
            std::future::pending::<()>().await;
        };
        let doomed: Vec<_> = (0..3).map(|_| spawn(forever(permits.clone()))).collect();
        let patient = {
            let permits = permits.clone();
            spawn(async move { drop(permits.acquire(ByteSize(0)).await) })
        };
        thread::yield_now();
        for task in &doomed {
            task.abort();
        }
        block_on(async {
            patient.await.unwrap();
            for task in doomed {
                assert!(task.await.is_err(), "it was aborted");
            }
        });
        assert_eq!(permits.in_flight(), (0, ByteSize(0)));
    });
}

/// CB1 at a hundred callers: every failure counts, once.
#[test]
fn a_hundred_failures_open_a_breaker_of_a_hundred_and_not_of_more() {
    check(|| {
        let now = ManualClock::new().now();
        for (threshold, expected) in [(100, BreakerState::Open), (101, BreakerState::Closed)] {
            let config =
                BreakerConfig { trip: Trip::Consecutive(threshold), ..BreakerConfig::default() };
            let breaker = Breaker::with_chance("service", config, Chance::seeded(1)).unwrap();
            let tasks: Vec<_> = (0..100)
                .map(|_| {
                    let breaker = breaker.clone();
                    spawn(async move {
                        if let Ok(permit) = breaker.try_admit_at(now) {
                            permit.resolve_at(Verdict::Failure, now);
                        }
                    })
                })
                .collect();
            block_on(async {
                for task in tasks {
                    task.await.unwrap();
                }
            });
            assert_eq!(breaker.state(), expected, "threshold {threshold}");
        }
    });
}
