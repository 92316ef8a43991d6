//! Retry and poller compared with the rules as they read, over any script of answers.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::time::Duration;

use proptest::option;
use proptest::prelude::*;
use snakehouse_base::{Backoff, Chance, Deadline, Jitter, Row};
use snakehouse_guard::{
    Advice, Budget, GaveUp, Poll, PollProfile, Poller, Progress, Reason, Retry,
};
use snakehouse_testkit::virtual_time;
use tokio::time::{Instant, sleep};

use crate::failure::{DOWN, Failure};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// The limits of a call, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Policy {
    retries: Option<u32>,
    patience: Option<u32>,
    deadline: Option<u32>,
    progress: Option<u32>,
    ceiling: u32,
    budget: Option<u32>,
    jitter: Jitter,
}

/// One attempt or poll: how long it takes (`None`: for ever) and what comes of it.
#[derive(Clone, Copy, Debug)]
struct Step {
    takes: Option<u32>,
    answer: Answer,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Done,
    Pending(u64),
    Throttled(Option<u32>),
    Failed(Advice),
}

/// What a call came to: `None` is success.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    reason: Option<Reason>,
    attempts: u32,
    failed: u32,
    elapsed: Duration,
}

fn law(jitter: Jitter) -> Backoff {
    Backoff::new(500 * MS, 10 * SECOND, jitter).unwrap()
}

/// Any moment, or one of those at which something else is likely to happen as well.
fn moment() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..60_000, (0u32..60).prop_map(|n| n * 500), (0u32..9).prop_map(|n| n * 500)]
}

fn policy() -> impl Strategy<Value = Policy> {
    let bound = || option::weighted(0.4, moment());
    let jitter = prop_oneof![Just(Jitter::None), Just(Jitter::Half), Just(Jitter::Decorrelated)];
    let counts = (option::weighted(0.4, 0u32..6), option::weighted(0.3, 1u32..5));
    let progress = option::weighted(0.4, moment().prop_map(|ms| ms.max(1)));
    (counts, bound(), bound(), progress, 0u32..8000, jitter).prop_map(
        |((retries, budget), patience, deadline, progress, ceiling, jitter)| Policy {
            retries,
            patience,
            deadline,
            progress,
            ceiling,
            budget,
            jitter,
        },
    )
}

fn advice() -> impl Strategy<Value = Advice> {
    prop_oneof![
        1 => Just(Advice::Stop),
        6 => Just(Advice::Retry),
        4 => (0u64..10_000).prop_map(|ms| Advice::RetryAfter(Duration::from_millis(ms))),
    ]
}

fn takes() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![4 => Just(Some(0)), 6 => moment().prop_map(|ms| Some(ms / 5)), 1 => Just(None)]
}

fn attempts() -> impl Strategy<Value = Vec<Step>> {
    let answer = prop_oneof![1 => Just(Answer::Done), 6 => advice().prop_map(Answer::Failed)];
    let step = (takes(), answer).prop_map(|(takes, answer)| Step { takes, answer });
    prop::collection::vec(step, 0..12)
}

fn polls() -> impl Strategy<Value = Vec<Step>> {
    let answer = prop_oneof![
        1 => Just(Answer::Done),
        8 => (0u64..3).prop_map(Answer::Pending),
        3 => option::of(0u32..10_000).prop_map(Answer::Throttled),
        4 => advice().prop_map(Answer::Failed),
    ];
    let step = (takes(), answer).prop_map(|(takes, answer)| Step { takes, answer });
    prop::collection::vec(step, 0..25)
}

/// The rules one after the other. `history` is everything that was answered so far.
struct Rules {
    policy: Policy,
    chance: Chance,
    now: Duration,
    progressed: Duration,
    retried: u32,
    row: Row,
    history: Vec<Answer>,
}

impl Rules {
    fn new(policy: Policy, seed: u64) -> Self {
        let (now, progressed) = (Duration::ZERO, Duration::ZERO);
        let (chance, row, history) = (Chance::seeded(seed), Row::default(), Vec::new());
        Self { policy, chance, now, progressed, retried: 0, row, history }
    }

