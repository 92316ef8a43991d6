//! Guards together, around calls that fail, hang and are held up by a seeded plan.

use std::time::Duration;

use futures_util::future::join_all;
use snakehouse_base::{Backoff, ByteSize, Chance, Deadline, Jitter, Kind};
use snakehouse_guard::{Breaker, BreakerConfig, BreakerState, Permits, Retry, Verdict};
use snakehouse_testkit::{Chaos, Fault, Faults, for_each_seed, virtual_time_prompt};
use tokio::time::{sleep, timeout};

use crate::failure::{DOWN, Failure, by_table};

const SECOND: Duration = Duration::from_secs(1);

/// Where a call can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// Before it holds anything.
    Connect,
    /// With a permit and the breaker's admission in hand.
    Serve,
}

/// Whatever happens when: every call ends well, everything held comes back, and nobody holds the
/// thread.
#[test]
fn every_call_gets_through_a_seeded_plan_of_faults_and_everything_comes_back() {
    for_each_seed(50, |chance| {
        let points = [Point::Connect, Point::Serve];
        let kinds = [Fault::Fail, Fault::Hang, Fault::Delay(3 * SECOND)];
        let plan = Chaos::draw(&chance, &points, &kinds, 60, 120 * SECOND);
        virtual_time_prompt(async |watch| {
            let faults = Faults::new(plan.clone());
            let config = BreakerConfig::default();
            let seeded = || Chance::seeded(chance.next_u64());
            let breaker = Breaker::with_chance("service", config, seeded()).unwrap();
            let permits = Permits::new(4, ByteSize(100)).unwrap();
            let pause = Backoff::new(SECOND, 10 * SECOND, Jitter::Half).unwrap();
            let retry = Retry::new(pause).chance(seeded());
            let attempt = async |bytes: ByteSize| {
                faults.pass(Point::Connect).await.map_err(|_| DOWN)?;
                let _permit = permits.acquire(bytes).await;
                let serve = async {
                    let served = timeout(10 * SECOND, faults.pass(Point::Serve)).await;
                    matches!(served, Ok(Ok(())))
                };
                let judge = |served: &bool| match served {
                    true => Verdict::Success,
                    false => Verdict::Failure,
                };
                match breaker.guard(serve, judge).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(DOWN),
                    Err(_) => Err(Failure(Kind::Saturated)),
                }
            };
            let calls = (0..200u64).map(|n| {
                let (begin, bytes) = (Duration::from_secs(n / 2), ByteSize(chance.next_u64() % 60));
                let (retry, attempt) = (&retry, &attempt);
                let bounded = move |_| async move {
                    let cut = timeout(20 * SECOND, attempt(bytes)).await;
                    cut.unwrap_or(Err(DOWN))
                };
                watch.future("a call", async move {
                    sleep(begin).await;
                    retry.run(Deadline::never(), bounded, by_table).await.unwrap();
                })
            });
            join_all(calls).await;
            assert!(faults.happened().len() > 20, "the plan was felt: {:?}", faults.happened());
            assert_eq!((permits.in_flight(), permits.waiting()), ((0, ByteSize(0)), 0));
            assert_eq!(breaker.state(), BreakerState::Closed);
        });
    });
}
