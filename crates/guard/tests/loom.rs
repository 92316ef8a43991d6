//! Every interleaving of the locks and atomics under the guards, for a few threads.
//!
//! `cargo test -p snakehouse-guard --features loom --test loom --release`
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use loom::thread as model_thread;
use snakehouse_base::{Backoff, ByteSize, Chance, Clock as _, Jitter, ManualClock};
use snakehouse_guard::{
    Breaker, BreakerConfig, BreakerState, Budget, Limit, Permits, Rate, Registry, RegistryError,
    Trip, Verdict, Window,
};

const SECOND: Duration = Duration::from_secs(1);

fn now() -> Instant {
    ManualClock::new().now()
}

fn breaker(failures: u32) -> Breaker {
    let config = BreakerConfig {
        trip: Trip::Consecutive(failures),
        open: Backoff::new(SECOND, SECOND, Jitter::None).unwrap(),
        ..BreakerConfig::default()
    };
    Breaker::with_chance("service", config, Chance::seeded(1)).unwrap()
}

/// CB1: no failure is lost, none counts twice.
#[test]
fn concurrent_failures_count_exactly() {
    for (threads, expected) in [(2, BreakerState::Closed), (3, BreakerState::Open)] {
        loom::model(move || {
            let (breaker, now) = (breaker(3), now());
            let callers: Vec<_> = (1..threads)
                .map(|_| {
                    let breaker = breaker.clone();
                    model_thread::spawn(move || {
                        breaker.try_admit_at(now).unwrap().resolve_at(Verdict::Failure, now);
                    })
                })
                .collect();
            breaker.try_admit_at(now).unwrap().resolve_at(Verdict::Failure, now);
            for caller in callers {
                caller.join().unwrap();
            }
            assert_eq!(breaker.state(), expected);
        });
    }
}

/// CB2 and CB3: one probe at a time, and a dropped probe gives its slot back.
#[test]
fn half_open_admits_one_probe_and_never_wedges() {
    loom::model(|| {
        let (breaker, start) = (breaker(1), now());
        breaker.try_admit_at(start).unwrap().resolve_at(Verdict::Failure, start);
        let later = start + SECOND;
        let running = Arc::new(loom::sync::atomic::AtomicUsize::new(0));
        let probe = move |breaker: Breaker, running: Arc<loom::sync::atomic::AtomicUsize>| {
            if let Ok(permit) = breaker.try_admit_at(later) {
                let before = running.fetch_add(1, loom::sync::atomic::Ordering::SeqCst);
                assert_eq!(before, 0, "a second probe runs");
                running.fetch_sub(1, loom::sync::atomic::Ordering::SeqCst);
                drop(permit);
            }
        };
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let (breaker, running) = (breaker.clone(), running.clone());
                model_thread::spawn(move || probe(breaker, running))
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        assert!(breaker.try_admit_at(later).is_ok(), "all slots are back");
    });
}

/// CB4: the verdict of a call from before the opening changes nothing afterwards.
#[test]
fn verdicts_of_an_older_generation_change_nothing() {
    loom::model(|| {
        let (breaker, start) = (breaker(1), now());
        let late = breaker.try_admit_at(start).unwrap();
        let straggler = model_thread::spawn(move || late.resolve_at(Verdict::Success, start));
        breaker.try_admit_at(start).unwrap().resolve_at(Verdict::Failure, start);
        assert_eq!(breaker.state(), BreakerState::Open);
        straggler.join().unwrap();
        assert_eq!(breaker.state(), BreakerState::Open);
    });
}

/// SE1: never a third of two permits, and all of them come back.
#[test]
fn two_permits_are_never_three() {
    loom::model(|| {
        let permits = Permits::counted(2).unwrap();
        let held = Arc::new(loom::sync::atomic::AtomicUsize::new(0));
        let take = {
            let (permits, held) = (permits.clone(), held.clone());
            move || {
                if let Some(permit) = permits.try_acquire(ByteSize(0)) {
                    let before = held.fetch_add(1, loom::sync::atomic::Ordering::SeqCst);
                    assert!(before < 2, "a third permit");
                    held.fetch_sub(1, loom::sync::atomic::Ordering::SeqCst);
                    drop(permit);
                }
            }
        };
        let callers: Vec<_> = (0..2).map(|_| model_thread::spawn(take.clone())).collect();
        take();
        for caller in callers {
            caller.join().unwrap();
        }
        assert_eq!(permits.in_flight(), (0, ByteSize(0)));
    });
}

