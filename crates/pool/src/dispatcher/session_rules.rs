//! The rules of sessions, one by one: who is bound to whom, who waits, and how each ends.

use super::rig::{LONG, Rig, SHORT};
use super::*;
use crate::config::Recycle;
use crate::death::KillReason;
use crate::session::{Affinity, SessionEnd, SessionLimits, SessionOptions, Space, Tag};

const TTL: Duration = Duration::from_secs(3600);

fn queue() -> SessionOptions {
    SessionOptions::default()
}

fn fail_fast() -> SessionOptions {
    queue().affinity(Affinity::FailFast)
}

fn hint() -> SessionOptions {
    queue().affinity(Affinity::Hint)
}

fn limited(most: usize) -> Rig {
    let sessions = SessionLimits { most, ..SessionLimits::default() };
    Rig::of(PoolConfig { sessions, ..PoolConfig::default() }, 1)
}

/// How many sessions there are.
fn count(rig: &Rig) -> usize {
    rig.dispatcher.session_infos(rig.now).len()
}

fn ended(rig: &Rig, place: usize, tag: &Tag, reason: &'static str) -> bool {
    rig.told.contains(&(place, SessionNews::Ended { id: tag.id, reason }))
}

#[test]
fn a_thousand_first_calls_find_one_worker() {
    for options in [queue(), fail_fast()] {
        let mut rig = Rig::new(4, 10_000);
        rig.unchecked = true;
        // Nobody has room when they come.
        let busy = rig.submit_many(4);
        let session = rig.named("s", options).unwrap();
        let calls: Vec<_> = (0..1_000).map(|_| rig.submit("t", Some(&session)).unwrap()).collect();
        let others = rig.submit_many(10);
        assert_eq!(rig.place_of(&session), None);
        rig.answer(2, LONG);
        assert_eq!(rig.place_of(&session), Some(2));
        rig.unchecked = false;
        rig.check();
        assert_eq!(rig.ids(2), calls[..1]);
        drop(busy);
        match options.affinity {
            Affinity::Queue => {
                for &call in &calls {
                    assert_eq!(rig.ids(2), [call], "in their order, and nothing else between");
                    rig.answer(2, LONG);
                }
                assert_eq!(rig.ids(2), others[..1]);
            }
            _ => {
                let busy = CallError::WorkerBusy { worker: worker_id(2) };
                for &call in &calls[1..] {
                    assert_eq!(rig.outcome(call), Some(Err(busy.clone())));
                }
            }
        }
    }
}

#[test]
fn a_session_gets_the_worker_that_has_the_fewest() {
    let mut rig = Rig::new(3, 100);
    let mut places: Vec<_> = (0..6)
        .map(|n| {
            let session = rig.named(&format!("s{n}"), queue()).unwrap();
            rig.submit("t", Some(&session)).unwrap();
            let place = rig.place_of(&session).unwrap();
            rig.answer(place, LONG);
            place
        })
        .collect();
    places.sort_unstable();
    assert_eq!(places, [0, 0, 1, 1, 2, 2]);
}

/// Calls that waited for their session's worker keep their place before younger ones that are bound
/// to the same worker.
#[test]
fn what_waited_to_be_bound_keeps_its_order() {
    let mut rig = Rig::new(2, 100);
    let [old, new] = ["old", "new"].map(|name| rig.named(name, queue()).unwrap());
    let first = rig.submit("t", Some(&old)).unwrap();
    let other = rig.submit("t", None).unwrap();
    let waiting = [(); 2].map(|()| rig.submit("t", Some(&new)).unwrap());
    let bound = rig.submit("t", Some(&old)).unwrap();
    let last = rig.submit("t", Some(&new)).unwrap();
    assert_eq!((rig.ids(0), rig.ids(1)), (vec![first], vec![other]));
    let mut order = Vec::new();
    while let Some(&id) = rig.ids(0).first() {
        order.push(id);
        rig.answer(0, LONG);
    }
    assert_eq!(order, [first, waiting[0], waiting[1], bound, last]);
}

