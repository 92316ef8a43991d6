//! The rules of the order of calls, one by one.

use super::rig::{LONG, Rig, SHORT};
use super::*;

#[test]
fn calls_go_out_in_order_to_the_least_loaded() {
    let mut rig = Rig::new(2, 100);
    rig.submit_many(5);
    assert_eq!((rig.ids(0), rig.ids(1)), (vec![1], vec![2]), "one each until calls are short");
    rig.answer(1, LONG);
    assert_eq!(rig.ids(1), [3]);
    assert_eq!(rig.dispatcher.waiting(), 2);
}

#[test]
fn short_calls_are_sent_ahead_and_a_long_one_ends_that() {
    let mut rig = Rig::new(1, 1000);
    rig.submit_many(500);
    (0..100).for_each(|_| rig.answer(0, SHORT));
    assert_eq!(rig.ids(0).len(), 64);
    rig.answer(0, LONG);
    assert_eq!(rig.ids(0).len(), 63, "what is there is not taken back, and nothing is added");
}

#[test]
fn one_more_than_may_wait_is_refused() {
    let mut rig = Rig::new(1, 2);
    rig.submit_many(3);
    assert_eq!(rig.submit("t", None), Err(CallError::Saturated { limit: 2 }));
    rig.answer(0, LONG);
    assert!(rig.submit("t", None).is_ok());
}

#[test]
fn unstarted_calls_go_to_another_worker_before_younger_ones() {
    let mut rig = Rig::new(1, 100);
    rig.submit_many(40);
    (0..30).for_each(|_| rig.answer(0, SHORT));
    let had = rig.ids(0);
    assert!(had.len() > 5);
    let young = rig.submit("t", None).unwrap();
    rig.die(0, 2);
    assert!(rig.outcome(had[1]).unwrap().is_err(), "it had started");
    rig.serve(0);
    let mut order = Vec::new();
    while let Some(&id) = rig.ids(0).first() {
        order.push(id);
        rig.answer(0, LONG);
    }
    let mut expected = had[2..].to_vec();
    expected.push(young);
    assert_eq!(order, expected);
}

#[test]
fn a_session_ends_with_its_incarnation() {
    let mut rig = Rig::new(1, 100);
    let session = rig.session().unwrap();
    let pin = Some(&session);
    let sent = rig.submit("t", pin).unwrap();
    let waiting = rig.submit("t", pin).unwrap();
    rig.die(0, 0);
    for id in [sent, waiting] {
        let error = rig.outcome(id).unwrap().unwrap_err();
        assert!(matches!(error, CallError::SessionLost { .. }), "{error:?}");
    }
    rig.serve(0);
    let error = rig.submit("t", pin).unwrap_err();
    assert!(matches!(error, CallError::SessionLost { .. }), "{error:?}");
    rig.end_session(&session);
    assert_eq!(rig.dispatcher.waiting(), 0);
}

#[test]
fn a_session_waits_for_its_worker_though_another_is_free() {
    let mut rig = Rig::new(2, 100);
    let session = rig.session().unwrap();
    let place = rig.place_of(&session).unwrap();
    let first = rig.submit("t", Some(&session)).unwrap();
    let second = rig.submit("t", Some(&session)).unwrap();
    assert_eq!((rig.ids(place), rig.ids(1 - place)), (vec![first], vec![]));
    rig.answer(place, LONG);
    assert_eq!(rig.ids(place), [second]);
}

#[test]
fn neither_sessions_nor_others_starve() {
    let mut rig = Rig::new(1, 100);
    let session = rig.session().unwrap();
    let mut expected = Vec::new();
    for n in 0..20 {
        let pin = (n % 3 == 0).then_some(&session);
        expected.push(rig.submit("t", pin).unwrap());
    }
    let mut order = Vec::new();
    while let Some(&id) = rig.ids(0).first() {
        order.push(id);
        rig.answer(0, LONG);
    }
    assert_eq!(order, expected);
}

/// Two workers whose window is open, and a long call at each with short ones behind it.
fn busy_pair() -> (Rig, Vec<u64>, Vec<u64>) {
    let mut rig = Rig::new(2, 1000);
    rig.submit_many(200);
    for place in [0, 1].repeat(100) {
        rig.answer(place, SHORT);
    }
    let ids = rig.submit_many(20);
    let (first, second) = (rig.ids(0), rig.ids(1));
    assert_eq!(first.len() + second.len(), ids.len(), "all of them are sent ahead");
    (rig, first, second)
}

