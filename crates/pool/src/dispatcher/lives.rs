//! The rules of workers, one by one: how many there are, who takes over, who is replaced, and when.

use super::rig::{LONG, Rig, SHORT};
use super::*;
use crate::config::{Recycle, Start};
use crate::death::KillReason;
use crate::worker::WorkerState::{Busy, Dead, Draining, Ready, Standby, Starting};

const AGE: Duration = Duration::from_secs(3600);

fn config(workers: usize) -> PoolConfig {
    PoolConfig { workers, queue: 1000, ..PoolConfig::default() }
}

fn recycled(workers: usize, recycle: Recycle) -> PoolConfig {
    PoolConfig { recycle: Recycle { jitter: 0.0, ..recycle }, ..config(workers) }
}

#[test]
fn a_pool_of_a_fixed_size_never_wakes_its_keeper() {
    let mut rig = Rig::of(config(2), 1);
    rig.submit_many(50);
    (0..20).for_each(|_| rig.answer(0, LONG));
    assert_eq!(rig.next, None);
    rig.die(1, 1);
    rig.serve(1);
    assert_eq!(rig.next, None);
}

#[test]
fn a_lazy_pool_starts_with_its_first_call_and_one_worker() {
    let mut rig = Rig::of(PoolConfig { start: Start::Lazy, ..config(3) }, 1);
    assert_eq!(rig.states(), []);
    let first = rig.submit("t", None).unwrap();
    assert_eq!(rig.states(), [Dead]);
    rig.pass(LONG);
    assert_eq!(rig.states(), [Dead], "the one on its way is enough");
    let second = rig.submit("t", None).unwrap();
    rig.pass(LONG);
    assert_eq!(rig.states(), [Dead, Dead]);
    rig.start_all();
    assert_eq!((rig.ids(0), rig.ids(1)), (vec![first], vec![second]));
}

#[test]
fn a_lazy_pool_starts_with_its_first_session() {
    let mut rig = Rig::of(PoolConfig { start: Start::Lazy, ..config(3) }, 1);
    assert!(rig.session().is_none());
    rig.start_all();
    assert!(rig.session().is_some());
}

/// Who waits for a worker that cannot start learns it at once, with what it said.
#[test]
fn a_lazy_pool_that_cannot_start_says_so_to_its_callers() {
    let mut rig = Rig::of(PoolConfig { start: Start::Lazy, ..config(1) }, 1);
    let id = rig.submit("t", None).unwrap();
    assert!(rig.begin(0));
    rig.die(0, 0);
    let mut after = After::default();
    rig.dispatcher.ended("no module named x".to_owned(), rig.now, &mut after);
    rig.settle(after);
    let error = rig.outcome(id).unwrap().unwrap_err();
    assert_eq!(error, CallError::NoWorker { cause: "no module named x".to_owned() });
    assert_eq!(rig.dispatcher.failed_starts(), 1);
}

#[test]
fn a_pool_grows_while_calls_wait_and_shrinks_when_idle() {
    let config = PoolConfig { min_workers: Some(1), ..config(3) };
    let (grow, shrink) = (config.grow_after, config.shrink_after);
    let mut rig = Rig::of(config, 1);
    rig.submit_many(10);
    assert_eq!(rig.states(), [Busy], "nothing has waited yet");
    rig.pass(grow - SHORT);
    assert_eq!(rig.states(), [Busy]);
    rig.pass(SHORT);
    assert_eq!(rig.states(), [Busy, Dead]);
    rig.start_all();
    rig.pass(grow);
    rig.start_all();
    rig.pass(10 * grow);
    assert_eq!(rig.states(), [Busy; 3], "no more than three");
    for place in 0..3 {
        while !rig.ids(place).is_empty() {
            rig.answer(place, LONG);
        }
    }
    rig.pass(shrink - SHORT);
    assert_eq!(rig.states(), [Ready; 3]);
    rig.pass(SHORT);
    rig.obey();
    assert_eq!(rig.states(), [Ready]);
    assert_eq!(rig.next, None, "nothing is left to wait for");
    let counters = rig.dispatcher.counters();
    assert_eq!((counters.grown, counters.shrunk, counters.deaths), (2, 2, 0));
}