#[test]
fn fail_fast_takes_a_free_place_and_nothing_else() {
    let mut rig = Rig::new(1, 100);
    // Its calls are so short that others are sent ahead.
    rig.submit_many(20);
    (0..20).for_each(|_| rig.answer(0, SHORT));
    let session = rig.named("s", fail_fast()).unwrap();
    let first = rig.submit("t", Some(&session)).unwrap();
    assert_eq!(rig.ids(0), [first]);
    let busy = rig.submit("t", Some(&session)).unwrap();
    let stream = rig.stream(Some(&session)).unwrap();
    for refused in [busy, stream] {
        let error = rig.outcome(refused).unwrap().unwrap_err();
        assert_eq!(error, CallError::WorkerBusy { worker: worker_id(0) });
    }
    rig.answer(0, SHORT);
    let next = rig.stream(Some(&session)).unwrap();
    assert_eq!(rig.ids(0), [next]);
}

#[test]
fn a_hint_goes_where_there_is_room_and_prefers_where_it_was_last() {
    let mut rig = Rig::new(2, 100);
    let session = rig.named("s", hint()).unwrap();
    let call = |rig: &mut Rig| rig.submit("t", Some(&session)).unwrap();
    let first = call(&mut rig);
    assert_eq!(rig.ids(0), [first]);
    let second = call(&mut rig);
    assert_eq!(rig.ids(1), [second], "the other one is busy");
    rig.answer(0, LONG);
    rig.answer(1, LONG);
    let third = call(&mut rig);
    assert_eq!(rig.ids(1), [third], "it was there last");
    assert_eq!(rig.dispatcher.counters().sessions_moved, 1);
    // A death costs it nothing that was not begun.
    rig.die(1, 0);
    assert_eq!(rig.ids(0), [third]);
    assert_eq!(session.end(), None);
    rig.answer(0, LONG);
    rig.end_session(&session);
    assert!(ended(&rig, 0, &session, "closed"));
}

#[test]
fn a_hint_does_not_hold_up_the_replacement_of_its_worker() {
    let mut rig = Rig::new(1, 100);
    let session = rig.named("s", hint()).unwrap();
    rig.submit("t", Some(&session)).unwrap();
    rig.answer(0, LONG);
    assert!(rig.recycle(0));
    rig.start_all();
    assert!(rig.workers[0].stop.is_cancelled());
    let next = rig.submit("t", Some(&session)).unwrap();
    assert_eq!(rig.ids(1), [next]);
}

#[test]
fn a_lost_session_stays_lost_until_it_is_made_again() {
    let mut rig = Rig::new(2, 100);
    let session = rig.named("s", queue()).unwrap();
    rig.submit("t", Some(&session)).unwrap();
    rig.answer(0, LONG);
    rig.die(0, 0);
    rig.serve(0);
    for _ in 0..3 {
        let again = rig.named("s", queue()).unwrap();
        let error = rig.submit("t", Some(&again)).unwrap_err();
        assert!(matches!(error, CallError::SessionLost { .. }), "{error:?}");
    }
    assert_eq!(rig.dispatcher.counters().sessions_lost, 1);
    let made = rig.change(|p, now, after| p.recreate_session(&session, now, after)).unwrap();
    assert_ne!(made.id, session.id);
    assert!(rig.submit("t", Some(&made)).is_ok());
    assert!(rig.submit("t", Some(&session)).is_err(), "the lost one is another one");
    let found = rig.change(|p, now, after| p.recreate_session(&session, now, after)).unwrap();
    assert_eq!(found.id, made.id, "who comes second finds it");
    assert_eq!(count(&rig), 1);
}

#[test]
fn one_without_a_name_that_is_there_is_not_made_again() {
    let mut rig = Rig::new(2, 100);
    let session = rig.session().unwrap();
    let again = |rig: &mut Rig| {
        rig.change(|p, now, after| p.recreate_session(&session, now, after)).unwrap().id
    };
    assert_eq!(again(&mut rig), session.id);
    assert_eq!(count(&rig), 1);
    rig.die(rig.place_of(&session).unwrap(), 0);
    assert_ne!(again(&mut rig), session.id, "it is lost");
}

