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
