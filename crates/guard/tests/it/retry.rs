//! Retry: RT1 to RT8 of the primitives' criteria.

use std::cell::Cell;
use std::future::pending;
use std::time::Duration;

use proptest::prelude::*;
use snakehouse_base::{Backoff, Chance, Coded as _, Deadline, Jitter, Kind};
use snakehouse_guard::{Advice, Budget, Progress, Reason, Retry};
use snakehouse_testkit::virtual_time;
use tokio::time::{Instant, sleep};

use crate::failure::{DOWN, Failure, by_table};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn plain() -> Backoff {
    Backoff::new(Duration::from_millis(500), 10 * SECOND, Jitter::None).unwrap()
}

fn within(time: Duration) -> Deadline {
    Deadline::after(Instant::now().into_std(), time)
}

proptest! {
    /// Calls = min(first success, retries + 1); total pause = the sum of the law's delays.
    #[test]
    fn attempts_and_pauses_are_exact(success_at in 0u32..12, retries in 0u32..12) {
        virtual_time(async {
            let start = Instant::now();
            let calls = Cell::new(0);
            let retry = Retry::new(plain()).retries(retries);
            let outcome = retry
                .run(
                    Deadline::never(),
                    |n| {
                        calls.set(calls.get() + 1);
                        async move { if n == success_at { Ok(n) } else { Err(DOWN) } }
                    },
                    by_table,
                )
                .await;
            let expected = success_at.min(retries) + 1;
            assert_eq!(calls.get(), expected);
            assert_eq!(outcome.is_ok(), success_at <= retries);
            let pauses: Duration = (0..expected - 1).map(|n| plain().delay(n, 0.0)).sum();
            assert_eq!(start.elapsed(), pauses);
        });
    }
}

#[test]
fn a_hanging_attempt_alone_in_its_pool_is_cancelled_at_the_progress_limit() {
    virtual_time(async {
        let start = Instant::now();
        let progress = Progress::default();
        // Heartbeats of the same client succeed all the time; they share no progress.
        let heartbeats = Retry::new(plain());
        let beat = async {
            loop {
                let beat = heartbeats.run(Deadline::never(), |_| async { Ok(()) }, by_table);
                assert!(beat.await.is_ok());
                sleep(10 * SECOND).await;
            }
        };
        let stuck = Retry::new(plain()).progress(progress);
        let call = stuck.run(
            Deadline::never(),
            |n| async move { if n == 0 { Err::<(), _>(DOWN) } else { pending().await } },
            by_table,
        );
        let gave_up = tokio::select! {
            () = beat => unreachable!("heartbeats go on"),
            outcome = call => outcome.unwrap_err(),
        };
        assert_eq!(gave_up.reason, Reason::NoProgress);
        assert_eq!(gave_up.last, Some(DOWN), "the last error is kept");
        assert_eq!(start.elapsed(), 120 * MINUTE);
        assert_eq!(gave_up.attempts, 2);
    });
}

#[test]
fn progress_of_any_call_in_the_pool_extends_everyones_limit() {
    virtual_time(async {
        let start = Instant::now();
        let retry = Retry::new(plain()).progress(Progress::default());
        let slow = retry.run(
            Deadline::never(),
            |_| async {
                sleep(300 * MINUTE).await;
                Ok::<_, Failure>("done")
            },
            by_table,
        );
        let others = async {
            for _ in 0..3 {
                sleep(80 * MINUTE).await;
                let other = retry.run(Deadline::never(), |_| async { Ok(()) }, by_table);
                assert!(other.await.is_ok());
            }
        };
        let (slow, ()) = tokio::join!(slow, others);
        assert_eq!(slow.unwrap(), "done");
        assert_eq!(start.elapsed(), 300 * MINUTE);
    });
}

#[test]
fn slow_saves_succeed_within_the_progress_limit() {
    for minutes in [31, 45, 60, 119] {
        virtual_time(async {
            let retry = Retry::new(plain()).progress(Progress::default());
            let save = retry.run(
                Deadline::never(),
                |_| async {
                    sleep(minutes * MINUTE).await;
                    Ok::<_, Failure>(())
                },
                by_table,
            );
            assert!(save.await.is_ok(), "{minutes} minutes");
        });
    }
}