    /// When the call is cut off: by the nearer of patience and deadline, or because it is stuck.
    fn end(&self) -> Option<(Duration, Reason)> {
        let patience = self.policy.patience.map(|ms| (ms * MS, Reason::Patience));
        let deadline = self.policy.deadline.map(|ms| (ms * MS, Reason::Deadline));
        [deadline, patience].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn cut(&self) -> Option<(Duration, Reason)> {
        let stuck = self.policy.progress.map(|ms| (self.progressed + ms * MS, Reason::NoProgress));
        [self.end(), stuck].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Lets time pass, or ends the call. The runtime's timers have whole milliseconds.
    fn pass(&mut self, length: Option<Duration>) -> Result<(), Reason> {
        let until = length.map(|length| {
            let nanos = (self.now + length).as_nanos().div_ceil(1_000_000) * 1_000_000;
            Duration::from_nanos(u64::try_from(nanos).unwrap())
        });
        match (self.cut(), until) {
            (Some((at, reason)), until) if until.is_none_or(|until| until > at) => {
                self.now = self.now.max(at);
                Err(reason)
            }
            (_, Some(until)) => {
                self.now = until;
                Ok(())
            }
            (_, None) => unreachable!("every script that hangs has an end"),
        }
    }

    fn failed_before(&self) -> u32 {
        let row = self.history.iter().rev().take_while(|a| matches!(a, Answer::Failed(_)));
        u32::try_from(row.count()).unwrap()
    }

    /// The pause after a failure.
    fn after_failure(
        &mut self,
        advice: Advice,
        before: u32,
        unit: f64,
    ) -> Result<Duration, Reason> {
        if before == 0 {
            self.row = Row::default();
        }
        let law = law(self.policy.jitter).next(&mut self.row, unit);
        let pause = match advice {
            Advice::Stop => return Err(Reason::NotRetryable),
            Advice::Retry => law,
            Advice::RetryAfter(asked) => {
                let asked = asked.min(self.policy.ceiling * MS);
                law.max(asked + SECOND.min(asked / 4).mul_f64(unit))
            }
        };
        if self.policy.retries == Some(before) {
            return Err(Reason::Attempts);
        }
        match self.end() {
            Some((end, reason)) if self.now + pause >= end => Err(reason),
            _ => Ok(pause),
        }
    }

    fn play(mut self, steps: &[Step], polling: bool) -> Outcome {
        let mut attempts = 0;
        let reason = loop {
            let step = steps.get(usize::try_from(attempts).unwrap());
            let step = step.copied().unwrap_or(LAST);
            attempts += 1;
            let began = self.now;
            if let Err(reason) = self.pass(step.takes.map(|ms| ms * MS)) {
                break Some(reason);
            }
            let unit = self.chance.next_unit();
            let pause = match step.answer {
                Answer::Done => break None,
                Answer::Failed(advice) => {
                    let before = if polling { self.failed_before() } else { attempts - 1 };
                    let pause = self.after_failure(advice, before, unit);
                    let spent = self.policy.budget == Some(self.retried) && !polling;
                    self.retried += 1;
                    if pause.is_ok() && spent { Err(Reason::Budget) } else { pause }
                }
                Answer::Pending(mark) => Ok(self.pending(mark, unit, began)),
                Answer::Throttled(after) => Ok(self.throttled(after, unit)),
            };
            self.history.push(step.answer);
            let pause = pause.map(|pause| if polling { pause.max(10 * MS) } else { pause });
            if let Err(reason) = pause.and_then(|pause| self.pass(Some(pause))) {
                break Some(reason);
            }
        };
        let failures = self.history.iter().filter(|a| matches!(a, Answer::Failed(_))).count();
        let failed = u32::try_from(failures).unwrap();
        Outcome { reason, attempts, failed, elapsed: self.now }
    }

    fn pending(&mut self, mark: u64, unit: f64, began: Duration) -> Duration {
        let marks: Vec<_> = self.history.iter().rev().filter_map(mark_of).collect();
        if marks.first().is_some_and(|last| *last != mark) {
            self.progressed = self.now;
        }
        let same = marks.iter().take_while(|known| **known == mark).count();
        let law = Backoff::new(100 * MS, 5 * SECOND, Jitter::Half).unwrap();
        let pause = law.delay(u32::try_from(same).unwrap(), unit);
        pause.saturating_sub(self.now - began)
    }

    fn throttled(&self, after: Option<u32>, unit: f64) -> Duration {
        let since_answer = self.history.iter().rev().take_while(|a| mark_of(a).is_none());
        let row = since_answer.filter(|a| matches!(a, Answer::Throttled(_))).count();
        let law = Backoff::new(SECOND, 30 * SECOND, Jitter::Half).unwrap();
        let asked = after.unwrap_or_default().min(self.policy.ceiling) * MS;
        law.delay(u32::try_from(row).unwrap(), unit).max(asked)
    }
}

/// What comes after the end of a script.
const LAST: Step = Step { takes: Some(0), answer: Answer::Done };

fn mark_of(answer: &Answer) -> Option<u64> {
    if let Answer::Pending(mark) = answer { Some(*mark) } else { None }
}

/// A script that hangs needs a bound to end.
fn bounded(mut policy: Policy, steps: &[Step]) -> Policy {
    let hangs = steps.iter().any(|step| step.takes.is_none());
    if hangs && policy.patience.or(policy.deadline).is_none() {
        policy.deadline = Some(100_000);
    }
    policy
}

/// A policy as the guard has it, and the call's deadline.
fn made(policy: Policy, seed: u64) -> (Retry, Deadline) {
    let mut retry = Retry::new(law(policy.jitter)).chance(Chance::seeded(seed));
    retry = retry.retry_after_ceiling(policy.ceiling * MS);
    if let Some(retries) = policy.retries {
        retry = retry.retries(retries);
    }
    if let Some(patience) = policy.patience {
        retry = retry.patience(patience * MS);
    }
    if let Some(limit) = policy.progress {
        retry = retry.progress(Progress::new(limit * MS));
    }
    if let Some(reserve) = policy.budget {
        retry = retry.budget(Budget::new(0, reserve).unwrap());
    }
    let from_now = |ms| Deadline::after(Instant::now().into_std(), ms * MS);
    (retry, policy.deadline.map_or_else(Deadline::never, from_now))
}

fn outcome(result: Result<(), GaveUp<Failure>>, asked: u32, start: Instant) -> Outcome {
    let elapsed = start.elapsed();
    match result {
        Ok(()) => Outcome { reason: None, attempts: asked, failed: 0, elapsed },
        Err(gave_up) => {
            assert_eq!(gave_up.elapsed, elapsed);
            assert_eq!(gave_up.attempts, asked);
            let failed = gave_up.kinds.get("unavailable").copied().unwrap_or_default();
            assert_eq!(gave_up.last.is_some(), failed > 0, "the last error is kept");
            Outcome { reason: Some(gave_up.reason), attempts: asked, failed, elapsed }
        }
    }
}

/// A success does not tell of the failures before it.
fn comparable(mut expected: Outcome) -> Outcome {
    if expected.reason.is_none() {
        expected.failed = 0;
    }
    expected
}

async fn took(step: Step) {
    match step.takes {
        Some(ms) => sleep(ms * MS).await,
        None => pending().await,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn retry_agrees_with_the_rules(policy in policy(), steps in attempts(), seed: u64) {
        let policy = bounded(policy, &steps);
        let lived = virtual_time(async {
            let (start, asked) = (Instant::now(), Cell::new(0));
            let (retry, deadline) = made(policy, seed);
            let told = RefCell::new(Vec::new());
            let attempt = |n: u32| {
                asked.set(n + 1);
                let step = steps.get(usize::try_from(n).unwrap()).copied().unwrap_or(LAST);
                let told = &told;
                async move {
                    took(step).await;
                    match step.answer {
                        Answer::Failed(advice) => {
                            told.borrow_mut().push(advice);
                            Err(DOWN)
                        }
                        _ => Ok(()),
                    }
                }
            };
            let advise = |_: &Failure| *told.borrow().last().unwrap();
            let result = retry.run(deadline, attempt, advise).await;
            outcome(result, asked.get(), start)
        });
        let expected = comparable(Rules::new(policy, seed).play(&steps, false));
        prop_assert_eq!(lived, expected);
    }

    #[test]
    fn poller_agrees_with_the_rules(policy in policy(), steps in polls(), seed: u64) {
        let policy = bounded(policy, &steps);
        let lived = virtual_time(async {
            let (start, asked) = (Instant::now(), Cell::new(0));
            let (retry, deadline) = made(policy, seed);
            let told = RefCell::new(Vec::new());
            let poll = |n: u32| {
                asked.set(n + 1);
                let step = steps.get(usize::try_from(n).unwrap()).copied().unwrap_or(LAST);
                let told = &told;
                async move {
                    took(step).await;
                    match step.answer {
                        Answer::Done => Poll::Done(()),
                        Answer::Pending(mark) => Poll::Pending { mark },
                        Answer::Throttled(after) => Poll::Throttled { after: after.map(|ms| ms * MS) },
                        Answer::Failed(advice) => {
                            told.borrow_mut().push(advice);
                            Poll::Failed(DOWN)
                        }
                    }
                }
            };
            let advise = |_: &Failure| *told.borrow().last().unwrap();
            let result = Poller::new(retry, PollProfile::Paced).run(deadline, poll, advise).await;
            outcome(result, asked.get(), start)
        });
        let expected = comparable(Rules::new(policy, seed).play(&steps, true));
        prop_assert_eq!(lived, expected);
    }
}
