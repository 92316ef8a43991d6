//! The rules of the dispatcher, one by one, and all of them under random events.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use proptest::prelude::*;
use snakehouse_wire::ToolKind;
use tokio::sync::oneshot;

use super::*;
use crate::call::CallOptions;

type Outcome = oneshot::Receiver<Result<Bytes, CallError>>;

const SHORT: Duration = Duration::from_micros(1);
const LONG: Duration = Duration::from_secs(1);

/// A dispatcher with workers that do what they are told.
struct Bench {
    dispatcher: Dispatcher,
    outcomes: BTreeMap<u64, Outcome>,
    /// What each worker's connection has.
    at: Vec<Vec<Call>>,
}

impl Bench {
    /// All workers serve the tool `t`.
    fn new(workers: usize, limit: usize) -> Self {
        let mut bench = Self {
            dispatcher: Dispatcher::new(workers, limit),
            outcomes: BTreeMap::new(),
            at: std::iter::repeat_with(Vec::new).take(workers).collect(),
        };
        (0..workers).for_each(|place| bench.serve(place));
        bench
    }

    fn settle(after: After) -> Vec<usize> {
        for (call, error) in after.fail {
            call.finish(Err(error));
        }
        after.ring
    }

    fn serve(&mut self, place: usize) {
        let mut after = After::default();
        self.dispatcher.starting(place);
        self.dispatcher.started(place, 100);
        let (signature, doc) = (String::new(), String::new());
        let tool =
            ToolInfo { name: "t".to_owned(), number: 7, signature, doc, kind: ToolKind::Function };
        self.dispatcher.serving(place, vec![tool], &mut after);
        self.deliver(Self::settle(after));
    }

    fn submit(&mut self, tool: &str, pin: Option<(&Life, u64)>) -> Result<u64, CallError> {
        let (reply, outcome) = oneshot::channel();
        let call = Call {
            id: 0,
            tool: tool.to_owned(),
            number: 0,
            body: Bytes::new(),
            options: CallOptions::default(),
            session: pin.map_or(0, |(_, session)| session),
            deaths: 0,
            reply: reply.into(),
        };
        let mut after = After::default();
        let id = self.dispatcher.submit(call, pin.map(|(life, _)| life), &mut after)?;
        self.outcomes.insert(id, outcome);
        self.deliver(Self::settle(after));
        Ok(id)
    }

    fn submit_many(&mut self, count: usize) -> Vec<u64> {
        (0..count).map(|_| self.submit("t", None).unwrap()).collect()
    }

    /// Connections that were rung take what is there for them.
    fn deliver(&mut self, ring: Vec<usize>) {
        for place in ring {
            self.exchange(place, 0, SHORT);
        }
    }

    fn exchange(&mut self, place: usize, answered: usize, busy: Duration) -> Vec<u64> {
        let (mut calls, mut cancels, mut after) = (Vec::new(), Vec::new(), After::default());
        self.dispatcher.exchange(place, answered, busy, &mut calls, &mut cancels, &mut after);
        assert!(!calls.iter().any(Call::is_abandoned), "it is sent for nobody");
        self.at[place].append(&mut calls);
        self.deliver(Self::settle(after));
        cancels
    }

    /// The worker answers its oldest call.
    fn answer(&mut self, place: usize, busy: Duration) {
        let call = self.at[place].remove(0);
        assert_eq!(call.number, 7);
        call.finish(Ok(Bytes::new()));
        self.exchange(place, 1, busy);
    }

    /// The worker dies having started its first `started` calls.
    fn die(&mut self, place: usize, started: usize) {
        let mut calls = std::mem::take(&mut self.at[place]);
        let unstarted = calls.split_off(started.min(calls.len()));
        for call in calls {
            call.finish(Err(CallError::Cancelled));
        }
        let mut after = After::default();
        self.dispatcher.gone(place, &Death::Unknown, unstarted, &mut after);
        self.deliver(Self::settle(after));
    }

    fn ids(&self, place: usize) -> Vec<u64> {
        self.at[place].iter().map(|call| call.id).collect()
    }