#[test]
fn calls_behind_a_long_one_go_to_whoever_has_room() {
    let (mut rig, first, second) = busy_pair();
    assert_eq!(rig.recall(0, 1), Recalled::NoRoom, "the other one has none");
    assert_eq!(rig.ids(0), first);
    rig.rung(0);
    for left in (0..second.len()).rev() {
        assert!(!rig.rung(0), "it still has none");
        rig.answer(1, LONG);
        assert_eq!(rig.ids(1).len(), left);
    }
    assert!(rig.rung(0), "now it has");
    assert_eq!(rig.recall(0, 1), Recalled::Yes);
    assert_eq!((rig.ids(0), rig.ids(1)), (vec![first[0]], vec![first[1]]), "its window is closed");
    let next = rig.submit("t", None).unwrap();
    rig.answer(0, LONG);
    assert!(rig.ids(0).is_empty(), "the worker has yet to say that it did not run the others");
    rig.recall_over(0);
    assert_eq!(rig.ids(0), [first[2]]);
    let mut order = vec![];
    while let Some(&id) = rig.ids(0).first() {
        order.push(id);
        rig.answer(0, LONG);
    }
    assert_eq!(order, [&first[2..], &[next]].concat(), "they keep their place in the queue");
    assert_eq!(rig.dispatcher.counters().recalled, first.len() as u64 - 1);
}

#[test]
fn a_worker_that_is_gone_or_asked_already_is_told_no_and_not_to_wait() {
    let (mut rig, ..) = busy_pair();
    while !rig.ids(1).is_empty() {
        rig.answer(1, SHORT);
    }
    assert_eq!(rig.recall(0, 1), Recalled::Yes);
    assert_eq!(rig.recall(0, 1), Recalled::No, "its calls are on their way back");
    rig.die(0, 1);
    assert_eq!(rig.recall(0, 0), Recalled::No, "there is nobody");
}

#[test]
fn a_session_s_calls_come_back_to_their_worker() {
    let (mut rig, ..) = busy_pair();
    while !rig.ids(1).is_empty() {
        rig.answer(1, SHORT);
    }
    let session = rig.session().unwrap();
    assert_eq!(rig.place_of(&session), Some(0));
    let mut pinned = || rig.submit("t", Some(&session)).unwrap();
    let (calls, gone) = ([(); 3].map(|()| pinned()), pinned());
    rig.cancel(gone, false);
    let running = rig.ids(0)[0];
    assert_eq!(rig.recall(0, 1), Recalled::Yes);
    assert_eq!(rig.ids(0), [running]);
    assert!(!rig.ids(1).is_empty() && !rig.ids(1).iter().any(|id| calls.contains(id)));
    rig.answer(0, SHORT);
    rig.recall_over(0);
    assert_eq!(rig.ids(0), calls, "without the one that was cancelled");
}

#[test]
fn an_unknown_tool_is_refused_and_costs_no_place() {
    let mut rig = Rig::new(1, 100);
    let id = rig.submit("x", None).unwrap();
    let error = rig.outcome(id).unwrap().unwrap_err();
    assert_eq!(error, CallError::UnknownTool { tool: "x".to_owned(), known: vec!["t".to_owned()] });
    let next = rig.submit("t", None).unwrap();
    assert_eq!(rig.ids(0), [next]);
}

#[test]
fn a_cancel_says_where_the_call_was() {
    let mut rig = Rig::new(1, 100);
    let sent = rig.submit("t", None).unwrap();
    let waiting = rig.submit("t", None).unwrap();
    let mut after = After::default();
    let cancel = |rig: &mut Rig, id: u64, after: &mut After| {
        rig.dispatcher.cancel(rig.tickets[&id], rig.now, after)
    };
    assert_eq!(cancel(&mut rig, waiting, &mut after), Some(Where::Queue));
    assert_eq!(std::mem::take(&mut after.ring).into_iter().count(), 0);
    assert_eq!(cancel(&mut rig, sent, &mut after), Some(Where::Worker));
    assert_eq!(after.ring.into_iter().collect::<Vec<_>>(), [0]);
    assert_eq!(rig.exchange(0, &[], SHORT), [sent]);
    assert_eq!(rig.dispatcher.workers()[0].in_flight, 1, "it is free when it has answered");
    rig.answer(0, SHORT);
    assert_eq!(rig.dispatcher.workers()[0].in_flight, 0);
}

