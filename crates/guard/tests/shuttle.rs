//! Random schedules of the asynchronous shells. A failing schedule is printed and can be replayed.
//!
//! `cargo test -p snakehouse-guard --features shuttle --test shuttle --release`; the number of
//! schedules comes from `SNAKEHOUSE_SCHEDULES` (default 5,000).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use shuttle::future::{block_on, spawn, yield_now};
use shuttle::thread;
use std::time::Duration;

use snakehouse_base::{ByteSize, Chance, Clock as _, Deadline, ManualClock};
use snakehouse_guard::{
    Breaker, BreakerConfig, BreakerState, Dispatch, DispatchConfig, Permits, Registry, Trip,
    Verdict, Window,
};

fn check(test: impl Fn() + Send + Sync + 'static) {
    let schedules =
        std::env::var("SNAKEHOUSE_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000);
    shuttle::check_random(test, schedules);
}

/// Waits for `guard`; whoever `leaves` gives up after a few turns, wherever it is by then.
async fn or_leave<T>(leaves: bool, guard: impl Future<Output = T>) -> Option<T> {
    let mut waiting = Box::pin(guard);
    let mut turns = 0;
    std::future::poll_fn(|cx| {
        turns += 1;
        match waiting.as_mut().poll(cx) {
            Poll::Ready(permit) => Poll::Ready(Some(permit)),
            Poll::Pending if leaves && turns > 1 => Poll::Ready(None),
            Poll::Pending if leaves => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await
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
                    let permit = or_leave(n % 3 == 0, permits.acquire(ByteSize(n * 2))).await;
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

/// DI1, DI2: count, bytes and the window behind one guard; a throttle comes and is cleared while
/// requests wait, run and leave. The clock stands still: whoever goes on was woken.
#[test]
fn a_dispatch_stays_within_its_limits_and_nobody_is_left_behind() {
    check(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let _clock = runtime.enter();
        let config = DispatchConfig {
            count: 3,
            bytes: ByteSize(10),
            throttled_count: 1,
            throttled_scale: 2,
            recovery: Duration::from_secs(10),
        };
        let dispatch = Dispatch::new(config, Window::new(Duration::ZERO)).unwrap();
        let held = Arc::new(AtomicUsize::new(0));
        let mut tasks: Vec<_> = (0..10u64)
            .map(|n| {
                let (dispatch, held) = (dispatch.clone(), held.clone());
                spawn(async move {
                    let seen = dispatch.observe();
                    let admitted = dispatch.admit(ByteSize(n), Deadline::never());
                    if or_leave(n % 4 == 0, admitted).await.flatten().is_some() {
                        assert!(held.fetch_add(1, Ordering::SeqCst) < 3, "one too many");
                        yield_now().await;
                        held.fetch_sub(1, Ordering::SeqCst);
                        dispatch.succeeded(seen);
                    }
                })
            })
            .collect();
        tasks.push({
            let dispatch = dispatch.clone();
            spawn(async move {
                dispatch.throttle(Duration::from_secs(3600));
                yield_now().await;
                dispatch.succeeded(dispatch.observe());
            })
        });
        block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
        assert_eq!((dispatch.in_flight(), dispatch.waiting()), ((0, ByteSize(0)), 0));
    });
}

/// BW5: fifty first callers, one guard.
#[test]
fn all_first_callers_of_a_key_get_the_same_guard() {
    check(|| {
        let registry: Arc<Registry<u8, u8, u8>> = Arc::new(Registry::new(1, |_| true).unwrap());
        let made = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (registry, made) = (registry.clone(), made.clone());
                spawn(async move {
                    let make = |config: &u8| {
                        made.fetch_add(1, Ordering::SeqCst);
                        Ok(*config)
                    };
                    registry.get_or_make(&1, 1, make).unwrap()
                })
            })
            .collect();
        let guards = block_on(async {
            let mut guards = Vec::new();
            for task in tasks {
                guards.push(task.await.unwrap());
            }
            guards
        });
        assert!(guards.iter().all(|guard| Arc::ptr_eq(guard, &guards[0])));
        assert_eq!(made.load(Ordering::SeqCst), 1);
    });
}