#[test]
fn a_session_whose_worker_is_replaced_is_lost_at_the_bound_by_that_name() {
    let recycle = Recycle::default();
    let bound = recycle.drain_within;
    let mut rig = Rig::of(PoolConfig { recycle, ..PoolConfig::default() }, 1);
    let session = rig.named("s", queue()).unwrap();
    rig.submit("t", Some(&session)).unwrap();
    rig.answer(0, LONG);
    assert!(rig.recycle(0));
    rig.start_all();
    rig.pass(bound - SHORT);
    assert_eq!(session.end(), None);
    rig.pass(SHORT);
    let end = session.end().unwrap();
    assert_eq!(end.as_str(), "recycled");
    assert_eq!(end.death(), Some(&Death::Killed(KillReason::Recycled)));
}

#[test]
fn a_session_expires_to_the_moment_and_each_use_moves_that() {
    let mut rig = Rig::new(1, 100);
    let session = rig.named("s", queue()).unwrap();
    let alive = |rig: &Rig| count(rig) == 1 && session.end().is_none();
    rig.pass(TTL - SHORT);
    assert!(alive(&rig));
    rig.named("s", queue()).unwrap();
    rig.pass(TTL - SHORT);
    rig.submit("t", Some(&session)).unwrap();
    rig.pass(10 * TTL);
    assert!(alive(&rig), "a running call keeps it");
    rig.answer(0, LONG);
    rig.pass(TTL - SHORT);
    assert!(alive(&rig), "from its end on");
    rig.pass(SHORT);
    assert_eq!(session.end(), Some(&SessionEnd::Expired));
    assert_eq!(count(&rig), 0);
    assert!(ended(&rig, 0, &session, "expired"));
    let error = rig.submit("t", Some(&session)).unwrap_err();
    assert_eq!(error, CallError::SessionEnded { end: SessionEnd::Expired });
    assert_eq!(rig.next, None, "nothing is left to wait for");
    assert_eq!(rig.dispatcher.counters().sessions_expired, 1);
}

/// The timer looks once per time to live, however often a session is used.
#[test]
fn uses_do_not_wake_the_keeper() {
    let mut rig = Rig::new(1, 100);
    let session = rig.named("s", queue()).unwrap();
    let looks = rig.next;
    for _ in 0..100 {
        rig.now += Duration::from_secs(30);
        rig.submit("t", Some(&session)).unwrap();
        rig.answer(0, LONG);
        assert_eq!(rig.next, looks);
    }
}

#[test]
fn sessions_expire_each_at_its_time() {
    let mut rig = limited(1_000);
    let ttl = |n: u64| Duration::from_secs(1 + n * 7919 % 500);
    for n in 0..500 {
        rig.named(&n.to_string(), queue().ttl(ttl(n))).unwrap();
    }
    rig.named("for ever", queue().ttl(Duration::MAX)).unwrap();
    for second in 1..=500 {
        rig.pass(Duration::from_secs(1));
        let left = (0..500).filter(|n| ttl(*n) > Duration::from_secs(second)).count();
        assert_eq!(count(&rig), left + 1, "after {second} s");
    }
}

#[test]
fn a_lost_session_is_forgotten_when_nobody_asks_for_it() {
    let mut rig = Rig::new(1, 100);
    let session = rig.named("s", queue()).unwrap();
    rig.submit("t", Some(&session)).unwrap();
    rig.die(0, 1);
    rig.serve(0);
    rig.pass(TTL - SHORT);
    rig.submit("t", Some(&session)).unwrap_err();
    rig.pass(TTL - SHORT);
    assert_eq!(count(&rig), 1);
    rig.pass(SHORT);
    assert_eq!((count(&rig), rig.dispatcher.counters().sessions_expired), (0, 0));
}

