//! Sessions are pinned to one life of one worker.

use snakehouse_base::{Coded, Deadline};
use snakehouse_pool::{Args, CallError, Death, Value};

use crate::support::{Rig, Trace, Watched, call, call_pid, run, soon, workers};

#[test]
fn a_session_stays_where_its_state_is() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(3)).await;
        let session = pool.session(Deadline::never()).await.unwrap();
        for expected in 1..=20 {
            // Others use the pool meanwhile.
            call_pid(&pool).await;
            let count = session.call("count", Args::none(), soon()).await.unwrap();
            assert_eq!(count, Value::from(expected));
        }
        rig.end().await;
    });
}

#[test]
fn a_lost_session_is_a_named_error_for_ever() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let session = pool.session(soon().deadline).await.unwrap();
        assert!(!session.is_lost());
        let trace = Trace::new();
        let args = trace.args("running").arg(600.0);
        let mut running = Box::pin(session.call("append", args, soon()));
        let mut waiting = Box::pin(session.call("count", Args::none(), soon()));
        tokio::select! {
            biased;
            _ = &mut running => panic!("it slept enough"),
            _ = &mut waiting => panic!("it did not wait"),
            () = trace.wait_for("running") => {}
        }

        Watched::new(session.worker().unwrap().pid).kill();

        assert_eq!(session.ended().await.death(), Some(&Death::Signalled { signal: 9 }));
        assert_eq!(running.await.unwrap_err().code(), "worker_died");
        let lost = CallError::SessionLost {
            worker: session.worker().unwrap().id,
            incarnation: session.worker().unwrap().incarnation,
            cause: Death::Signalled { signal: 9 },
        };
        assert_eq!(waiting.await.unwrap_err(), lost);
        // Also when the next incarnation serves.
        call_pid(&pool).await;
        assert_eq!(session.call("count", Args::none(), soon()).await.unwrap_err(), lost);
        let next = pool.session(soon().deadline).await.unwrap();
        assert_eq!(
            next.worker().unwrap().incarnation.0,
            session.worker().unwrap().incarnation.0 + 1
        );
        drop(session);
        assert_eq!(next.call("count", Args::none(), soon()).await.unwrap(), Value::from(1));
        rig.end().await;
    });
}

#[test]
fn one_without_a_name_that_is_not_over_is_the_same_for_each_of_its_handles() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(2)).await;
        let session = pool.session(soon().deadline).await.unwrap();
        session.call("count", Args::none(), soon()).await.unwrap();
        let again = session.recreate().unwrap();
        drop(session);
        assert_eq!(again.call("count", Args::none(), soon()).await.unwrap(), Value::from(2));
        let counters = pool.counters();
        assert_eq!((counters.sessions_made, counters.sessions_closed), (1, 0));
        drop(again);
        assert_eq!(pool.counters().sessions_closed, 1);
        rig.end().await;
    });
}

#[test]
fn sessions_are_spread_over_the_workers() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(2)).await;
        let a = pool.session(soon().deadline).await.unwrap();
        let b = pool.session(soon().deadline).await.unwrap();
        assert_ne!(a.worker().unwrap().id, b.worker().unwrap().id);
        let freed = a.worker().unwrap().id;
        drop(a);
        let c = pool.session(soon().deadline).await.unwrap();
        assert_eq!(c.worker().unwrap().id, freed);
        rig.end().await;
    });
}

#[test]
fn a_session_waits_for_a_worker_that_serves() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let before = pool.session(soon().deadline).await.unwrap();
        call(&pool, "leave_hard", Args::none().arg(1)).await.unwrap_err();
        let after = pool.session(soon().deadline).await.unwrap();
        assert!(before.is_lost());
        assert_ne!(before.worker().unwrap(), after.worker().unwrap());
        rig.end().await;
    });
}
