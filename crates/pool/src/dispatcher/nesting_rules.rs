//! The rules of calls that come out of callbacks, one by one.

use super::rig::{LONG, Rig, SHORT};
use super::*;

/// One worker that serves, in a pool of so many and so many spare ones; its call waits for a callback.
fn waiting(workers: usize, standby: usize) -> (Rig, u64) {
    let config = PoolConfig { workers, standby, queue: 100, ..PoolConfig::default() };
    let mut rig = Rig::idle(config, 1);
    rig.keep();
    rig.serve(0);
    let outer = rig.submit("t", None).unwrap();
    rig.waits(0, outer, true);
    (rig, outer)
}

#[test]
fn a_spare_worker_is_nobody_to_wait_for() {
    let (mut rig, outer) = waiting(1, 1);
    assert!(rig.begin(1));
    let first = rig.chained(false).unwrap();
    assert_eq!(rig.ids(0), [outer, first], "the spare one starts");
    rig.waits(0, first, true);
    rig.hello(1);
    let second = rig.chained(false).unwrap();
    assert_eq!(rig.ids(0), [outer, first, second], "the spare one is there");
}

#[test]
fn a_worker_that_is_missing_and_starts_is_waited_for_until_it_serves_or_fails() {
    let (mut rig, outer) = waiting(2, 0);
    assert!(rig.begin(1));
    let first = rig.chained(false).unwrap();
    assert_eq!(rig.ids(0), [outer]);
    rig.die(1, 0);
    assert_eq!(rig.ids(0), [outer, first]);
    rig.waits(0, first, true);
    assert!(rig.begin(1));
    let second = rig.chained(false).unwrap();
    rig.hello(1);
    assert_eq!(rig.ids(1), [second]);
}

#[test]
fn where_no_worker_is_on_its_way_a_call_that_nobody_can_run_fails() {
    let (mut rig, _) = waiting(4, 0);
    for _ in 0..16 {
        let nested = rig.chained(false).unwrap();
        rig.waits(0, nested, true);
    }
    let last = rig.chained(false).unwrap();
    assert_eq!(rig.outcome(last), Some(Err(CallError::WouldDeadlock)));
    rig.answer_nth(0, 16, LONG);
    assert_eq!(rig.ids(0).len(), 16);
    let next = rig.chained(false).unwrap();
    assert_eq!(rig.ids(0).last(), Some(&next));
}

/// The worker gets calls again when it has answered what is left.
fn goes_on(mut rig: Rig, outer: u64) {
    assert_eq!(rig.ids(0), [outer]);
    rig.waits(0, outer, false);
    rig.answer(0, LONG);
    let next = rig.submit("t", None).unwrap();
    assert_eq!(rig.ids(0), [next]);
    let later = rig.submit("t", None).unwrap();
    rig.answer(0, LONG);
    assert_eq!(rig.ids(0), [later]);
}

#[test]
fn a_nested_call_that_is_not_sent_leaves_its_worker_as_it_was() {
    for (stream, cancelled) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut rig, outer) = waiting(1, 0);
        let nested = rig.chained(stream).unwrap();
        assert_eq!(rig.ids(0), [outer, nested]);
        if cancelled {
            assert_eq!(rig.cancel(nested, true), Some(Where::Worker));
        }
        rig.refuse(0, nested);
        goes_on(rig, outer);
    }
}

#[test]
fn a_nested_call_that_is_answered_leaves_its_worker_as_it_was() {
    for stream in [false, true] {
        let (mut rig, outer) = waiting(1, 0);
        rig.chained(stream).unwrap();
        rig.answer_nth(0, 1, SHORT);
        goes_on(rig, outer);
    }
}

#[test]
fn a_nested_call_that_the_connection_gives_back_is_nested_again() {
    for stream in [false, true] {
        let (mut rig, outer) = waiting(1, 0);
        let nested = rig.chained(stream).unwrap();
        let calls = rig.workers[0].has.split_off(1);
        rig.change(|pool, now, after| pool.recalled(0, calls, now, after));
        assert_eq!(rig.ids(0), [outer, nested]);
        rig.answer_nth(0, 1, SHORT);
        goes_on(rig, outer);
    }
}

#[test]
fn a_nested_call_of_a_session_that_is_given_back_is_nested_again() {
    let mut rig = Rig::new(1, 100);
    let session = rig.session().unwrap();
    let outer = rig.submit("t", Some(&session)).unwrap();
    rig.waits(0, outer, true);
    let nested = rig.chained_in(&session).unwrap();
    assert_eq!(rig.ids(0), [outer, nested]);
    let calls = rig.workers[0].has.split_off(1);
    rig.change(|pool, now, after| pool.recalled(0, calls, now, after));
    assert_eq!(rig.ids(0), [outer, nested]);
    assert_eq!(rig.dispatcher.counters().nested, 2);
    rig.answer_nth(0, 1, SHORT);
    goes_on(rig, outer);
}

/// A pool of two workers: the first one waits and holds as many nested calls as it may, the second one
/// serves; and the nested calls.
fn full_beside_one_that_serves() -> Rig {
    let (mut rig, _) = waiting(2, 0);
    for _ in 0..16 {
        let nested = rig.chained_from(&[0]).unwrap();
        rig.waits(0, nested, true);
    }
    assert_eq!(rig.ids(0).len(), 17);
    rig.serve(1);
    rig
}

