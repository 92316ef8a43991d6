//! Breaker: CB1 to CB7, in the asynchronous shell.

use std::future::pending;
use std::time::Duration;

use snakehouse_base::Chance;
use snakehouse_guard::{Breaker, BreakerConfig, BreakerState, Trip, Verdict};
use snakehouse_testkit::{race, virtual_time};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

fn breaker(failures: u32) -> Breaker {
    let config = BreakerConfig { trip: Trip::Consecutive(failures), ..BreakerConfig::default() };
    Breaker::with_chance("service", config, Chance::seeded(1)).unwrap()
}

/// Lets the open time pass; the first open time is at most 30 s.
async fn half_open(breaker: &Breaker) {
    while breaker.state() != BreakerState::Open {
        breaker.try_admit().unwrap().failure();
    }
    sleep(30 * SECOND).await;
}

#[test]
fn concurrent_failures_are_counted_exactly() {
    for failures in [15u32, 16] {
        let breaker = breaker(16);
        let now = Instant::now().into_std();
        race(4, |thread| {
            let thread = u32::try_from(thread).unwrap();
            for _ in 0..failures / 4 + u32::from(thread < failures % 4) {
                breaker.try_admit_at(now).unwrap().resolve_at(Verdict::Failure, now);
            }
        });
        let expected = if failures == 16 { BreakerState::Open } else { BreakerState::Closed };
        assert_eq!(breaker.state(), expected, "{failures} failures");
    }
}

#[test]
fn a_dead_service_gets_at_most_one_probe_per_open_time() {
    virtual_time(async {
        let breaker = breaker(5);
        let start = Instant::now();
        let mut probes = Vec::new();
        // 10,000 requests a second would be the same: only admissions matter.
        while start.elapsed() < 3600 * SECOND {
            match breaker.guard(async { Err::<(), ()>(()) }, |_| Verdict::Failure).await {
                Ok(_) => probes.push(start.elapsed()),
                Err(open) => sleep(open.retry_in.min(SECOND)).await,
            }
        }
        let probes = &probes[4..];
        for pair in probes.windows(2) {
            assert!(pair[1] - pair[0] >= 15 * SECOND, "{pair:?}");
        }
        assert!(probes.len() < 20, "open times grow: {}", probes.len());
        let last = probes[probes.len() - 1] - probes[probes.len() - 2];
        assert!(last > 290 * SECOND, "up to ten minutes, half of it jitter: {last:?}");
    });
}

#[test]
fn a_probe_that_is_dropped_or_lost_gives_its_slot_back() {
    virtual_time(async {
        let breaker = breaker(1);
        half_open(&breaker).await;
        let abandoned = breaker.guard(pending::<()>(), |()| Verdict::Success);
        assert!(tokio::time::timeout(SECOND, abandoned).await.is_err());
        let probe = breaker.try_admit().expect("the dropped probe's slot is free");
        assert!(breaker.try_admit().is_err(), "one probe at a time");

        std::mem::forget(probe);
        sleep(60 * SECOND).await;
        breaker.try_admit().expect("the lease has ended").success();
        assert_eq!(breaker.state(), BreakerState::Closed);
    });
}

#[test]
fn a_straggler_from_before_changes_nothing() {
    virtual_time(async {
        let breaker = breaker(1);
        let (late_success, late_failure) =
            (breaker.try_admit().unwrap(), breaker.try_admit().unwrap());
        half_open(&breaker).await;
        let probe = breaker.try_admit().unwrap();
        late_success.success();
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        late_failure.failure();
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert_eq!(breaker.late(), 2, "they are counted");
        probe.success();
        assert_eq!(breaker.state(), BreakerState::Closed);
    });
}

#[test]
fn ignored_outcomes_say_nothing() {
    virtual_time(async {
        let breaker = breaker(2);
        breaker.try_admit().unwrap().failure();
        for _ in 0..1000 {
            breaker.try_admit().unwrap().resolve(Verdict::Ignored);
            drop(breaker.try_admit().unwrap());
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.try_admit().unwrap().failure();
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker.reset();
        assert_eq!(breaker.state(), BreakerState::Closed);
    });
}

/// P4: the call runs in its caller, not in the breaker.
#[test]
fn a_hung_call_holds_up_no_other_circuit_and_no_other_call() {
    virtual_time(async {
        let breakers: Vec<_> = (0..1000).map(|_| breaker(1)).collect();
        let hung = breakers[0].guard(pending::<()>(), |()| Verdict::Success);
        let others = async {
            let start = Instant::now();
            for breaker in &breakers {
                breaker.guard(async {}, |()| Verdict::Success).await.unwrap();
            }
            start.elapsed()
        };
        tokio::select! {
            _ = hung => unreachable!("it hangs"),
            took = others => assert_eq!(took, Duration::ZERO),
        }
    });
}

#[test]
fn rules_without_meaning_are_refused() {
    let refused = |config| Breaker::new("x", config).is_err();
    let sound = BreakerConfig::default();
    assert!(!refused(sound));
    assert!(refused(BreakerConfig { trip: Trip::Consecutive(0), ..sound }));
    assert!(refused(BreakerConfig { trip: Trip::Rate { calls: 10, percent: 101 }, ..sound }));
    assert!(refused(BreakerConfig { probes: 0, ..sound }));
    assert!(refused(BreakerConfig { probe_lease: Duration::ZERO, ..sound }));
}