/// A worker that has a session is not idle.
#[test]
fn a_session_keeps_its_worker() {
    let config = PoolConfig { min_workers: Some(0), ..config(1) };
    let shrink = config.shrink_after;
    let mut rig = Rig::of(config, 1);
    rig.submit("t", None).unwrap();
    rig.start_all();
    rig.answer(0, LONG);
    let session = rig.session().unwrap();
    rig.pass(2 * shrink);
    assert_eq!(rig.states(), [Ready]);
    rig.end_session(&session);
    rig.pass(shrink);
    rig.obey();
    assert_eq!(rig.states(), []);
    rig.submit("t", None).unwrap();
    assert_eq!(rig.states(), [Dead], "the next call starts one again");
}

#[test]
fn a_spare_worker_takes_over_at_a_death() {
    let mut rig = Rig::of(PoolConfig { standby: 1, ..config(2) }, 1);
    assert_eq!(rig.states(), [Ready, Ready, Standby]);
    let ids = rig.submit_many(3);
    assert!(rig.ids(2).is_empty(), "it has no calls");
    rig.die(0, 1);
    assert_eq!(rig.states(), [Dead, Busy, Busy]);
    assert_eq!(rig.ids(2), [ids[2]], "within the same moment");
    rig.start_all();
    assert_eq!(rig.states(), [Standby, Busy, Busy], "and the dead one is the next spare one");
    assert_eq!(rig.dispatcher.counters().promoted, 1);
}

#[test]
fn a_spare_worker_takes_over_for_growth() {
    let config = PoolConfig { standby: 1, min_workers: Some(1), ..config(2) };
    let grow = config.grow_after;
    let mut rig = Rig::of(config, 1);
    assert_eq!(rig.states(), [Ready, Standby]);
    let ids = rig.submit_many(2);
    rig.pass(grow);
    assert_eq!(rig.ids(1), [ids[1]]);
    assert_eq!(rig.states(), [Busy, Busy, Dead]);
}

#[test]
fn a_worker_is_replaced_before_it_goes() {
    let mut rig = Rig::of(recycled(1, Recycle { calls: Some(3), ..Recycle::default() }), 1);
    let ids = rig.submit_many(6);
    (0..3).for_each(|_| rig.answer(0, LONG));
    assert_eq!(rig.states(), [Busy, Dead], "it goes on until the other one serves");
    rig.begin(1);
    assert_eq!(rig.states(), [Busy, Starting]);
    rig.hello(1);
    assert_eq!(rig.states(), [Draining, Busy]);
    assert_eq!((rig.ids(0), rig.ids(1)), (vec![ids[3]], vec![ids[4]]));
    rig.answer(0, LONG);
    assert!(rig.workers[0].stop.is_cancelled());
    rig.obey();
    assert_eq!(rig.states(), [Busy]);
    let counters = rig.dispatcher.counters();
    assert_eq!((counters.recycled_calls, counters.failed, counters.deaths), (1, 0, 0));
}

#[test]
fn a_worker_is_replaced_on_request_and_once() {
    let mut rig = Rig::of(config(2), 1);
    assert!(rig.recycle(0));
    assert!(!rig.recycle(0), "it is being replaced");
    assert!(!rig.recycle(2) && !rig.recycle(99), "there is no such worker");
    rig.start_all();
    rig.obey();
    assert_eq!(rig.states(), [Ready, Ready]);
    assert_eq!(rig.dispatcher.counters().recycled_asked, 1);
    assert_eq!(rig.next, None);
}

