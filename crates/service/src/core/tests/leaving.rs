//! Sessions that come and go while other things happen.

use snakehouse_base::Coded as _;
use snakehouse_base::id::SeqId;
use snakehouse_testkit::{eventually, real_time};

use super::bench::{Bench, HOLD, create, forward_backward, optim_step, play, sample, script};
use super::fake_engine::World;
use crate::core::load::load;
use crate::core::{FinishReason, NewSession, OpResult, Outcome, Submit, journal};

fn entries(bench: &Bench, dir: &str) -> usize {
    let root = match dir {
        "snapshots" => &bench.core.shared.snapshots,
        _ => &bench.core.shared.saves,
    };
    std::fs::read_dir(root).unwrap().count()
}

#[test]
fn samples_that_were_accepted_are_drawn_though_their_session_finishes() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let world = World::new();
        let bench = Bench::with(home.path(), world.clone(), |_| ()).await;
        let (session, model) = bench.model().await;
        let (_, other) = bench.model().await;
        bench.run(forward_backward(&model, 1, 1)).await;
        let unnamed = Submit::SaveForSampler {
            model: model.clone(),
            seq: SeqId(2),
            name: None,
            sampling_session_seq_id: Some(0),
        };
        let end = bench.run(unnamed).await;
        let Outcome::Done(OpResult::SamplerSaved { sampler }) = end else { panic!("{end:?}") };
        world.rules().gated = true;
        let busy = bench.core.submit(optim_step(&other, 1)).await.unwrap();
        let mut promises = Vec::new();
        for seq in 0..3 {
            promises.push(bench.core.submit(sample(&sampler, seq, None)).await.unwrap());
        }
        bench.core.finish_session(&session, FinishReason::Success, None).await.unwrap();
        world.rules().gated = false;
        world.gate.add_permits(1);
        bench.done(&busy).await;
        for promise in &promises {
            assert!(matches!(bench.done(promise).await, OpResult::Sampled(_)));
        }
        // Once nobody needs it, it goes.
        let (third, _) = bench.model().await;
        bench.core.finish_session(&third, FinishReason::Success, None).await.unwrap();
        let saves = || entries(&bench, "saves");
        eventually("the save is gone", HOLD, saves, |left| *left == 0).await;
        bench.stop().await;
    });
}

#[test]
fn sessions_that_open_while_the_owner_begins_anew_stay() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        bench.core.wait_ready().await.unwrap();
        let opening = async {
            let mut opened = Vec::new();
            for _ in 0..60 {
                opened.push(bench.core.create_session(NewSession::default()).await.unwrap());
            }
            opened
        };
        let restarting = async {
            for _ in 0..60 {
                load(&bench.core.shared).await.unwrap();
            }
        };
        let (opened, ()) = tokio::join!(opening, restarting);
        for session in &opened {
            assert!(bench.core.shared.state().sessions.contains_key(session), "{session}");
        }
        // Should one be missing all the same, the database is right.
        bench.core.shared.state().sessions.remove(&opened[0]);
        bench.core.heartbeat(&opened[0]).await.unwrap();
        bench.run(create(&opened[0], 0)).await;
        let finishing = async {
            for session in &opened {
                let done = bench.core.finish_session(session, FinishReason::Success, None);
                done.await.unwrap();
            }
        };
        let restarting = async {
            for _ in 0..60 {
                load(&bench.core.shared).await.unwrap();
            }
        };
        tokio::join!(finishing, restarting);
        for session in &opened {
            let error = bench.core.heartbeat(session).await.unwrap_err();
            assert_eq!(error.code(), "session_finished");
        }
        bench.stop().await;
    });
}

#[test]
fn a_finished_session_leaves_neither_snapshots_nor_bodies() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bodies = async |bench: &Bench| {
            let count = bench.core.shared.db.read(|c| {
                Box::pin(
                    sqlx::query_scalar::<_, i64>(
                        "SELECT count(*) FROM operation WHERE body_bytes IS NOT NULL",
                    )
                    .fetch_one(c),
                )
            });
            count.await.unwrap()
        };
        let bench =
            Bench::with(home.path(), World::new(), |config| config.limits.snapshot_ops = 5).await;
        let (session, model) = bench.model().await;
        let (unheard, second) = bench.model().await;
        play(&bench, script(&model)).await;
        play(&bench, script(&second)).await;
        assert_eq!(entries(&bench, "snapshots"), 4);
        let taken = bench.core.status().snapshots;
        bench.core.finish_session(&session, FinishReason::Success, None).await.unwrap();
        let left = || entries(&bench, "snapshots");
        eventually("the snapshots are gone", HOLD, left, |left| *left == 2).await;
        assert_eq!(bench.core.status().snapshots, taken, "none is taken in vain");
        // The end of the other session is written down, but nobody gets to do anything about it.
        let finished = bench.core.shared.db.write(move |c| {
            Box::pin(async move { journal::finish_session(c, &unheard, "success", None).await })
        });
        finished.await.unwrap();
        bench.stop().await;
        let bench = Bench::start(home.path()).await;
        bench.core.wait_ready().await.unwrap();
        assert_eq!(entries(&bench, "snapshots"), 0);
        assert_eq!(bodies(&bench).await, 0);
        let path = format!("tinker://{model}/weights/ck1");
        assert!(bench.core.weights_info(&path).await.is_ok(), "what has a name stays");
        bench.stop().await;
    });
}

#[test]
fn nothing_is_ready_while_an_engine_is_replaced_and_requests_are_accepted() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let world = World::new();
        let bench = Bench::with(home.path(), world.clone(), |_| ()).await;
        let (_, model) = bench.model().await;
        assert!(bench.core.ready());
        {
            let mut rules = world.rules();
            rules.gated = true;
            let next = rules.calls + 1;
            rules.deaths.insert(next, false);
        }
        world.gate.add_permits(1);
        let promise = bench.core.submit(optim_step(&model, 1)).await.unwrap();
        let ready = || bench.core.ready();
        eventually("the death is seen", HOLD, ready, |ready| !ready).await;
        let session = bench.core.create_session(NewSession::default()).await.unwrap();
        let made = bench.core.submit(create(&session, 0)).await.unwrap();
        assert!(!bench.core.ready());
        world.rules().gated = false;
        world.gate.add_permits(1);
        bench.core.wait_ready().await.unwrap();
        for promise in [&promise, &made] {
            bench.done(promise).await;
        }
        assert!(bench.core.ready());
        bench.stop().await;
    });
}
