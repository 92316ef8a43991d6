//! What the guards cost when nothing stands in the way, beside what others cost. `bench/README.md`
//! says how to run and read this.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement prints its result")]

#[path = "../../../bench/ratio.rs"]
mod ratio;

use std::convert::Infallible;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt as _;
use governor::{Quota, RateLimiter};
use ratio::Sides;
use snakehouse_base::{Backoff, ByteSize, Chance, Jitter};
use snakehouse_guard::{Breaker, BreakerConfig, Limit, Permits, Rate};
use snakehouse_testkit::race;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::JoinSet; // audit(spawn): joined by `hand_offs`
use tokio::time::Instant;
use tower::{Service as _, ServiceBuilder, ServiceExt as _};

const NOTHING: ByteSize = ByteSize(0);
const PER_SECOND: u32 = 1_000_000_000;

/// So many iterations of `once`, timed.
fn timed(iterations: u64, mut once: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..iterations {
        once();
    }
    start.elapsed()
}

fn uncontended(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("uncontended");
    let mut sides = Sides::default();
    let breaker = Breaker::new("service", BreakerConfig::default()).unwrap();
    let rate = Rate::new(Duration::from_nanos(1), u64::from(PER_SECOND)).unwrap();
    let limit = Limit::new(rate, Instant::now().into_std());
    let permits = Permits::counted(64).unwrap();
    sides.measure(&mut group, "breaker + limit + permit", |n| {
        timed(n, || {
            let admitted = breaker.try_admit().unwrap();
            limit.try_take(1, Instant::now().into_std()).unwrap();
            drop(black_box(permits.try_acquire(NOTHING).unwrap()));
            admitted.success();
        })
    });
    sides.measure(&mut group, "breaker", |n| {
        timed(n, || black_box(breaker.try_admit().unwrap()).success())
    });
    sides.measure(&mut group, "limit", |n| {
        timed(n, || limit.try_take(1, Instant::now().into_std()).unwrap())
    });
    sides.measure(&mut group, "permit", |n| {
        timed(n, || drop(black_box(permits.try_acquire(NOTHING).unwrap())))
    });

    let law = Backoff::new(Duration::from_millis(500), Duration::from_secs(10), Jitter::Half);
    let (law, chance, mut attempt) = (law.unwrap(), Chance::seeded(1), 0u32);
    sides.measure(&mut group, "back-off delay", |n| {
        timed(n, || {
            attempt = (attempt + 1) % 16;
            black_box(law.delay(attempt, chance.next_unit()));
        })
    });

    let quota = Quota::per_second(NonZeroU32::new(PER_SECOND).unwrap());
    let governor = RateLimiter::direct(quota);
    let semaphore = Arc::new(Semaphore::new(64));
    sides.measure(&mut group, "governor", |n| timed(n, || governor.check().unwrap()));
    sides.measure(&mut group, "tokio semaphore", |n| {
        timed(n, || drop(black_box(semaphore.clone().try_acquire_owned().unwrap())))
    });
    sides.measure(&mut group, "governor + tokio semaphore", |n| {
        timed(n, || {
            governor.check().unwrap();
            drop(black_box(semaphore.clone().try_acquire_owned().unwrap()));
        })
    });
    // Its rate limit makes a timer.
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    let mut tower = ServiceBuilder::new()
        .concurrency_limit(64)
        .rate_limit(u64::MAX, Duration::from_secs(3600))
        .service(tower::service_fn(|()| async { Ok::<_, Infallible>(()) }));
    sides.measure(&mut group, "tower rate + concurrency limit", |n| {
        timed(n, || {
            let ready = tower.ready().now_or_never().unwrap().unwrap();
            ready.call(()).now_or_never().unwrap().unwrap();
        })
    });
    group.finish();
    sides.print("uncontended, per call", "ns", "breaker + limit + permit");
}