#[test]
fn one_more_than_may_be_is_refused() {
    let mut rig = limited(2);
    let first = rig.named("a", queue().ttl(LONG)).unwrap();
    rig.session().unwrap();
    let quota = Err(CallError::SessionQuota { limit: 2 });
    assert_eq!(rig.named("b", queue()).map(|_| ()), quota);
    assert_eq!(rig.change(Dispatcher::open_session).map(|_| ()), quota);
    assert!(rig.named("a", queue().ttl(LONG)).is_ok(), "who is there is found");
    rig.now += LONG;
    assert!(rig.named("b", queue()).is_ok(), "one has expired, though nobody looked");
    assert_eq!(first.end(), Some(&SessionEnd::Expired));
    assert_eq!(rig.dispatcher.counters().sessions_refused, 2);
}

#[test]
fn names_of_a_space_are_its_own_and_so_is_its_quota() {
    let mut rig = limited(4);
    let space = rig.dispatcher.add_space(2);
    let ours = rig.named("a", queue()).unwrap();
    // Other options: in one space that would be a conflict.
    let theirs = rig.named_in(space, "a", hint()).unwrap();
    assert_ne!(ours.id, theirs.id);
    assert_eq!(rig.named_in(space, "a", hint()).unwrap().id, theirs.id);
    let second = rig.named_in(space, "b", queue()).unwrap();
    let quota = |limit| Err(CallError::SessionQuota { limit });
    assert_eq!(rig.named_in(space, "c", queue()).map(|_| ()), quota(2));
    assert!(rig.named("b", queue()).is_ok(), "the host has room");
    assert_eq!(rig.named("c", queue()).map(|_| ()), quota(4), "all of them count for the pool");
    let closed = rig.change(|p, now, after| p.close_named((Space::HOST, "a"), now, after));
    assert!(closed && theirs.end().is_none());
    let again = rig.change(|p, now, after| p.recreate_session(&ours, now, after)).unwrap();
    assert_eq!(rig.named("a", queue()).unwrap().id, again.id, "it is where it was");

    rig.submit("t", Some(&second)).unwrap();
    rig.change(|p, now, after| p.drop_space(space, now, after));
    for tag in [&theirs, &second] {
        assert_eq!(tag.end(), Some(&SessionEnd::Closed));
    }
    assert_eq!(rig.named_in(space, "a", hint()).map(|_| ()), quota(0));
    let next = rig.dispatcher.add_space(1);
    assert_ne!(next, space, "a call of it is open");
    rig.answer(0, LONG);
    assert_eq!(rig.dispatcher.add_space(1), space, "its place is used again");
    assert_eq!(count(&rig), 2);
}

#[test]
fn a_name_has_one_set_of_options() {
    let mut rig = Rig::new(1, 100);
    rig.named("s", queue()).unwrap();
    let error = rig.named("s", hint()).unwrap_err();
    assert_eq!(error, CallError::SessionConflict { name: "s".to_owned() });
    let other = rig.named("s", queue().ttl(LONG)).unwrap_err();
    assert_eq!(other, error);
}

#[test]
fn a_closed_session_finishes_what_it_was_given() {
    let mut rig = Rig::new(1, 100);
    let session = rig.named("s", queue()).unwrap();
    let running = rig.submit("t", Some(&session)).unwrap();
    let waiting = rig.submit("t", Some(&session)).unwrap();
    assert!(rig.end_session(&session));
    assert!(!rig.end_session(&session), "once");
    let error = rig.submit("t", Some(&session)).unwrap_err();
    assert_eq!(error, CallError::SessionEnded { end: SessionEnd::Closed });
    let next = rig.named("s", queue()).unwrap();
    assert_ne!(next.id, session.id, "its name is free");
    assert_eq!(rig.ids(0), [running]);
    rig.answer(0, LONG);
    assert_eq!(rig.ids(0), [waiting]);
    assert!(!ended(&rig, 0, &session, "closed"));
    rig.answer(0, LONG);
    assert!(ended(&rig, 0, &session, "closed"), "when the last is over");
    assert_eq!(rig.dispatcher.workers()[0].sessions, 0);
}

