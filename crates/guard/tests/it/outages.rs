//! A client with the constants of production lives through outages, in virtual time.
//!
//! Each outage runs with 50 seeds; `cargo xtask soak outages` takes 1,000.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use snakehouse_base::{Chance, Deadline, Kind};
use snakehouse_guard::{Advice, GaveUp, Poll, PollProfile, Poller, Progress, Retry};
use snakehouse_testkit::{
    Timeline, Transport, TransportError, Weather, for_each_seed, virtual_time,
};
use tokio::time::{Instant, sleep, timeout};

use crate::failure::{Failure, by_table};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// How long one attempt waits for its answer, beyond what a long poll holds.
const ATTEMPT: Duration = Duration::from_secs(60);

/// What a client makes of one attempt.
async fn attempt<Q, A>(service: &Transport<Q, A>, key: &str, request: Q) -> Result<A, Failure> {
    match timeout(ATTEMPT, service.send(key, request)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(TransportError::Status(status))) => {
            Err(Failure(snakehouse_guard::http::kind_of_status(status)))
        }
        Ok(Err(TransportError::Refused | TransportError::Reset)) | Err(_) => {
            Err(Failure(Kind::Unavailable))
        }
    }
}

/// Several calls around one outage: how many requests the hungriest made.
async fn live_through(outage: Duration, weather: Weather, chance: &Chance) -> usize {
    let line = Timeline::up().spell(10 * SECOND, outage, weather);
    let service = Transport::new(line, |n: &u64| *n);
    let retry =
        Retry::remote().progress(Progress::default()).chance(Chance::seeded(chance.next_u64()));
    let calls = (0..8u64).map(|n| {
        let begin = (20 * SECOND).mul_f64(chance.next_unit());
        let (service, retry, key) = (&service, &retry, format!("call {n}"));
        async move {
            sleep(begin).await;
            let call = retry.run(Deadline::never(), |_| attempt(service, &key, n), by_table);
            assert_eq!(call.await.unwrap(), n);
        }
    });
    join_all(calls).await;
    service.ledger().requests().into_values().max().unwrap_or_default()
}

#[test]
fn every_call_survives_every_outage_with_few_requests() {
    let most = Cell::new(0);
    for weather in [Weather::Refuse, Weather::Status(503), Weather::Hang, Weather::HalfBody] {
        for outage in [5, 30, 60, 120, 300, 600] {
            for_each_seed(50, |chance| {
                let requests = virtual_time(live_through(outage * SECOND, weather, &chance));
                assert!(requests <= 85, "{requests} requests in {outage} s of {weather:?}");
                most.set(most.get().max(requests));
            });
        }
    }
    assert!(most.get() > 50, "the outages were felt: {}", most.get());
}

/// A service with operations that take time: submit is idempotent by key, poll holds up to 45 s.
struct Operations {
    started: Mutex<BTreeMap<u64, Instant>>,
    executed: Mutex<BTreeMap<u64, u32>>,
}

enum Ask {
    Submit(u64),
    Poll(u64),
}

impl Operations {
    const TAKES: Duration = Duration::from_secs(50);

    fn serve(&self, ask: &Ask) -> bool {
        match ask {
            Ask::Submit(n) => {
                let mut started = self.started.lock().unwrap();
                started.entry(*n).or_insert_with(|| {
                    *self.executed.lock().unwrap().entry(*n).or_default() += 1;
                    Instant::now()
                });
                true
            }
            Ask::Poll(n) => self.started.lock().unwrap()[n].elapsed() >= Self::TAKES,
        }
    }
}

#[test]
fn a_four_hour_run_with_a_partition_every_half_hour_completes() {
    for weather in [Weather::Refuse, Weather::Status(503), Weather::Hang, Weather::HalfBody] {
        for_each_seed(50, |chance| {
            virtual_time(async {
                let hours = 4 * 3600 * SECOND;
                let line = Timeline::up().spells_every(
                    &chance,
                    30 * MINUTE,
                    (5 * SECOND, 30 * SECOND),
                    hours,
                    weather,
                );
                let operations =
                    Arc::new(Operations { started: Mutex::default(), executed: Mutex::default() });
                let serving = operations.clone();
                let service = Transport::new(line, move |ask: &Ask| serving.serve(ask));
                let retry = Retry::remote()
                    .progress(Progress::default())
                    .chance(Chance::seeded(chance.next_u64()));
                let poller = Poller::new(retry.clone(), PollProfile::Paced);
                let start = Instant::now();
                let mut steps = 0;
                while start.elapsed() < hours {
                    step(&service, &retry, &poller, steps).await.unwrap();
                    steps += 1;
                }
                assert!(steps >= 230, "{steps} steps of 50 s in four hours");
                let executed = operations.executed.lock().unwrap();
                assert!(executed.values().all(|times| *times == 1), "exactly once each");
                assert_eq!(executed.len() as u64, steps);
            });
        });
    }
}

async fn step(
    service: &Transport<Ask, bool>,
    retry: &Retry,
    poller: &Poller,
    n: u64,
) -> Result<(), GaveUp<Failure>> {
    let never = Deadline::never();
    retry.run(never, |_| attempt(service, "submit", Ask::Submit(n)), by_table).await?;
    let poll = async |_| match attempt(service, "poll", Ask::Poll(n)).await {
        Ok(true) => Poll::Done(()),
        Ok(false) => Poll::Pending { mark: 0 },
        Err(failure) => Poll::Failed(failure),
    };
    poller.run(never, poll, |failure: &Failure| Advice::of_kind(failure.0, true)).await
}