#[test]
fn a_drain_waits_for_its_sessions_and_not_for_ever() {
    let recycle = Recycle { age: Some(AGE), ..Recycle::default() };
    let bound = recycle.drain_within;
    let mut rig = Rig::of(recycled(1, recycle), 1);
    let session = rig.session().unwrap();
    rig.pass(AGE);
    rig.start_all();
    assert_eq!(rig.states(), [Draining, Ready]);
    let served = rig.submit("t", Some(&session)).unwrap();
    assert_eq!(rig.ids(0), [served], "its session goes on");
    rig.answer(0, LONG);
    rig.pass(bound - SHORT);
    assert_eq!(rig.states(), [Draining, Ready]);
    let running = rig.submit("t", Some(&session)).unwrap();
    let waiting = rig.submit("t", Some(&session)).unwrap();
    rig.pass(SHORT);
    assert!(rig.workers[0].stop.is_cancelled());
    let lost = |error: CallError| match error {
        CallError::SessionLost { cause, .. } => cause == Death::Killed(KillReason::Recycled),
        _ => false,
    };
    assert!(lost(rig.outcome(waiting).unwrap().unwrap_err()));
    assert_eq!(rig.outcome(running), None, "what runs may finish within the grace of a stop");
    assert!(lost(rig.submit("t", Some(&session)).unwrap_err()));
    assert_eq!(session.end().map(|end| end.as_str()), Some("recycled"));
    rig.end_session(&session);
    assert_eq!(rig.dispatcher.counters().sessions_recycled, 1);
}

#[test]
fn a_drain_ends_with_its_last_session() {
    let recycle = Recycle { age: Some(AGE), ..Recycle::default() };
    let mut rig = Rig::of(recycled(1, recycle), 1);
    let session = rig.session().unwrap();
    rig.pass(AGE);
    rig.start_all();
    assert!(!rig.workers[0].stop.is_cancelled());
    rig.end_session(&session);
    assert!(rig.workers[0].stop.is_cancelled());
}

#[test]
fn a_drain_ends_with_a_call_that_is_not_given_out_after_all() {
    for (tool, goes) in [("t", true), ("x", false)] {
        let recycle = Recycle { age: Some(AGE), ..Recycle::default() };
        let mut rig = Rig::of(recycled(1, recycle), 1);
        let session = rig.session().unwrap();
        rig.pass(AGE);
        rig.start_all();
        // The first is about to be fetched by the worker's connection, the second waits behind it.
        let mut submit = |tool| {
            let (call, outcome) = Rig::call(tool, Some(session.clone()), true);
            let mut after = After::default();
            (rig.dispatcher.submit(call, rig.now, &mut after).unwrap(), outcome)
        };
        let (first, _first_outcome) = submit("t");
        let (_, outcome) = submit(tool);
        let _outcome = (!goes).then_some(outcome);
        rig.end_session(&session);
        assert!(!rig.workers[0].stop.is_cancelled());
        let mut after = After::default();
        assert_eq!(rig.dispatcher.cancel(first, rig.now, &mut after), Some(Where::Queue));
        rig.settle(after);
        assert!(rig.workers[0].stop.is_cancelled(), "{tool}");
    }
}

#[test]
fn no_more_than_a_quarter_is_replaced_at_once() {
    let mut rig = Rig::of(recycled(8, Recycle { age: Some(AGE), ..Recycle::default() }), 1);
    rig.pass(AGE);
    assert_eq!(rig.states().iter().filter(|state| **state == Dead).count(), 2);
    for _ in 0..4 {
        assert_eq!(rig.dispatcher.open_workers(), 8, "none is missing meanwhile");
        rig.start_all();
        rig.obey();
    }
    assert_eq!(rig.states(), [Ready; 8]);
    assert_eq!(rig.dispatcher.counters().recycled_age, 8);
    assert!(rig.dispatcher.workers().iter().all(|worker| worker.incarnation.0 <= 2));
}

#[test]
fn chance_keeps_workers_from_being_replaced_together() {
    let recycle = Recycle { age: Some(AGE), jitter: 0.5, seed: Some(7), ..Recycle::default() };
    let mut rig = Rig::of(PoolConfig { recycle, ..config(8) }, 1);
    rig.pass(AGE / 2 - SHORT);
    assert_eq!(rig.dispatcher.counters().recycled_age, 0);
    rig.pass(AGE / 4);
    let by_then = rig.dispatcher.counters().recycled_age;
    assert!((1..8).contains(&by_then), "{by_then}");
}