#[test]
fn a_worker_that_served_and_starts_again_is_waited_for() {
    let mut rig = full_beside_one_that_serves();
    rig.die(1, 0);
    let call = rig.chained(false).unwrap();
    assert_eq!(rig.outcome(call), None, "it is about to begin");
    assert!(rig.begin(1));
    assert_eq!(rig.outcome(call), None, "it starts");
    rig.hello(1);
    assert_eq!(rig.ids(1), [call]);
}

#[test]
fn a_worker_that_fails_to_start_again_is_waited_for_no_longer() {
    let mut rig = full_beside_one_that_serves();
    rig.die(1, 0);
    let call = rig.chained(false).unwrap();
    assert!(rig.begin(1));
    rig.die(1, 0);
    assert_eq!(rig.outcome(call), Some(Err(CallError::WouldDeadlock)));
    let next = rig.chained(false).unwrap();
    assert_eq!(rig.outcome(next), Some(Err(CallError::WouldDeadlock)), "at once");
}

#[test]
fn a_worker_that_does_not_begin_again_in_time_is_waited_for_no_longer() {
    let mut rig = full_beside_one_that_serves();
    rig.die(1, 0);
    let call = rig.chained(false).unwrap();
    rig.pass(nesting::RETURNS_WITHIN - SHORT);
    assert_eq!(rig.outcome(call), None);
    rig.pass(SHORT);
    assert_eq!(rig.outcome(call), Some(Err(CallError::WouldDeadlock)));
    assert!(rig.next.is_none_or(|next| next > rig.now), "nothing is due for ever");
}

#[test]
fn the_oldest_call_of_a_chain_is_nested_first_in_the_innermost_of_its_workers() {
    let config = PoolConfig { workers: 3, queue: 100, ..PoolConfig::default() };
    let mut rig = Rig::of(config, 1);
    let running = rig.submit_many(3);
    let first = rig.chained_from(&[1, 0]).unwrap();
    let second = rig.chained_from(&[0]).unwrap();
    let third = rig.chained_from(&[2]).unwrap();
    assert_eq!(rig.dispatcher.waiting(), 3);
    rig.waits(1, running[1], true);
    assert_eq!(rig.ids(1), [running[1], first]);
    rig.waits(0, running[0], true);
    assert_eq!(rig.ids(0), [running[0], second]);
    assert_eq!(rig.ids(2), [running[2]], "it runs something");
    rig.cancel(third, true);
    rig.waits(2, running[2], true);
    assert_eq!(rig.ids(2), [running[2]], "nobody waits for it any more");
}

#[test]
fn a_session_s_calls_that_wait_for_its_first_one_are_nested_where_that_is_given() {
    let config = PoolConfig { workers: 2, queue: 100, ..PoolConfig::default() };
    let mut rig = Rig::of(config, 1);
    let running = rig.submit_many(2);
    let session = rig.named("s", crate::SessionOptions::default()).unwrap();
    let first = rig.chained_in(&session).unwrap();
    let second = rig.chained_in(&session).unwrap();
    rig.answer(1, SHORT);
    assert_eq!((rig.ids(0), rig.ids(1)), (vec![running[0]], vec![first]));
    rig.waits(1, first, true);
    assert_eq!(rig.ids(1), [first, second]);
}

/// What a report costs while so many calls of chains wait: steps, and nanoseconds.
fn cost_of_reports(waiting: usize) -> (u64, u128) {
    let config = PoolConfig { workers: 2, queue: 200_000, ..PoolConfig::default() };
    let mut rig = Rig::of(config, 1);
    rig.unchecked = true;
    let running = rig.submit_many(2);
    rig.waits(0, running[0], true);
    // The other one runs; half of them have their chain there, the others nowhere.
    for n in 0..waiting {
        rig.chained_from(if n % 2 == 0 { &[1] } else { &[] }).unwrap();
    }
    assert_eq!(rig.dispatcher.waiting(), waiting);
    let steps = |rig: &Rig| {
        let pool = &rig.dispatcher;
        let seats = pool.seats.iter().map(|seat| seat.own.steps + seat.pinned_chained.steps);
        pool.nesting.steps + pool.ledger.steps + seats.sum::<u64>()
    };
    let (before, began) = (steps(&rig), Instant::now());
    for _ in 0..1000 {
        rig.waits(0, running[0], false);
        rig.waits(0, running[0], true);
    }
    ((steps(&rig) - before) / 2000, began.elapsed().as_nanos() / 2000)
}

#[test]
fn a_report_costs_the_same_however_many_calls_of_chains_wait() {
    let few = cost_of_reports(10);
    for waiting in [10_000, 100_000] {
        let many = cost_of_reports(waiting);
        println!("10 wait: {few:?} (steps, ns); {waiting}: {many:?}");
        assert!(many.0 <= few.0 + 2, "{many:?}, not {few:?}");
    }
}

#[test]
fn what_waits_no_more_is_not_kept() {
    let (mut rig, _) = waiting(2, 0);
    assert!(rig.begin(1));
    let kept = rig.chained_from(&[]).unwrap();
    for _ in 0..10_000 {
        let gone = rig.chained_from(&[]).unwrap();
        rig.cancel(gone, true);
    }
    assert!(rig.dispatcher.nesting.len() <= 130, "{}", rig.dispatcher.nesting.len());
    rig.hello(1);
    assert_eq!(rig.ids(1), [kept]);
}
