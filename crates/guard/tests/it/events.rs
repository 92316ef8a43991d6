//! What guards tell: every event of the catalogue, from its guard, in order; and nothing that
//! listens disturbs a call.

use std::future::pending;
use std::sync::{Arc, Barrier};
use std::time::{Duration, SystemTime};

use snakehouse_base::{Backoff, ByteSize, Chance, Deadline, Jitter, Kind};
use snakehouse_guard::{
    Advice, Breaker, BreakerConfig, BreakerState, Budget, Dispatch, DispatchConfig, KeyedLimit,
    Limit, Permits, Poll, PollProfile, Poller, Rate, Registry, Retry, Trip, Window, event, http,
};
use snakehouse_testkit::{Recorder, race, virtual_time};
use tokio::time::{Instant, sleep, timeout};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::failure::{DOWN, Failure, by_table};

const SECOND: Duration = Duration::from_secs(1);
const KIB: ByteSize = ByteSize::kib(1);

fn law() -> Backoff {
    Backoff::new(SECOND, SECOND, Jitter::None).unwrap()
}

fn tripping(failures: u32) -> Breaker {
    let trip = Trip::Consecutive(failures);
    let config = BreakerConfig { trip, open: law(), ..BreakerConfig::default() };
    Breaker::with_chance("service", config, Chance::seeded(1)).unwrap()
}

async fn retries() {
    let retry = Retry::new(law()).retries(1);
    let first_fails = |n| async move { if n == 0 { Err(DOWN) } else { Ok(()) } };
    retry.run(Deadline::never(), first_fails, by_table).await.unwrap();
    let fails = |_| async { Err::<(), _>(DOWN) };
    retry.run(Deadline::never(), fails, by_table).await.unwrap_err();
    let hangs = retry.run(Deadline::never(), |_| pending::<Result<(), Failure>>(), by_table);
    timeout(SECOND, hangs).await.unwrap_err();
    let poor = retry.budget(Budget::new(0, 1).unwrap());
    for _ in 0..2 {
        poor.run(Deadline::never(), fails, by_table).await.unwrap_err();
    }
}

async fn polls() {
    let poller = Poller::new(Retry::new(law()), PollProfile::Paced);
    let second_time = |n| async move {
        if n == 0 { Poll::<_, Failure>::Pending { mark: 0 } } else { Poll::Done(()) }
    };
    poller.run(Deadline::never(), second_time, by_table).await.unwrap();
    let refused = |_| async { Poll::<(), _>::Failed(Failure(Kind::NotFound)) };
    poller.run(Deadline::never(), refused, by_table).await.unwrap_err();
    let hangs = poller.run(Deadline::never(), |_| pending::<Poll<(), Failure>>(), by_table);
    timeout(SECOND, hangs).await.unwrap_err();
}

async fn headers() {
    let read = |value: &str| {
        http::Hints::read([("retry-after", value.as_bytes())], SystemTime::UNIX_EPOCH).after
    };
    assert_eq!(read("Sat, 21 Nov 2026 12:00:00 GMT"), read("Mon, 21 Nov 2026 12:00:00 GMT"));
    let late = Advice::RetryAfter(120 * SECOND);
    let retry = Retry::new(law()).retries(1);
    let fails = |_| async { Err::<(), _>(DOWN) };
    retry.run(Deadline::never(), fails, |_| late).await.unwrap_err();
}

async fn breakers() {
    let breaker = tripping(1);
    let late = breaker.try_admit().unwrap();
    breaker.try_admit().unwrap().failure();
    breaker.try_admit().unwrap_err();
    late.success();
    sleep(SECOND).await;
    drop(breaker.try_admit().unwrap());
    breaker.try_admit().unwrap().success();
    assert_eq!(breaker.late(), 1);
}

async fn limits() {
    let now = Instant::now().into_std();
    let rate = Rate::new(SECOND, 1).unwrap();
    let limit = Limit::new(rate, now);
    limit.try_take(1, now).unwrap();
    limit.try_take(1, now).unwrap_err();
    limit.take(1, Deadline::never()).await.unwrap();
    let keyed = KeyedLimit::new(rate, 1, now).unwrap();
    keyed.try_take(&"a", 1, now).unwrap();
    keyed.try_take(&"a", 1, now).unwrap_err();
    keyed.try_take(&"b", 1, now).unwrap_err();
}

async fn permits() {
    let permits = Permits::counted(1).unwrap();
    let held = permits.acquire(KIB).await;
    timeout(SECOND, permits.acquire(KIB)).await.unwrap_err();
    let (granted, ()) = tokio::join!(permits.acquire(KIB), async { drop(held) });
    drop(granted);
}

async fn windows() {
    let dispatch = Dispatch::new(DispatchConfig::default(), Window::new(SECOND)).unwrap();
    dispatch.throttle(SECOND);
    dispatch.succeeded(dispatch.observe());
    sleep(60 * SECOND).await;
    drop(dispatch.admit(KIB, Deadline::never()).await);
}

async fn registries() {
    let registry: Registry<&str, u32, u32> = Registry::new(1, |_| true).unwrap();
    drop(registry.get_or_make(&"a", 1, |n| Ok(*n)).unwrap());
    let _held = registry.get_or_make(&"b", 1, |n| Ok(*n)).unwrap();
    registry.get_or_make(&"c", 1, |n| Ok(*n)).unwrap_err();
}

/// What `guard` tells.
fn told(guard: impl Future<Output = ()>) -> Vec<&'static str> {
    let recorder = Recorder::of(event::TARGET);
    recorder.during(|| virtual_time(guard));
    recorder.names()
}