#[test]
fn a_cancel_that_the_dead_worker_never_heard_of_counts() {
    let mut rig = Rig::new(1, 100);
    let sent = rig.submit("t", None).unwrap();
    assert_eq!(rig.cancel(sent, false), Some(Where::Worker));
    rig.die(0, 0);
    assert_eq!(rig.dispatcher.waiting(), 0);
    rig.serve(0);
    assert!(rig.ids(0).is_empty());
    assert_eq!(rig.dispatcher.workers()[0].in_flight, 0);
}

#[test]
fn a_caller_that_went_without_a_word_gets_nothing_run() {
    let mut rig = Rig::new(1, 100);
    let running = rig.submit("t", None).unwrap();
    let waiting = rig.submit("t", None).unwrap();
    let last = rig.submit("t", None).unwrap();
    rig.outcomes.remove(&waiting);
    assert_eq!(rig.ids(0), [running]);
    rig.answer(0, LONG);
    assert_eq!(rig.ids(0), [last]);
    assert_eq!(rig.dispatcher.waiting(), 0);
}

#[test]
fn a_cancelled_call_that_the_dead_worker_never_began_is_no_failure() {
    let mut rig = Rig::new(1, 100);
    let sent = rig.submit("t", None).unwrap();
    rig.cancel(sent, true);
    rig.workers[0].has.clear();
    let cancelled = vec![rig.tickets[&sent]];
    let unstarted = Unstarted { calls: Vec::new(), cancelled };
    let mut after = After::default();
    assert!(rig.dispatcher.gone(0, &Death::Unknown, unstarted, rig.now, &mut after));
    rig.settle(after);
    let counters = rig.dispatcher.counters();
    assert_eq!((counters.cancelled, counters.failed), (1, 0));
}

/// A body may be large, and whoever lets go of it takes as long as that takes.
#[test]
fn bodies_are_let_go_without_the_lock() {
    let mut rig = Rig::new(1, 2);
    let ids = rig.submit_many(2);
    let mut after = After::default();
    rig.dispatcher.cancel(rig.tickets[&ids[1]], rig.now, &mut after);
    assert_eq!(after.over.len(), 1, "of a call that waited");
    rig.submit_many(2);
    let (call, _outcome) = Rig::call("t", None, false);
    assert!(rig.dispatcher.submit(call, rig.now, &mut after).is_err());
    assert_eq!(after.over.len(), 2, "of a call that was refused");
    rig.outcomes.clear();
    rig.workers[0].has.clear();
    rig.dispatcher.report(0, &answer(rig.tickets[&ids[0]]), rig.now, &mut after);
    assert_eq!(after.over.len(), 4, "of calls whose callers went");
}

fn answer(ticket: Ticket) -> Report<'static> {
    let answered = Vec::leak(vec![ticket]);
    Report { answered, busy: LONG, ..Report::default() }
}

/// Nobody asks a stream for items, so nobody sees its deadline pass.
#[test]
fn what_is_over_when_its_turn_comes_is_not_given_out() {
    let mut rig = Rig::new(1, 100);
    let running = rig.submit("t", None).unwrap();
    let (mut call, mut outcome) = Rig::call("t", None, true);
    call.options.deadline = snakehouse_base::Deadline::after(rig.now.into_std(), LONG);
    rig.dispatcher.submit(call, rig.now, &mut After::default()).unwrap();
    let next = rig.submit("t", None).unwrap();
    assert_eq!(rig.ids(0), [running]);
    rig.pass(LONG);
    rig.answer(0, LONG);
    assert_eq!(rig.ids(0), [next]);
    let over = outcome.try_recv().unwrap();
    assert_eq!(over, Err(CallError::Deadline { at: Where::Queue }));
    assert_eq!(rig.dispatcher.counters().cancelled, 1);
}