/// Sixteen threads on one guard: the time until all are done, divided by the number of calls.
fn contended(criterion: &mut Criterion) {
    const THREADS: usize = 16;
    let mut group = criterion.benchmark_group("sixteen threads");
    let mut sides = Sides::default();
    let all = |n: u64, once: &(dyn Fn() + Sync)| {
        let each = n.div_ceil(THREADS as u64);
        let start = Instant::now();
        race(THREADS, |_| (0..each).for_each(|_| once()));
        start.elapsed()
    };
    let breaker = Breaker::new("service", BreakerConfig::default()).unwrap();
    sides.measure(&mut group, "breaker", |n| {
        all(n, &|| black_box(breaker.try_admit().unwrap()).success())
    });
    let rate = Rate::new(Duration::from_nanos(1), u64::from(PER_SECOND)).unwrap();
    let limit = Limit::new(rate, Instant::now().into_std());
    sides.measure(&mut group, "limit", |n| {
        all(n, &|| limit.try_take(1, Instant::now().into_std()).unwrap())
    });
    let permits = Permits::counted(64).unwrap();
    sides.measure(&mut group, "permit", |n| {
        all(n, &|| drop(black_box(permits.try_acquire(NOTHING).unwrap())))
    });
    let quota = Quota::per_second(NonZeroU32::new(PER_SECOND).unwrap());
    let governor = RateLimiter::direct(quota);
    sides.measure(&mut group, "governor", |n| all(n, &|| governor.check().unwrap()));
    let semaphore = Arc::new(Semaphore::new(64));
    sides.measure(&mut group, "tokio semaphore", |n| {
        all(n, &|| drop(black_box(semaphore.clone().try_acquire_owned().unwrap())))
    });
    group.finish();
    sides.print("sixteen threads on one guard, per call", "ns", "breaker");
}

/// One permit goes to and fro between two tasks: from the release by one to the start of the other.
fn hand_off(_: &mut Criterion) {
    let mut sides = Sides::default();
    let permits = Permits::counted(1).unwrap();
    let ours = hand_offs(move || {
        let permits = permits.clone();
        async move { permits.acquire(NOTHING).await }
    });
    let semaphore = Arc::new(Semaphore::new(1));
    let theirs = hand_offs(move || {
        let semaphore = semaphore.clone();
        async move { semaphore.acquire_owned().await.unwrap() }
    });
    for (name, mut took) in [("permit", ours), ("tokio semaphore", theirs)] {
        took.sort();
        for (what, percent) in [("p50", 50), ("p99", 99)] {
            let nanos = took[took.len() * percent / 100].as_secs_f64() * 1e9;
            sides.note(&format!("{name}, {what}"), nanos);
        }
    }
    sides.print("hand-off to a waiting task, two worker threads", "ns", "permit, p50");
}

#[expect(clippy::disallowed_methods, reason = "joined right here")]
fn hand_offs<P, F>(acquire: impl Fn() -> F + Clone + Send + Sync + 'static) -> Vec<Duration>
where
    P: Send + 'static,
    F: Future<Output = P> + Send + 'static,
{
    let runtime = Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let released = Arc::new(Mutex::new(None::<(usize, Instant)>));
    runtime.block_on(async move {
        let mut players = JoinSet::new(); // audit(spawn): joined right below
        for own in 0..2 {
            players.spawn(play(own, acquire.clone(), released.clone()));
        }
        players.join_all().await.concat()
    })
}

async fn play<P, F: Future<Output = P>>(
    own: usize,
    acquire: impl Fn() -> F,
    released: Arc<Mutex<Option<(usize, Instant)>>>,
) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..20_000 {
        let permit = acquire().await;
        let now = Instant::now();
        let last = released.lock().unwrap().take();
        // Only what went from the one to the other is a hand-off.
        took.extend(last.filter(|(by, _)| *by != own).map(|(_, at)| now - at));
        tokio::task::yield_now().await;
        *released.lock().unwrap() = Some((own, Instant::now()));
        drop(permit);
    }
    took
}

criterion_group!(benches, uncontended, contended, hand_off);
criterion_main!(benches);