    /// The caller goes away. Unless `told`, the connection dies before it hears of the cancel.
    fn cancel(&mut self, id: u64, told: bool) -> Where {
        self.outcomes.remove(&id);
        let mut after = After::default();
        let at = self.dispatcher.cancel(id, &mut after);
        let ring = Self::settle(after);
        if told || at == Where::Queue {
            self.deliver(ring);
        }
        at
    }

    fn outcome(&mut self, id: u64) -> Option<Result<Bytes, CallError>> {
        self.outcomes.get_mut(&id).unwrap().try_recv().ok()
    }
}

#[test]
fn calls_go_out_in_order_to_the_least_loaded() {
    let mut bench = Bench::new(2, 100);
    bench.submit_many(5);
    assert_eq!((bench.ids(0), bench.ids(1)), (vec![1], vec![2]), "one each until calls are short");
    bench.answer(1, LONG);
    assert_eq!(bench.ids(1), [3]);
    assert_eq!(bench.dispatcher.waiting(), 2);
}

#[test]
fn short_calls_are_sent_ahead_and_a_long_one_ends_that() {
    let mut bench = Bench::new(1, 1000);
    bench.submit_many(500);
    (0..100).for_each(|_| bench.answer(0, SHORT));
    assert_eq!(bench.at[0].len(), 64);
    bench.answer(0, LONG);
    assert_eq!(bench.at[0].len(), 63, "what is there is not taken back, and nothing is added");
}

#[test]
fn one_more_than_may_wait_is_refused() {
    let mut bench = Bench::new(1, 2);
    bench.submit_many(3);
    assert_eq!(bench.submit("t", None), Err(CallError::Saturated { limit: 2 }));
    bench.answer(0, LONG);
    assert!(bench.submit("t", None).is_ok());
}

#[test]
fn unstarted_calls_go_to_another_worker_before_younger_ones() {
    let mut bench = Bench::new(1, 100);
    bench.submit_many(40);
    (0..30).for_each(|_| bench.answer(0, SHORT));
    let had = bench.ids(0);
    assert!(had.len() > 5);
    let young = bench.submit("t", None).unwrap();
    bench.die(0, 2);
    assert!(bench.outcome(had[1]).unwrap().is_err(), "it had started");
    bench.serve(0);
    let mut order = Vec::new();
    while let Some(&id) = bench.ids(0).first() {
        order.push(id);
        bench.answer(0, LONG);
    }
    let mut expected = had[2..].to_vec();
    expected.push(young);
    assert_eq!(order, expected);
}

#[test]
fn a_session_ends_with_its_incarnation() {
    let mut bench = Bench::new(1, 100);
    let (session, life) = bench.dispatcher.open_session().unwrap().unwrap();
    let pin = Some((&*life, session));
    let sent = bench.submit("t", pin).unwrap();
    let waiting = bench.submit("t", pin).unwrap();
    bench.die(0, 0);
    for id in [sent, waiting] {
        let error = bench.outcome(id).unwrap().unwrap_err();
        assert!(matches!(error, CallError::SessionLost { .. }), "{error:?}");
    }
    bench.serve(0);
    let error = bench.submit("t", pin).unwrap_err();
    assert!(matches!(error, CallError::SessionLost { .. }), "{error:?}");
    bench.dispatcher.close_session(&life);
    assert_eq!(bench.dispatcher.waiting(), 0);
}

#[test]
fn a_session_waits_for_its_worker_though_another_is_free() {
    let mut bench = Bench::new(2, 100);
    let (session, life) = bench.dispatcher.open_session().unwrap().unwrap();
    let place = usize::try_from(life.worker.id.0).unwrap();
    let first = bench.submit("t", Some((&life, session))).unwrap();
    let second = bench.submit("t", Some((&life, session))).unwrap();
    assert_eq!((bench.ids(place), bench.ids(1 - place)), (vec![first], vec![]));
    bench.answer(place, LONG);
    assert_eq!(bench.ids(place), [second]);
}

