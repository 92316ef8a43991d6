//! Sessions with names, on real workers: bound once, lost by name, ended on time.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use snakehouse_base::{ByteSize, Coded, Kind};
use snakehouse_pool::{
    Affinity, Args, CallError, PoolConfig, SessionEnd, SessionLimits, SessionOptions, Value,
    WorkerSpec,
};
use tokio::task::yield_now;

use crate::support::{Rig, Trace, Watched, call, python, run, soon, tools, workers};

fn queue() -> SessionOptions {
    SessionOptions::default()
}

#[test]
fn a_thousand_first_calls_reach_one_worker_and_a_death_is_told_to_each_call_until_it_is_made_again()
{
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(4)).await;
        let calls = (0..1_000).map(|_| {
            let session = pool.named_session("user-42", queue()).unwrap();
            async move { session.call("pid", Args::none(), soon()).await.unwrap() }
        });
        let pids = join_all(calls).await;
        let pids: BTreeSet<_> = pids.iter().map(|pid| pid.as_i64().unwrap()).collect();
        let session = pool.named_session("user-42", queue()).unwrap();
        let worker = session.worker().unwrap();
        assert_eq!(pids, BTreeSet::from([i64::from(worker.pid)]));

        Watched::new(worker.pid).kill();

        let end = session.ended().await;
        assert_eq!((end.as_str(), session.is_lost()), ("worker_died", true));
        for _ in 0..20 {
            let again = pool.named_session("user-42", queue()).unwrap();
            let error = again.call("pid", Args::none(), soon()).await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (Kind::Unavailable, "session_lost"));
        }
        let next = session.recreate().unwrap();
        assert_eq!(next.call("count", Args::none(), soon()).await.unwrap(), Value::from(1));
        assert_ne!(next.worker().unwrap(), worker);
        assert_eq!(
            session.call("pid", Args::none(), soon()).await.unwrap_err().code(),
            "session_lost"
        );
        let found = pool.named_session("user-42", queue()).unwrap();
        assert_eq!(found.call("count", Args::none(), soon()).await.unwrap(), Value::from(2));
        let counters = pool.counters();
        assert_eq!((counters.sessions_made, counters.sessions_lost), (2, 1));
        rig.end().await;
    });
}

#[test]
fn each_affinity_does_what_it_says_when_its_worker_is_busy() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(2)).await;
        let [waits, fails, moves] =
            [Affinity::Queue, Affinity::FailFast, Affinity::Hint].map(|affinity| {
                let name = format!("{affinity:?}");
                pool.named_session(&name, queue().affinity(affinity)).unwrap()
            });
        let trace = Trace::new();
        for session in [&waits, &fails, &moves] {
            let mark = format!("hold {}", session.name().unwrap());
            let mut long = Box::pin(session.call("append", trace.args(&mark).arg(600.0), soon()));
            tokio::select! {
                biased;
                _ = &mut long => panic!("it slept enough"),
                () = trace.wait_for(&mark) => {}
            }
            let home = session.worker().unwrap();
            let second = session.call("pid", Args::none(), soon());
            let stream = session.stream("pid", Args::none(), soon()).await;
            match session.name().unwrap() {
                "Queue" => {
                    let mut second = Box::pin(second);
                    let stream = stream.unwrap();
                    tokio::select! {
                        biased;
                        _ = &mut second => panic!("it did not wait"),
                        () = yield_now() => {}
                    }
                    drop(long);
                    let pid = Value::from(i64::from(home.pid));
                    assert_eq!(second.await.unwrap(), pid);
                    assert_eq!(stream.result().await.unwrap(), pid, "streams do as calls do");
                }
                "FailFast" => {
                    let error = second.await.unwrap_err();
                    assert_eq!((error.kind(), error.code()), (Kind::Saturated, "worker_busy"));
                    assert!(error.is_without_effect());
                    let error = stream.unwrap().result().await.unwrap_err();
                    assert_eq!(error.code(), "worker_busy");
                }
                _ => {
                    let pid = second.await.unwrap();
                    assert_ne!(pid, Value::from(i64::from(home.pid)));
                    assert_eq!(stream.unwrap().result().await.unwrap(), pid);
                    assert_ne!(session.worker(), Some(home), "it prefers the last one now");
                }
            }
        }
        rig.end().await;
    });
}