#[test]
fn a_worker_is_told_a_name_once_before_its_first_call() {
    let mut rig = Rig::new(1, 100);
    let session = rig.named("s", queue()).unwrap();
    assert_eq!(rig.told, []);
    for _ in 0..3 {
        rig.submit("t", Some(&session)).unwrap();
        rig.answer(0, LONG);
    }
    assert_eq!(rig.told, [(0, SessionNews::Named { id: session.id, name: "s".into() })]);
    rig.told.clear();
    let unnamed = rig.session().unwrap();
    rig.end_session(&unnamed);
    assert_eq!(rig.told, [], "of one without calls there is nothing to say");
    let unnamed = rig.session().unwrap();
    rig.submit("t", Some(&unnamed)).unwrap();
    rig.answer(0, LONG);
    rig.end_session(&unnamed);
    assert_eq!(rig.told, [(0, SessionNews::Ended { id: unnamed.id, reason: "closed" })]);
}

#[test]
fn a_worker_that_does_not_claim_it_is_told_nothing() {
    let mut rig = Rig::new(1, 100);
    rig.die(0, 0);
    assert!(rig.begin(0));
    let tools = vec![ToolInfo::new("t", 7, snakehouse_wire::ToolKind::Function)];
    let hail = Hail { tools, capacity: 1, hears_of_sessions: false };
    rig.change(|pool, now, after| pool.serving(0, hail, now, after));
    let session = rig.named("s", queue()).unwrap();
    rig.submit("t", Some(&session)).unwrap();
    rig.answer(0, LONG);
    rig.end_session(&session);
    assert_eq!(rig.told, []);
}

#[test]
fn a_stop_ends_every_session() {
    let mut rig = Rig::new(1, 100);
    let unbound = rig.named("unbound", queue()).unwrap();
    let bound = rig.named("bound", queue()).unwrap();
    rig.submit("t", Some(&bound)).unwrap();
    let mut after = After::default();
    rig.dispatcher.stop(rig.now, &mut after);
    rig.settle(after);
    assert_eq!(unbound.end(), Some(&SessionEnd::Closed));
    assert!(rig.submit("t", Some(&bound)).is_err());
    rig.die(0, 1);
    assert!(bound.end().is_some());
}

/// How many sessions are found in a second, and what a call of one costs beside any call. A
/// measurement: `cargo nextest run -p snakehouse-pool measure_the_sessions --run-ignored only
/// --no-capture`.
#[test]
#[ignore = "a measurement"]
fn measure_the_sessions() {
    use snakehouse_base::{Clock, SystemClock};
    const SESSIONS: usize = 10_000;
    const CALLS: u32 = 200_000;
    let config = PoolConfig { workers: 4, ..PoolConfig::default() };
    let mut rig = Rig::of(config, 1);
    rig.unchecked = true;
    let names: Vec<_> = (0..SESSIONS).map(|n| format!("user-{n}")).collect();
    let sessions: Vec<_> = names.iter().map(|name| rig.named(name, queue()).unwrap()).collect();
    let timed = |what: &str, work: &mut dyn FnMut(usize)| {
        let before = SystemClock.now();
        (0..CALLS as usize).for_each(&mut *work);
        let each = (SystemClock.now() - before) / CALLS;
        println!("{what}: {each:?}, {:.0} thousand/s", 1e-3 / each.as_secs_f64());
    };
    timed("look up one of 10,000", &mut |n| {
        let mut after = After::default();
        let name = &names[n * 7919 % SESSIONS];
        rig.dispatcher.find_session((Space::HOST, name), queue(), rig.now, &mut after).unwrap();
    });
    timed("a plain call, given and answered", &mut |_| {
        let call = rig.submit("t", None).unwrap();
        rig.answer(0, LONG);
        rig.outcomes.remove(&call);
        rig.tickets.clear();
    });
    for session in &sessions {
        rig.submit("t", Some(session)).unwrap();
        let place = rig.place_of(session).unwrap();
        rig.answer(place, LONG);
    }
    timed("a session's call, given and answered", &mut |n| {
        let session = &sessions[n * 7919 % SESSIONS];
        let call = rig.submit("t", Some(session)).unwrap();
        let place = rig.place_of(session).unwrap();
        rig.answer(place, LONG);
        rig.outcomes.remove(&call);
        rig.tickets.clear();
    });
}