#[test]
fn neither_sessions_nor_others_starve() {
    let mut bench = Bench::new(1, 100);
    let (session, life) = bench.dispatcher.open_session().unwrap().unwrap();
    let mut expected = Vec::new();
    for n in 0..20 {
        let pin = (n % 3 == 0).then_some((&*life, session));
        expected.push(bench.submit("t", pin).unwrap());
    }
    let mut order = Vec::new();
    while let Some(&id) = bench.ids(0).first() {
        order.push(id);
        bench.answer(0, LONG);
    }
    assert_eq!(order, expected);
}

#[test]
fn an_unknown_tool_is_refused_and_costs_no_place() {
    let mut bench = Bench::new(1, 100);
    let id = bench.submit("x", None).unwrap();
    let error = bench.outcome(id).unwrap().unwrap_err();
    assert_eq!(error, CallError::UnknownTool { tool: "x".to_owned(), known: vec!["t".to_owned()] });
    let next = bench.submit("t", None).unwrap();
    assert_eq!(bench.ids(0), [next]);
}

#[test]
fn a_cancel_says_where_the_call_was() {
    let mut bench = Bench::new(1, 100);
    let sent = bench.submit("t", None).unwrap();
    let waiting = bench.submit("t", None).unwrap();
    let mut after = After::default();
    assert_eq!(bench.dispatcher.cancel(waiting, &mut after), Where::Queue);
    assert!(after.ring.is_empty());
    assert_eq!(bench.dispatcher.cancel(sent, &mut after), Where::Worker);
    assert_eq!(after.ring, [0]);
    assert_eq!(bench.exchange(0, 0, SHORT), [sent]);
    assert_eq!(bench.dispatcher.workers()[0].in_flight, 1, "it is free when it has answered");
    bench.answer(0, SHORT);
    assert_eq!(bench.dispatcher.workers()[0].in_flight, 0);
}

#[test]
fn a_cancel_that_the_dead_worker_never_heard_of_counts() {
    let mut bench = Bench::new(1, 100);
    let sent = bench.submit("t", None).unwrap();
    assert_eq!(bench.cancel(sent, false), Where::Worker);
    bench.die(0, 0);
    assert_eq!(bench.dispatcher.waiting(), 0);
    bench.serve(0);
    assert!(bench.at[0].is_empty());
    assert_eq!(bench.dispatcher.workers()[0].in_flight, 0);
}

#[test]
fn a_caller_that_went_without_a_word_gets_nothing_run() {
    let mut bench = Bench::new(1, 100);
    let running = bench.submit("t", None).unwrap();
    let waiting = bench.submit("t", None).unwrap();
    let last = bench.submit("t", None).unwrap();
    bench.outcomes.remove(&waiting);
    assert_eq!(bench.ids(0), [running]);
    bench.answer(0, LONG);
    assert_eq!(bench.ids(0), [last]);
    assert_eq!(bench.dispatcher.waiting(), 0);
}

#[test]
fn a_call_is_given_out_again_three_times() {
    let mut bench = Bench::new(1, 100);
    let deadly = bench.submit("t", None).unwrap();
    let next = bench.submit("t", None).unwrap();
    for deaths in 1..=4 {
        assert_eq!(bench.ids(0), [deadly]);
        bench.at[0][0].deaths = deaths;
        bench.die(0, 0);
        bench.serve(0);
    }
    let error = bench.outcome(deadly).unwrap().unwrap_err();
    assert!(matches!(error, CallError::WorkerDied { started: false, .. }), "{error:?}");
    assert_eq!(bench.ids(0), [next]);
}

#[test]
fn why_none_serves_is_known_while_none_does() {
    let mut bench = Bench::new(2, 100);
    let why = |bench: &Bench| bench.dispatcher.why_none_serves().map(str::to_owned);
    bench.die(0, 0);
    bench.dispatcher.ended("first".to_owned());
    assert_eq!(why(&bench), None);
    bench.die(1, 0);
    bench.dispatcher.ended("second".to_owned());
    assert_eq!(why(&bench), Some("second".to_owned()));
    bench.serve(0);
    assert_eq!(why(&bench), None);
}