#[test]
fn a_session_expires_and_says_so() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let options = queue().ttl(Duration::from_secs(1));
        let session = pool.named_session("short", options).unwrap();
        session.call("count", Args::none(), soon()).await.unwrap();
        assert_eq!(session.ended().await, SessionEnd::Expired);
        let error = session.call("count", Args::none(), soon()).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Unavailable, "session_ended"));
        assert_eq!(pool.sessions(), []);
        assert_eq!(pool.counters().sessions_expired, 1);
        rig.end().await;
    });
}

#[test]
fn what_cannot_be_a_session_is_refused_by_name() {
    run(async {
        let rig = Rig::new().await;
        let sessions = SessionLimits { most: 1, ..SessionLimits::default() };
        let pool = rig.pool(PoolConfig { sessions, ..workers(1) }).await;
        let code = |name: &str, options| {
            let error: CallError = pool.named_session(name, options).unwrap_err();
            assert!(error.is_without_effect());
            (error.kind(), error.code())
        };
        assert_eq!(code("", queue()), (Kind::InvalidInput, "bad_session_name"));
        let first = pool.named_session("first", queue()).unwrap();
        assert_eq!(code("second", queue()), (Kind::Saturated, "session_quota"));
        let other = queue().affinity(Affinity::Hint);
        assert_eq!(code("first", other), (Kind::Conflict, "session_conflict"));
        let infos = pool.sessions();
        assert_eq!(infos.len(), 1);
        assert_eq!((infos[0].name.as_deref(), infos[0].worker), (Some("first"), None));
        first.call("count", Args::none(), soon()).await.unwrap();
        let infos = pool.sessions();
        assert_eq!((infos[0].calls, infos[0].worker), (1, first.worker()));
        assert!(pool.close_session("first") && !pool.close_session("first"));
        assert_eq!(first.ended().await, SessionEnd::Closed);
        // The pool hears of an answer a little later than who waits for it.
        while pool.named_session("second", other).is_err() {
            yield_now().await;
        }
        call(&pool, "pid", Args::none()).await.unwrap();
        rig.end().await;
    });
}

fn spec() -> WorkerSpec {
    let tools = tools().with_file_name("session_tools.py");
    WorkerSpec::python("sessions", python()).module(tools.to_str().unwrap())
}

#[test]
fn python_knows_a_session_s_name_and_drops_its_state_with_it() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(2)).await;
        let ends = Trace::new();
        let note = || Args::none().arg(ends.path());
        for _ in 0..2 {
            let session = pool.named_session("ann", queue()).unwrap();
            let who = session.call("who", Args::none(), soon()).await.unwrap();
            assert_eq!(who.as_str(), Some("ann"));
            for sum in [2, 4] {
                let added = session.call("add", Args::none().arg(2), soon()).await.unwrap();
                assert_eq!(added, Value::from(sum), "its state is there, and new each time");
            }
            session.call("note_in", note(), soon()).await.unwrap();
            session.close();
        }
        let short = queue().ttl(Duration::from_secs(1));
        let session = pool.named_session("bob", short).unwrap();
        session.call("note_in", note(), soon()).await.unwrap();
        ends.wait_for("bob expired").await;
        assert_eq!(ends.lines().iter().filter(|line| *line == "ann closed").count(), 2);

        let left = pool.named_session("eve", queue()).unwrap();
        left.call("note_in", note(), soon()).await.unwrap();
        pool.stop().await;
        assert!(ends.lines().contains(&"eve worker_ended".to_owned()), "{:?}", ends.lines());
        rig.end().await;
    });
}

#[test]
fn a_session_s_state_has_the_limits_of_the_pool() {
    run(async {
        let rig = Rig::new().await;
        let sessions = SessionLimits { state_bytes: ByteSize::kib(64), ..SessionLimits::default() };
        let pool = rig.pool_of(spec(), PoolConfig { sessions, ..workers(1) }).await;
        let session = pool.named_session("ann", queue()).unwrap();
        let kept = |length: usize| Args::none().arg("x".repeat(length));
        session.call("keep", kept(60_000), soon()).await.unwrap();
        match session.call("keep", kept(70_000), soon()).await.unwrap_err() {
            CallError::Tool { failure, .. } => assert_eq!(failure.code, "session_state_full"),
            error => panic!("{error}"),
        }
        rig.end().await;
    });
}