#[test]
fn every_guard_tells_its_story_and_the_catalogue_is_complete() {
    let stories = [
        (
            told(retries()),
            vec![
                "guard.retry.started",
                "guard.retry.paused",
                "guard.retry.succeeded",
                "guard.retry.started",
                "guard.retry.paused",
                "guard.retry.gave_up",
                "guard.retry.started",
                "guard.retry.dropped",
                "guard.retry.started",
                "guard.retry.paused",
                "guard.retry.gave_up",
                "guard.retry.started",
                "guard.budget.spent",
                "guard.retry.gave_up",
            ],
        ),
        (
            told(polls()),
            vec![
                "guard.poll.started",
                "guard.poll.paused",
                "guard.poll.succeeded",
                "guard.poll.started",
                "guard.poll.gave_up",
                "guard.poll.started",
                "guard.poll.dropped",
            ],
        ),
        (
            told(headers()),
            vec![
                "guard.http.odd_date",
                "guard.retry.started",
                "guard.retry.clipped",
                "guard.retry.paused",
                "guard.retry.clipped",
                "guard.retry.gave_up",
            ],
        ),
        (
            told(breakers()),
            vec![
                "guard.breaker.opened",
                "guard.breaker.refused",
                "guard.breaker.late",
                "guard.breaker.half_open",
                "guard.breaker.abandoned",
                "guard.breaker.closed",
            ],
        ),
        (
            told(limits()),
            vec![
                "guard.limit.refused",
                "guard.limit.waiting",
                "guard.limit.granted",
                "guard.limit.refused",
                "guard.limit.keys_full",
            ],
        ),
        (
            told(permits()),
            vec![
                "guard.permit.admitted",
                "guard.permit.waiting",
                "guard.permit.left",
                "guard.permit.waiting",
                "guard.permit.released",
                "guard.permit.granted",
                "guard.permit.released",
            ],
        ),
        (
            told(windows()),
            vec![
                "guard.window.set",
                "guard.dispatch.throttled",
                "guard.window.cleared",
                "guard.dispatch.recovered",
                "guard.permit.admitted",
                "guard.permit.released",
            ],
        ),
        (
            told(registries()),
            vec![
                "guard.registry.made",
                "guard.registry.evicted",
                "guard.registry.made",
                "guard.registry.full",
            ],
        ),
    ];
    let mut seen: Vec<_> = stories.iter().flat_map(|(story, _)| story.clone()).collect();
    for (story, expected) in stories {
        assert_eq!(story, expected);
    }
    seen.sort_unstable();
    seen.dedup();
    let mut catalogue = event::NAMES.to_vec();
    catalogue.sort_unstable();
    assert_eq!(seen, catalogue, "told and listed, both ways");
}

#[test]
fn the_changes_of_a_breaker_are_told_once_each_and_in_order() {
    let recorder = Recorder::of(event::TARGET);
    recorder.during(|| {
        virtual_time(async {
            let breaker = tripping(2);
            for _ in 0..3 {
                while let Ok(permit) = breaker.try_admit() {
                    permit.failure();
                }
                sleep(SECOND).await;
            }
            breaker.try_admit().unwrap().success();
        });
    });
    let changes: Vec<_> = recorder
        .events()
        .into_iter()
        .filter_map(|told| Some((told.name, told.fields.get("generation")?.parse().ok()?)))
        .collect();
    let expected = [
        ("guard.breaker.opened", 1),
        ("guard.breaker.half_open", 2),
        ("guard.breaker.opened", 3),
        ("guard.breaker.half_open", 4),
        ("guard.breaker.opened", 5),
        ("guard.breaker.half_open", 6),
        ("guard.breaker.closed", 7),
    ];
    assert_eq!(changes, expected);
}

/// A subscriber that does something at each event.
struct Nuisance<F>(F);

impl<F: Fn(&'static str) + 'static> Subscriber for Nuisance<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == event::TARGET
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        (self.0)(event.metadata().name());
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// TE1: also in a destructor that runs because of another panic.
#[test]
fn a_subscriber_that_panics_disturbs_no_call() {
    let panicking = Nuisance(|name| panic!("planted, at {name}"));
    tracing::subscriber::with_default(panicking, || {
        virtual_time(async {
            retries().await;
            polls().await;
            headers().await;
            breakers().await;
            limits().await;
            permits().await;
            windows().await;
            registries().await;
            let permits = Permits::counted(1).unwrap();
            let held = permits.acquire(KIB).await;
            let unwinding = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let _held = held;
                panic!("planted, while a permit is held");
            }));
            assert!(unwinding.is_err());
            assert_eq!(permits.in_flight().0, 0);
        });
    });
}

/// TE1: whoever is told holds nothing that others need.
#[test]
fn a_subscriber_that_takes_its_time_holds_up_nobody_else() {
    let (permits, breaker) = (Permits::counted(1).unwrap(), tripping(1));
    // Reached by the one inside its subscriber and by the other after its own calls.
    let done = Arc::new(Barrier::new(2));
    race(2, |thread| {
        if thread == 0 {
            let told = done.clone();
            let slow = Nuisance(move |name| {
                if matches!(name, "guard.permit.released" | "guard.breaker.opened") {
                    told.wait();
                    told.wait();
                }
            });
            tracing::subscriber::with_default(slow, || {
                drop(permits.try_acquire(KIB).unwrap());
                breaker.try_admit().unwrap().failure();
            });
        } else {
            done.wait();
            drop(permits.try_acquire(KIB).expect("the one told of its release has released"));
            done.wait();
            done.wait();
            assert_eq!(breaker.state(), BreakerState::Open);
            done.wait();
        }
    });
}