#[test]
fn a_call_that_cannot_be_sent_is_no_answer() {
    let mut rig = Rig::new(1, 100);
    let ids = rig.submit_many(40);
    for &id in &ids[..20] {
        let refused = [rig.tickets[&id]];
        let mut after = After::default();
        let report = Report { refused: &refused, ..Report::default() };
        rig.workers[0].has.clear();
        rig.dispatcher.report(0, &report, rig.now, &mut after);
        rig.settle(after);
        rig.exchange(0, &[], SHORT);
    }
    assert_eq!(rig.ids(0), [ids[20]], "the window is as it was");
    let (counters, workers) = (rig.dispatcher.counters(), rig.dispatcher.workers());
    assert_eq!((counters.answered, counters.failed, workers[0].calls), (0, 20, 0));
}

#[test]
fn a_call_is_given_out_again_three_times() {
    let mut rig = Rig::new(1, 100);
    let deadly = rig.submit("t", None).unwrap();
    let next = rig.submit("t", None).unwrap();
    for deaths in 1..=4 {
        assert_eq!(rig.ids(0), [deadly]);
        rig.workers[0].has[0].deaths = deaths;
        rig.die(0, 0);
        rig.serve(0);
    }
    let error = rig.outcome(deadly).unwrap().unwrap_err();
    assert!(matches!(error, CallError::WorkerDied { started: false, .. }), "{error:?}");
    assert_eq!(rig.ids(0), [next]);
}

#[test]
fn why_none_serves_is_known_while_none_does() {
    let mut rig = Rig::new(2, 100);
    let why = |rig: &Rig| rig.dispatcher.why_none_serves().map(str::to_owned);
    rig.die(0, 0);
    rig.dispatcher.ended("first".to_owned(), rig.now, &mut After::default());
    assert_eq!(why(&rig), None);
    rig.die(1, 0);
    rig.dispatcher.ended("second".to_owned(), rig.now, &mut After::default());
    assert_eq!(why(&rig), Some("second".to_owned()));
    rig.serve(0);
    assert_eq!(why(&rig), None);
}

#[test]
fn a_stop_ends_what_waits_and_refuses_the_rest() {
    let mut rig = Rig::new(1, 100);
    let running = rig.submit("t", None).unwrap();
    let waiting = rig.submit("t", None).unwrap();
    let mut after = After::default();
    rig.dispatcher.stop(rig.now, &mut after);
    rig.settle(after);
    assert_eq!(rig.outcome(waiting), Some(Err(CallError::Stopped)));
    assert_eq!(rig.outcome(running), None);
    assert_eq!(rig.submit("t", None), Err(CallError::Stopped));
    let opened = rig.dispatcher.open_session(rig.now, &mut After::default());
    assert!(matches!(opened, Err(CallError::Stopped)));
    rig.die(0, 0);
    assert_eq!(rig.outcome(running), Some(Err(CallError::Stopped)));
}

/// Steps are counted and not time, which depends on the machine; `benches/queue.rs` measures.
#[test]
fn each_call_costs_as_many_steps_among_a_hundred_thousand_as_alone() {
    let steps = |waiting: usize| {
        let config = PoolConfig { queue: waiting, ..PoolConfig::default() };
        let mut dispatcher = Rig::of(config, 1);
        dispatcher.unchecked = true;
        let ids = dispatcher.submit_many(waiting);
        for &id in ids[1..].iter().rev().step_by(2) {
            assert_eq!(dispatcher.cancel(id, true), Some(Where::Queue));
        }
        let mut answered = 0;
        while !dispatcher.ids(0).is_empty() {
            dispatcher.answer(0, SHORT);
            answered += 1;
        }
        assert_eq!(answered, waiting - waiting / 2);
        dispatcher.dispatcher.ledger.steps as f64 / waiting as f64
    };
    let (few, many) = (steps(1_000), steps(100_000));
    assert!(many <= few * 1.01 && many < 8.0, "{few} and {many} steps a call");
}

#[test]
fn with_room_for_two_two_run_and_a_stream_takes_one_of_them() {
    let mut rig = Rig::of(PoolConfig { queue: 100, ..PoolConfig::default() }, 2);
    let stream = rig.stream(None).unwrap();
    let calls = rig.submit_many(3);
    assert_eq!(rig.ids(0), [stream, calls[0]], "the window is closed");
    rig.answer_nth(0, 1, LONG);
    assert_eq!(rig.ids(0), [stream, calls[1]]);
    let second = rig.stream(None).unwrap();
    let later = rig.submit("t", None).unwrap();
    rig.answer_nth(0, 1, LONG);
    assert_eq!(rig.ids(0), [stream, calls[2]], "it is older than the stream");
    rig.answer_nth(0, 1, LONG);
    assert_eq!(rig.ids(0), [stream, second], "both places are taken by streams");
    rig.answer(0, LONG);
    assert_eq!(rig.ids(0), [second, later]);
}