/// The limit's compare-and-swap loses and doubles nothing.
#[test]
fn a_limit_admits_exactly_its_burst() {
    loom::model(|| {
        let now = now();
        let limit = Limit::new(Rate::new(SECOND, 2).unwrap(), now);
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let limit = limit.clone();
                model_thread::spawn(move || {
                    (0..2).filter(|_| limit.try_take(1, now).is_ok()).count()
                })
            })
            .collect();
        let admitted: usize = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
        assert_eq!(admitted, 2);
    });
}

/// Single flight: whoever asks for a key at the same time gets the same guard, made once.
#[test]
fn a_registry_hands_everyone_the_same_guard() {
    loom::model(|| {
        let registry = Arc::new(Registry::<&str, u32, u32>::new(2, |_| true).unwrap());
        let made = Arc::new(loom::sync::atomic::AtomicUsize::new(0));
        let ask = {
            let (registry, made) = (registry.clone(), made.clone());
            move || {
                let make = |config: &u32| {
                    made.fetch_add(1, loom::sync::atomic::Ordering::SeqCst);
                    Ok(*config)
                };
                registry.get_or_make(&"key", 7, make).unwrap()
            }
        };
        let other = model_thread::spawn(ask.clone());
        let (first, second) = (ask(), other.join().unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(made.load(loom::sync::atomic::Ordering::SeqCst), 1);
    });
}

/// Hand-off: a guard that makes room for another key is one that nobody holds.
#[test]
fn a_registry_never_takes_a_held_guard_away() {
    loom::model(|| {
        let registry = Arc::new(Registry::<&str, u32, u32>::new(1, |_| true).unwrap());
        let rival = {
            let registry = registry.clone();
            model_thread::spawn(move || match registry.get_or_make(&"b", 2, |n| Ok(*n)) {
                Ok(held) => assert!(Arc::ptr_eq(&held, &registry.get(&"b").unwrap())),
                Err(error) => assert_eq!(error, RegistryError::Full { capacity: 1 }),
            })
        };
        if let Ok(held) = registry.get_or_make(&"a", 1, |n| Ok(*n)) {
            let again = registry.get_or_make(&"a", 1, |n| Ok(*n)).unwrap();
            assert!(Arc::ptr_eq(&held, &again));
        }
        rival.join().unwrap();
        assert!(registry.keys().len() <= 1);
        assert!(registry.get_or_make(&"c", 3, |n| Ok(*n)).is_ok(), "nobody holds one any more");
    });
}

/// BW: of two pauses the longer one holds, and a success cannot erase what it has not seen.
#[test]
fn a_window_is_never_shortened_by_a_race() {
    loom::model(|| {
        let (window, now) = (Window::new(Duration::ZERO), now());
        window.set(now, SECOND);
        let seen = window.observe();
        let (setter, success) = (window.clone(), window.clone());
        let setter = model_thread::spawn(move || setter.set(now, 30 * SECOND));
        let success = model_thread::spawn(move || success.clear(seen));
        window.set(now, 20 * SECOND);
        setter.join().unwrap();
        success.join().unwrap();
        assert_eq!(window.active(now), Some(now + 30 * SECOND));
    });
}

/// Budgets are shared by all calls to a target; nobody spends what another has spent.
#[test]
fn a_budget_is_spent_once() {
    loom::model(|| {
        let budget = Budget::new(0, 1).unwrap();
        let other = budget.clone();
        let rival = model_thread::spawn(move || other.try_retry());
        let mine = budget.try_retry();
        assert!(mine ^ rival.join().unwrap(), "exactly one retry");
    });
}