#[test]
fn a_stop_ends_what_waits_and_refuses_the_rest() {
    let mut bench = Bench::new(1, 100);
    let running = bench.submit("t", None).unwrap();
    let waiting = bench.submit("t", None).unwrap();
    let mut after = After::default();
    bench.dispatcher.stop(&mut after);
    Bench::settle(after);
    assert_eq!(bench.outcome(waiting), Some(Err(CallError::Stopped)));
    assert_eq!(bench.outcome(running), None);
    assert_eq!(bench.submit("t", None), Err(CallError::Stopped));
    assert!(matches!(bench.dispatcher.open_session(), Err(CallError::Stopped)));
    bench.die(0, 0);
    assert_eq!(bench.outcome(running), Some(Err(CallError::Stopped)));
}

#[test]
fn a_hundred_thousand_may_wait() {
    let mut bench = Bench::new(1, 100_000);
    let ids = bench.submit_many(100_000);
    let mut after = After::default();
    for &id in ids.iter().rev().step_by(2) {
        assert_eq!(bench.dispatcher.cancel(id, &mut after), Where::Queue);
    }
    let mut answered = 0;
    while !bench.at[0].is_empty() {
        bench.answer(0, SHORT);
        answered += 1;
    }
    assert_eq!(answered, 50_000);
}

#[derive(Clone, Debug)]
enum Event {
    Submit { pinned: bool },
    Answer { place: usize, short: bool },
    Cancel { which: usize, told: bool },
    Die { place: usize, started: usize },
    Serve { place: usize },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => any::<bool>().prop_map(|pinned| Event::Submit { pinned }),
        6 => (0usize..3, any::<bool>()).prop_map(|(place, short)| Event::Answer { place, short }),
        2 => (0usize..50, any::<bool>()).prop_map(|(which, told)| Event::Cancel { which, told }),
        1 => (0usize..3, 0usize..5).prop_map(|(place, started)| Event::Die { place, started }),
        2 => (0usize..3).prop_map(|place| Event::Serve { place }),
    ]
}

proptest! {
    /// Every call is in exactly one place until it has exactly one outcome, counts agree with what
    /// is there, nothing is lost when the workers have had their say, and nothing is sent to a
    /// worker for a caller that is gone (which every exchange checks).
    #[test]
    fn every_call_has_one_outcome(events in prop::collection::vec(event(), 0..200)) {
        let mut bench = Bench::new(3, 20);
        let mut alive = [true; 3];
        let mut cancelled = HashSet::new();
        let (session, life) = bench.dispatcher.open_session().unwrap().unwrap();
        for event in events {
            match event {
                Event::Submit { pinned } => {
                    let _refused = bench.submit("t", pinned.then_some((&*life, session)));
                }
                Event::Answer { place, short } => {
                    if !bench.at[place].is_empty() {
                        bench.answer(place, if short { SHORT } else { LONG });
                    }
                }
                Event::Cancel { which, told } => {
                    let open = bench.outcomes.iter().filter(|(_, outcome)| outcome.is_empty());
                    let open: Vec<_> = open.map(|(&id, _)| id).collect();
                    if let Some(&id) = open.get(which % open.len().max(1))
                        && bench.cancel(id, told) == Where::Queue
                    {
                        cancelled.insert(id);
                    }
                }
                Event::Die { place, started } if alive[place] => {
                    alive[place] = false;
                    bench.die(place, started);
                }
                Event::Serve { place } if !alive[place] => {
                    alive[place] = true;
                    bench.serve(place);
                }
                Event::Die { .. } | Event::Serve { .. } => {}
            }
            for (info, at) in bench.dispatcher.workers().iter().zip(&bench.at) {
                prop_assert_eq!(info.in_flight, at.len());
            }
            let mut seen = HashSet::new();
            prop_assert!(bench.at.iter().flatten().all(|call| seen.insert(call.id)));
            prop_assert!(seen.is_disjoint(&cancelled));
        }
        for (place, alive) in alive.into_iter().enumerate() {
            if !alive {
                bench.serve(place);
            }
        }
        while let Some(place) = (0..3).find(|&place| !bench.at[place].is_empty()) {
            bench.answer(place, LONG);
        }
        prop_assert_eq!(bench.dispatcher.waiting(), 0);
        for (id, outcome) in &mut bench.outcomes {
            prop_assert!(outcome.try_recv().is_ok(), "call {}", id);
        }
    }
}