#[test]
fn a_stream_takes_a_worker_of_one_place_alone_and_is_never_sent_ahead() {
    let mut rig = Rig::new(1, 1000);
    rig.submit_many(100);
    (0..90).for_each(|_| rig.answer(0, SHORT));
    assert!(rig.ids(0).len() > 5, "the window is open");
    let stream = rig.stream(None).unwrap();
    let behind = rig.submit("t", None).unwrap();
    while rig.ids(0).first() != Some(&stream) {
        assert!(!rig.ids(0).contains(&stream), "it would wait at the worker");
        rig.answer(0, SHORT);
    }
    assert_eq!(rig.ids(0), [stream], "nothing waits behind it at the worker");
    rig.answer(0, LONG);
    assert_eq!(rig.ids(0), [behind]);
}

#[test]
fn a_stream_is_not_starved_by_sessions_nor_they_by_it() {
    let mut rig = Rig::new(1, 1000);
    let session = rig.session().unwrap();
    let first = rig.submit("t", Some(&session)).unwrap();
    let stream = rig.stream(None).unwrap();
    let pinned = rig.submit("t", Some(&session)).unwrap();
    let of_session = rig.stream(Some(&session)).unwrap();
    let last = rig.submit("t", None).unwrap();
    let mut order = Vec::new();
    while let Some(&id) = rig.ids(0).first() {
        order.push(id);
        rig.answer(0, SHORT);
    }
    assert_eq!(order, [first, stream, pinned, of_session, last]);
}

#[test]
fn a_stream_that_is_cancelled_lets_others_pass() {
    let mut rig = Rig::new(1, 1000);
    let running = rig.submit("t", None).unwrap();
    (0..40).for_each(|_| {
        rig.submit("t", None).unwrap();
        rig.answer(0, SHORT);
    });
    let stream = rig.stream(None).unwrap();
    let behind = rig.submit("t", None).unwrap();
    assert!(!rig.ids(0).contains(&behind) && !rig.ids(0).contains(&running));
    rig.cancel(stream, true);
    assert!(rig.ids(0).contains(&behind));
}

#[test]
fn an_answer_frees_a_call_s_place_only_once() {
    let mut rig = Rig::new(1, 100);
    let ids = rig.submit_many(2);
    let ticket = rig.tickets[&ids[0]];
    rig.answer(0, LONG);
    rig.exchange(0, &[ticket], LONG);
    assert_eq!(rig.ids(0), [ids[1]]);
    assert_eq!(rig.dispatcher.workers()[0].calls, 1);
}

/// What a call costs the dispatcher, alone and with many that wait. A measurement, for ADR 0009:
/// `cargo nextest run -p snakehouse-pool measure_the_queue --run-ignored only --no-capture`.
#[test]
#[ignore = "a measurement"]
fn measure_the_queue() {
    use snakehouse_base::{Clock, SystemClock};
    for (workers, waiting) in [(1, 1_000), (1, 100_000), (16, 100_000)] {
        let config = PoolConfig { workers, queue: 2 * waiting, ..PoolConfig::default() };
        let mut rig = Rig::of(config, 1);
        rig.unchecked = true;
        let timed = |what: &str, count: usize, work: &mut dyn FnMut()| {
            let before = SystemClock.now();
            work();
            let each = (SystemClock.now() - before) / u32::try_from(count).unwrap();
            println!("{workers} workers, {waiting} waiting: {what} {each:?}");
        };
        let mut ids = Vec::new();
        timed("enter", waiting, &mut || ids = rig.submit_many(waiting));
        timed("cancel", waiting / 2, &mut || {
            for &id in ids[workers..].iter().rev().step_by(2) {
                rig.cancel(id, true);
            }
        });
        timed("answer and give the next", waiting / 4, &mut || {
            for n in 0..waiting / 4 {
                rig.answer(n % workers, LONG);
            }
        });
    }
}
