//! Poller: PO1 to PO5.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::time::Duration;

use snakehouse_base::{Backoff, Deadline, Jitter, Kind};
use snakehouse_guard::{Poll, PollProfile, Poller, Progress, Reason, Retry};
use snakehouse_testkit::{Process, in_own_process, virtual_time};
use tokio::time::{Instant, sleep};

use crate::failure::{DOWN, Failure, by_table};
use crate::iterations;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn retry() -> Retry {
    Retry::new(Backoff::new(Duration::from_millis(500), 10 * SECOND, Jitter::Half).unwrap())
}

fn paced() -> Poller {
    Poller::new(retry(), PollProfile::Paced)
}

/// Polls for ten minutes against a service that always answers `answer` at once.
fn polls_in_ten_minutes(poller: &Poller, answer: fn() -> Poll<(), Failure>) -> usize {
    virtual_time(async {
        let polls = Cell::new(0);
        let run = poller.run(
            Deadline::never(),
            |_| {
                polls.set(polls.get() + 1);
                async { answer() }
            },
            by_table,
        );
        assert!(tokio::time::timeout(10 * MINUTE, run).await.is_err());
        polls.get()
    })
}

#[test]
fn no_answer_of_the_service_makes_a_busy_loop() {
    let answers: [fn() -> Poll<(), Failure>; 4] = [
        || Poll::Pending { mark: 0 },
        || Poll::Throttled { after: None },
        || Poll::Throttled { after: Some(Duration::ZERO) },
        || Poll::Failed(DOWN),
    ];
    for answer in answers {
        let polls = polls_in_ten_minutes(&paced(), answer);
        assert!((20..=600).contains(&polls), "{polls} polls in ten minutes");
    }
    let parity = Poller::new(retry(), PollProfile::Parity);
    let polls = polls_in_ten_minutes(&parity, || Poll::Pending { mark: 0 });
    assert!(polls <= 60_001, "the floor of 10 ms holds: {polls}");
}

#[test]
fn each_cause_has_its_own_row() {
    virtual_time(async {
        let starts = RefCell::new(Vec::new());
        let outcome = paced()
            .run(
                Deadline::never(),
                |n| {
                    starts.borrow_mut().push(Instant::now());
                    async move {
                        match n {
                            0..30 => Poll::Pending { mark: 7 },
                            30 => Poll::Failed(DOWN),
                            31..33 => Poll::Pending { mark: 7 },
                            33 => Poll::Failed(DOWN),
                            _ => Poll::Done(()),
                        }
                    }
                },
                by_table,
            )
            .await;
        assert!(outcome.is_ok());
        let starts = starts.into_inner();
        let pause = |n: usize| starts[n + 1] - starts[n];
        assert!(pause(29) > 2 * SECOND, "long pending, long pauses");
        for fresh in [30, 33] {
            assert!(pause(fresh) <= SECOND, "a fresh failure is not paid for by the pending row");
        }
    });
}

#[test]
fn a_held_poll_is_its_own_pause_and_completion_is_seen_within_five_seconds() {
    virtual_time(async {
        let start = Instant::now();
        let outcome = paced()
            .run(
                Deadline::never(),
                |_| async move {
                    // A long poll of 45 s; the service is done after ten minutes.
                    let left = (10 * MINUTE).saturating_sub(start.elapsed());
                    sleep(left.min(45 * SECOND)).await;
                    if start.elapsed() >= 10 * MINUTE {
                        Poll::Done(())
                    } else {
                        Poll::<_, Failure>::Pending { mark: 0 }
                    }
                },
                by_table,
            )
            .await;
        assert!(outcome.is_ok());
        assert!(start.elapsed() < 10 * MINUTE + Duration::from_millis(20));

        let start = Instant::now();
        let outcome = paced()
            .run(
                Deadline::never(),
                |_| async move {
                    if start.elapsed() >= 10 * MINUTE {
                        Poll::Done(())
                    } else {
                        Poll::<_, Failure>::Pending { mark: 0 }
                    }
                },
                by_table,
            )
            .await;
        assert!(outcome.is_ok());
        assert!(start.elapsed() <= 10 * MINUTE + 5 * SECOND);
    });
}