#[test]
fn memory_is_measured_after_calls_and_not_while_nothing_runs() {
    let recycle =
        Recycle { memory: Some(snakehouse_base::ByteSize::mib(64)), ..Recycle::default() };
    let mut rig = Rig::of(recycled(1, recycle), 1);
    assert!(rig.weigh(10), "as it begins");
    rig.submit_many(3);
    rig.answer(0, SHORT);
    rig.answer(0, SHORT);
    assert!(rig.ids(0).is_empty(), "what its first call needs is to be seen");
    assert!(rig.weigh(10));
    rig.answer(0, SHORT);
    assert!(!rig.weigh(10), "not twice in 20 ms");
    rig.pass(Duration::from_millis(20));
    assert!(rig.weigh(64));
    assert_eq!(rig.next, None);
    assert_eq!(rig.states(), [Ready, Dead]);
    assert_eq!(rig.dispatcher.counters().recycled_memory, 1);
}

/// A worker may have one call before its first weighing after a call: one that it never ran is not that.
#[test]
fn a_call_that_leaves_without_an_answer_uses_up_nothing() {
    let memory = Some(snakehouse_base::ByteSize::mib(64));
    let recycle = Recycle { memory, ..Recycle::default() };
    for way in ["cancelled in the outbox", "refused", "taken back"] {
        let mut rig = Rig::of(recycled(2, recycle.clone()), 1);
        assert!(rig.weigh(10), "as they begin");
        match way {
            "refused" => {
                let id = rig.submit("t", None).unwrap();
                rig.refuse(0, id);
            }
            "taken back" => {
                let id = rig.submit("t", None).unwrap();
                assert_eq!(rig.recall(0, 0), Recalled::Yes, "the other one has room");
                assert_eq!(rig.ids(1), [id]);
                rig.recall_over(0);
            }
            _ => {
                let (call, _outcome) = Rig::call("t", None, false);
                let mut after = After::default();
                let ticket = rig.dispatcher.submit(call, rig.now, &mut after).unwrap();
                assert_eq!(rig.dispatcher.cancel(ticket, rig.now, &mut after), Some(Where::Queue));
                rig.settle(after);
            }
        }
        let ids = rig.submit_many(2);
        assert_eq!(rig.ids(0), [ids[0]], "{way}");
    }
}

/// The first of them may be a stream that lasts.
#[test]
fn a_weighed_worker_begins_as_many_calls_as_it_runs_at_once() {
    let memory = Some(snakehouse_base::ByteSize::mib(64));
    let recycle = Recycle { memory, ..Recycle::default() };
    let mut rig = Rig::of(recycled(1, recycle), 3);
    assert!(rig.weigh(10), "as it begins");
    let stream = rig.stream(None).unwrap();
    let calls = rig.submit_many(3);
    assert_eq!(rig.ids(0), [stream, calls[0], calls[1]]);
    rig.answer_nth(0, 1, LONG);
    assert!(rig.weigh(10));
    assert_eq!(rig.ids(0), [stream, calls[1], calls[2]]);
}

/// What is on another host has no process here that could be weighed.
#[test]
fn a_worker_without_a_process_here_is_not_weighed() {
    let memory = Some(snakehouse_base::ByteSize::mib(64));
    let recycle = Recycle { memory, ..Recycle::default() };
    let mut rig = Rig::idle(recycled(1, recycle), 1);
    rig.keep();
    assert!(rig.begin(0));
    rig.dispatcher.started(0, 0, crate::Birth::Attached { peer: "there".to_owned() });
    let mut after = After::default();
    let tool = ToolInfo::new("t", 7, snakehouse_wire::ToolKind::Function);
    let hail = Hail { tools: vec![tool], capacity: 1, hears_of_sessions: true };
    rig.dispatcher.serving(0, hail, rig.now, &mut after);
    assert!(!after.keeper, "there is nothing to do");
    rig.settle(after);
    rig.submit_many(3);
    (0..3).for_each(|_| rig.answer(0, LONG));
    assert_eq!(rig.next, None);
}