#[test]
fn the_deadline_cuts_an_attempt_and_no_pause_outlasts_it() {
    virtual_time(async {
        let start = Instant::now();
        let hanging = Retry::new(plain())
            .run(within(7 * SECOND), |_| pending::<Result<(), Failure>>(), by_table)
            .await
            .unwrap_err();
        assert_eq!((hanging.reason, hanging.last), (Reason::Deadline, None));
        assert_eq!(start.elapsed(), 7 * SECOND);

        let start = Instant::now();
        let failing = Retry::new(plain())
            .run(within(7 * SECOND), |_| async { Err::<(), _>(DOWN) }, by_table)
            .await
            .unwrap_err();
        assert_eq!((failing.reason, failing.kind()), (Reason::Deadline, Kind::Deadline));
        // Attempts at 0, 0.5, 1.5, 3.5; the next one would be at 7.5.
        assert_eq!(start.elapsed(), Duration::from_millis(3500));
        assert_eq!(failing.attempts, 4);
        assert_eq!(failing.kinds, [("unavailable", 4)].into());
    });
}

#[test]
fn a_success_at_the_very_end_is_a_success() {
    virtual_time(async {
        let outcome = Retry::new(plain())
            .run(
                within(7 * SECOND),
                |_| async {
                    sleep(7 * SECOND).await;
                    Ok::<_, Failure>(1)
                },
                by_table,
            )
            .await;
        assert_eq!(outcome.unwrap(), 1);
    });
}

#[test]
fn what_cannot_be_repeated_is_not() {
    virtual_time(async {
        for (kind, idempotent, attempts) in [
            (Kind::InvalidInput, true, 1),
            (Kind::WorkerDied, false, 1),
            (Kind::WorkerDied, true, 3),
            (Kind::Saturated, false, 3),
        ] {
            let gave_up = Retry::new(plain())
                .retries(2)
                .run(
                    Deadline::never(),
                    |_| async move { Err::<(), _>(Failure(kind)) },
                    |failure: &Failure| Advice::of_kind(failure.0, idempotent),
                )
                .await
                .unwrap_err();
            assert_eq!(gave_up.attempts, attempts, "{kind} {idempotent}");
        }
    });
}

#[test]
fn the_servers_pause_is_kept_up_to_the_ceiling_and_spread_but_never_shortened() {
    virtual_time(async {
        for (asked, seed) in [(3u64, 1), (20, 2), (86_400, 3)] {
            let start = Instant::now();
            let retry = Retry::new(plain()).chance(Chance::seeded(seed));
            let outcome = retry
                .run(
                    Deadline::never(),
                    |n| async move { if n == 0 { Err(DOWN) } else { Ok(()) } },
                    |_| Advice::RetryAfter(Duration::from_secs(asked)),
                )
                .await;
            assert!(outcome.is_ok());
            let kept = Duration::from_secs(asked.min(60));
            assert!(start.elapsed() >= kept, "asked {asked}: {:?}", start.elapsed());
            assert!(start.elapsed() <= kept + SECOND.min(kept / 4), "asked {asked}");
        }
    });
}

#[test]
fn dropping_the_call_stops_it_mid_attempt_and_mid_pause() {
    virtual_time(async {
        let calls = Cell::new(0);
        let retry = Retry::new(plain());
        let call = retry.run(
            Deadline::never(),
            |_| {
                calls.set(calls.get() + 1);
                async { Err::<(), _>(DOWN) }
            },
            by_table,
        );
        assert!(tokio::time::timeout(2 * SECOND, call).await.is_err());
        let made = calls.get();
        sleep(MINUTE).await;
        assert_eq!((made, calls.get()), (3, 3));
    });
}

#[test]
fn a_budget_bounds_the_load_of_retries_when_everything_fails() {
    virtual_time(async {
        let calls = Cell::new(0u32);
        let budget = Budget::new(20, 10).unwrap();
        let retry = Retry::new(plain()).retries(5).budget(budget);
        for _ in 0..1000 {
            let failed = retry.run(
                Deadline::never(),
                |_| {
                    calls.set(calls.get() + 1);
                    async { Err::<(), _>(DOWN) }
                },
                by_table,
            );
            assert!(failed.await.is_err());
        }
        assert!(calls.get() <= 1000 + 200 + 10, "{} calls", calls.get());
        assert!(calls.get() >= 1000 + 190, "the budget is used");
    });
}

#[test]
fn a_busy_pool_says_nothing_about_another() {
    virtual_time(async {
        let start = Instant::now();
        let (busy, stuck) = (Progress::default(), Progress::default());
        let busy = Retry::new(plain()).progress(busy);
        let stuck = Retry::new(plain()).progress(stuck);
        let work = async {
            loop {
                sleep(MINUTE).await;
                assert!(busy.run(Deadline::never(), |_| async { Ok(()) }, by_table).await.is_ok());
            }
        };
        let hanging = stuck.run(Deadline::never(), |_| pending::<Result<(), Failure>>(), by_table);
        let gave_up = tokio::select! {
            () = work => unreachable!("it goes on"),
            outcome = hanging => outcome.unwrap_err(),
        };
        assert_eq!(gave_up.reason, Reason::NoProgress);
        assert_eq!(start.elapsed(), 120 * MINUTE);
    });
}