#[test]
fn a_changed_answer_is_progress_and_an_equal_one_is_not() {
    virtual_time(async {
        let moving = Poller::new(retry().progress(Progress::default()), PollProfile::Paced);
        let start = Instant::now();
        let outcome = moving
            .run(
                Deadline::never(),
                |_| async move {
                    let hours = start.elapsed().as_secs() / 3600;
                    if hours >= 10 {
                        Poll::Done(())
                    } else {
                        Poll::<_, Failure>::Pending { mark: hours }
                    }
                },
                by_table,
            )
            .await;
        assert!(outcome.is_ok(), "ten hours with an hourly change");

        let standing = Poller::new(retry().progress(Progress::default()), PollProfile::Paced);
        let start = Instant::now();
        let gave_up = standing
            .run(
                Deadline::never(),
                |_| async { Poll::<(), Failure>::Pending { mark: 1 } },
                by_table,
            )
            .await
            .unwrap_err();
        assert_eq!(gave_up.reason, Reason::NoProgress);
        assert_eq!(start.elapsed(), 120 * MINUTE);
    });
}

/// PO4: no poll after the caller has left, wherever the loop was.
#[test]
fn dropping_the_loop_stops_it_mid_poll_and_mid_pause() {
    virtual_time(async {
        for held in [Duration::ZERO, MINUTE] {
            let (polls, poller) = (Cell::new(0), paced());
            let run = poller.run(
                Deadline::never(),
                |_| {
                    polls.set(polls.get() + 1);
                    async move {
                        sleep(held).await;
                        Poll::<(), Failure>::Pending { mark: 0 }
                    }
                },
                by_table,
            );
            assert!(tokio::time::timeout(2 * SECOND, run).await.is_err());
            let made = polls.get();
            sleep(10 * MINUTE).await;
            assert!(made > 0 && polls.get() == made, "{made} polls, then {}", polls.get());
        }
    });
}

/// PO5: polls leave nothing behind, however many.
#[test]
fn many_polls_need_no_more_memory_than_a_few() {
    let name = "poller::many_polls_need_no_more_memory_than_a_few";
    in_own_process(name, || {
        virtual_time(async {
            let poller = Poller::new(retry(), PollProfile::Parity);
            let before = Cell::new(0);
            let poll = |n: u32| {
                if n == 10_000 {
                    before.set(Process::current().resident());
                }
                async move {
                    match n {
                        _ if u64::from(n) >= iterations() => Poll::Done(()),
                        _ if n.is_multiple_of(1000) => Poll::Failed(DOWN),
                        _ => Poll::Pending { mark: u64::from(n / 500) },
                    }
                }
            };
            assert!(poller.run(Deadline::never(), poll, by_table).await.is_ok());
            let grown = Process::current().resident().saturating_sub(before.get());
            assert!(grown < 1 << 20, "{grown} bytes for polls that are over");
        });
    });
}

#[test]
fn a_poll_that_hangs_is_cut_and_a_refusal_is_final() {
    virtual_time(async {
        let start = Instant::now();
        let deadline = Deadline::after(start.into_std(), MINUTE);
        let hung = paced().run(deadline, |_| pending::<Poll<(), Failure>>(), by_table).await;
        assert_eq!(hung.unwrap_err().reason, Reason::Deadline);
        assert_eq!(start.elapsed(), MINUTE);

        let refused = paced()
            .run(
                Deadline::never(),
                |_| async { Poll::<(), _>::Failed(Failure(Kind::NotFound)) },
                by_table,
            )
            .await
            .unwrap_err();
        assert_eq!((refused.reason, refused.attempts), (Reason::NotRetryable, 1));
    });
}