/// The longest time that there is means never, and is no reason to fail.
#[test]
fn the_longest_times_are_as_good_as_never() {
    let ever = Duration::MAX;
    let recycle = Recycle { age: Some(ever), drain_within: ever, ..Recycle::default() };
    let config = PoolConfig {
        min_workers: Some(1),
        grow_after: ever,
        shrink_after: ever,
        ..recycled(2, recycle)
    };
    let mut rig = Rig::of(config, 1);
    rig.submit_many(3);
    rig.pass(AGE);
    assert_eq!(rig.states(), [Busy], "it does not grow");
    assert!(rig.recycle(0));
    rig.start_all();
    assert_eq!(rig.states(), [Draining, Busy]);
    rig.answer(0, LONG);
    (0..2).for_each(|_| rig.answer(1, LONG));
    rig.pass(AGE);
    assert_eq!(rig.states()[1], Ready, "nor shrink");
}

/// Each would be replaced by one that is replaced, for ever.
#[test]
fn a_limit_that_no_worker_can_keep_replaces_none() {
    let recycle =
        Recycle { memory: Some(snakehouse_base::ByteSize::mib(64)), ..Recycle::default() };
    for at_once in [true, false] {
        let mut rig = Rig::of(recycled(1, recycle.clone()), 1);
        rig.weigh(if at_once { 64 } else { 10 });
        rig.submit_many(20);
        for _ in 0..20 {
            rig.answer(0, SHORT);
            rig.weigh(64);
            rig.pass(Duration::from_millis(20));
        }
        let counters = rig.dispatcher.counters();
        assert_eq!((counters.recycled_memory, counters.memory_too_low), (0, 1), "{at_once}");
        assert_eq!((counters.answered, rig.states()), (20, vec![Ready]));
    }
}

/// One of them took a call that needs much, and others did with less.
#[test]
fn a_first_call_that_holds_too_much_has_its_worker_replaced_if_that_is_not_the_rule() {
    let recycle =
        Recycle { memory: Some(snakehouse_base::ByteSize::mib(64)), ..Recycle::default() };
    let mut rig = Rig::of(recycled(1, recycle), 1);
    for held in [10, 64] {
        rig.weigh(10);
        rig.submit("t", None).unwrap();
        rig.answer(0, SHORT);
        rig.weigh(held);
        if held == 10 {
            rig.die(0, 0);
            rig.serve(0);
        }
    }
    let counters = rig.dispatcher.counters();
    assert_eq!((counters.recycled_memory, counters.memory_too_low), (1, 0));
}

/// The one to be replaced dies first: then its own restart is the replacement.
#[test]
fn a_death_saves_a_replacement() {
    let mut rig = Rig::of(recycled(1, Recycle { age: Some(AGE), ..Recycle::default() }), 1);
    rig.pass(AGE);
    assert_eq!(rig.states(), [Ready, Dead]);
    rig.die(0, 0);
    rig.start_all();
    rig.start_all();
    assert_eq!(rig.states(), [Ready]);
    assert_eq!(rig.dispatcher.counters().refused_steps, 0);
}

#[test]
fn all_that_are_killed_come_back() {
    let mut rig = Rig::of(config(4), 1);
    let ids = rig.submit_many(20);
    (0..4).for_each(|place| rig.die(place, 1));
    assert_eq!(rig.states(), [Dead; 4]);
    rig.start_all();
    while let Some(place) = (0..4).find(|place| !rig.ids(*place).is_empty()) {
        rig.answer(place, LONG);
    }
    let done = ids.iter().filter(|id| matches!(rig.outcome(**id), Some(Ok(_)))).count();
    assert_eq!(done, 16);
}
