//! What clients see: promises, order, long polls, refusals.

use std::time::Duration;

use bytes::Bytes;
use snakehouse_base::Coded as _;
use snakehouse_base::id::{ModelId, SamplerId, SeqId, SessionId};
use snakehouse_testkit::real_time;

use super::bench::{Bench, HOLD, create, forward_backward, lora, optim_step, play, sample, script};
use super::fake_engine::World;
use crate::core::{
    Category, CoreError, FinishReason, NewSampler, NewSession, OpResult, Outcome, SamplerWeights,
    Submit, Target,
};

#[test]
fn the_same_request_gives_the_same_promise_and_another_is_a_conflict() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (session, model) = bench.model().await;
        let core = &bench.core;
        let first = core.submit(forward_backward(&model, 1, 5)).await.unwrap();
        let again = core.submit(forward_backward(&model, 1, 5)).await.unwrap();
        assert_eq!(first, again);
        let other = core.submit(forward_backward(&model, 1, 6)).await.unwrap_err();
        assert!(matches!(other, CoreError::Conflict { .. }), "{other}");
        let other = core.submit(optim_step(&model, 1)).await.unwrap_err();
        assert_eq!(other.code(), "conflict");
        let created = core.submit(create(&session, 0)).await.unwrap();
        assert_eq!(created.model_id, Some(model.clone()));
        bench.done(&first).await;
        assert_eq!(bench.world.rules().log.iter().filter(|c| *c == "create_model").count(), 1);
        bench.stop().await;
    });
}

#[test]
fn arrivals_out_of_order_run_in_the_clients_order() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (_, model) = bench.model().await;
        let mut promises = Vec::new();
        for (seq, mark) in [(2, 20), (3, 30), (1, 10)] {
            promises.push(bench.core.submit(forward_backward(&model, seq, mark)).await.unwrap());
        }
        for promise in &promises {
            bench.done(promise).await;
        }
        let log = bench.world.rules().log.clone();
        let ran: Vec<_> = log.iter().filter(|call| call.starts_with("forward")).collect();
        assert_eq!(ran, ["forward_backward 10", "forward_backward 20", "forward_backward 30"]);
        bench.stop().await;
    });
}

#[test]
fn a_long_poll_wakes_when_the_result_is_there() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let world = World::new();
        let bench = Bench::with(home.path(), world.clone(), |_| ()).await;
        let (_, model) = bench.model().await;
        world.rules().gated = true;
        let promise = bench.core.submit(optim_step(&model, 1)).await.unwrap();
        let soon = bench.core.wait(&promise.request_id, Duration::from_millis(1)).await.unwrap();
        assert_eq!(soon, Outcome::Pending);
        let (heard, ()) = tokio::join!(bench.end(&promise), async {
            tokio::task::yield_now().await;
            world.gate.add_permits(1);
        });
        assert!(matches!(heard, Outcome::Done(OpResult::Optimized(o)) if o.step == 1));
        assert_eq!(bench.end(&promise).await, heard, "asking again gives the same");
        world.rules().gated = false;
        bench.stop().await;
    });
}

#[test]
fn a_failed_operation_has_no_effect_and_holds_nothing_up() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (_, model) = bench.model().await;
        let before = bench.digest(&model).await;
        let mut empty = forward_backward(&model, 1, 1);
        if let Submit::ForwardBackward { data, .. } = &mut empty {
            data.clear();
        }
        let end = bench.run(empty).await;
        let Outcome::Failed { error, category } = end else { panic!("{end:?}") };
        assert_eq!(category, Category::User);
        assert!(error.contains("no datum"), "{error}");
        assert_eq!(bench.digest(&model).await, before);
        let refused = Submit::Invalid {
            target: Target::Model(model.clone(), SeqId(2)),
            message: "token 999 is outside the vocabulary".into(),
            content: Bytes::from_static(b"x"),
        };
        let end = bench.run(refused.clone()).await;
        assert!(matches!(&end, Outcome::Failed { category: Category::User, .. }));
        assert_eq!(bench.run(refused).await, end);
        assert!(matches!(bench.run(optim_step(&model, 3)).await, Outcome::Done(_)));
        bench.stop().await;
    });
}

#[test]
fn what_does_not_exist_is_refused_by_name() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (session, _) = bench.model().await;
        let core = &bench.core;
        let code = |result: Result<_, CoreError>| match result {
            Ok(()) => "accepted",
            Err(error) => error.code(),
        };
        let nobody = ModelId::new("nobody:train:0");
        assert_eq!(code(core.submit(optim_step(&nobody, 1)).await.map(drop)), "unknown_model");
        let nowhere = SessionId::new("nowhere");
        assert_eq!(code(core.submit(create(&nowhere, 0)).await.map(drop)), "unknown_session");
        assert_eq!(code(core.heartbeat(&nowhere).await), "unknown_session");
        let nothing = SamplerId::new("x");
        assert_eq!(code(core.submit(sample(&nothing, 0, None)).await.map(drop)), "unknown_sampler");
        let unserved = Submit::CreateModel {
            session: session.clone(),
            model_seq_id: 1,
            base_model: "llama".into(),
            lora: lora(),
            user_metadata: None,
        };
        let error = core.submit(unserved).await.unwrap_err();
        assert_eq!(error.code(), "unknown_base_model");
        assert!(error.to_string().contains("tiny") && error.hint().is_some());
        let wait = |id: &'static str| core.wait(id, HOLD);
        assert_eq!(code(wait("7").await.map(drop)), "unknown_request");
        core.finish_session(&session, FinishReason::Success, None).await.unwrap();
        core.finish_session(&session, FinishReason::Success, None).await.unwrap();
        assert_eq!(code(core.heartbeat(&session).await), "session_finished");
        assert_eq!(code(core.submit(create(&session, 1)).await.map(drop)), "session_finished");
        bench.stop().await;
    });
}

#[test]
fn a_failed_creation_takes_what_waits_for_it_along() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let world = World::new();
        let bench = Bench::with(home.path(), world.clone(), |_| ()).await;
        bench.core.wait_ready().await.unwrap();
        let session = bench.core.create_session(NewSession::default()).await.unwrap();
        world.rules().gated = true;
        let bad = Submit::CreateModel {
            session: session.clone(),
            model_seq_id: 0,
            base_model: "tiny".into(),
            lora: crate::core::LoraRequest { rank: 0, ..lora() },
            user_metadata: None,
        };
        let created = bench.core.submit(bad).await.unwrap();
        let model = created.model_id.clone().unwrap();
        let later = bench.core.submit(optim_step(&model, 2)).await.unwrap();
        world.rules().gated = false;
        world.gate.add_permits(1);
        for promise in [&created, &later] {
            let end = bench.end(promise).await;
            assert!(matches!(end, Outcome::Failed { category: Category::User, .. }), "{end:?}");
        }
        let error = bench.core.submit(optim_step(&model, 3)).await.unwrap_err();
        assert_eq!(error.code(), "unknown_model");
        bench.stop().await;
    });
}

#[test]
fn queues_are_bounded_and_a_retry_still_gets_its_promise() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let world = World::new();
        let bench =
            Bench::with(home.path(), world.clone(), |config| config.limits.pending_ops = 3).await;
        let (_, model) = bench.model().await;
        world.rules().gated = true;
        let mut promises = Vec::new();
        for seq in 1..=3 {
            promises.push(bench.core.submit(optim_step(&model, seq)).await.unwrap());
        }
        let full = bench.core.submit(optim_step(&model, 4)).await.unwrap_err();
        assert_eq!(full.code(), "saturated");
        assert_eq!(bench.core.submit(optim_step(&model, 2)).await.unwrap(), promises[1]);
        world.rules().gated = false;
        world.gate.add_permits(1);
        for promise in &promises {
            bench.done(promise).await;
        }
        assert!(matches!(bench.run(optim_step(&model, 4)).await, Outcome::Done(_)));
        assert_eq!(bench.core.status().pending_ops, 0);
        bench.stop().await;
    });
}

#[test]
fn a_gap_closes_when_the_session_ends() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (session, model) = bench.model().await;
        let promise = bench.core.submit(optim_step(&model, 2)).await.unwrap();
        assert_eq!(bench.core.status().waiting_for_gap, 1);
        bench.core.finish_session(&session, FinishReason::Interrupted, None).await.unwrap();
        bench.done(&promise).await;
        bench.stop().await;
    });
}

#[test]
fn a_gap_closes_after_a_silence_and_what_comes_too_late_is_told_so() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::with(home.path(), World::new(), |config| {
            config.limits.gap_idle = Duration::from_millis(50);
        })
        .await;
        let (_, model) = bench.model().await;
        let promise = bench.core.submit(optim_step(&model, 2)).await.unwrap();
        bench.done(&promise).await;
        let late = bench.run(optim_step(&model, 1)).await;
        assert!(matches!(late, Outcome::Failed { category: Category::User, .. }), "{late:?}");
        bench.stop().await;
    });
}

#[test]
fn samples_draw_from_the_base_or_from_saved_weights() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (session, model) = bench.model().await;
        let ends = play(&bench, script(&model)).await;
        let saved = ends.iter().find_map(|end| match end {
            Outcome::Done(OpResult::SamplerSaved { sampler }) => Some(sampler.clone()),
            _ => None,
        });
        let new = |number, weights| NewSampler {
            session: session.clone(),
            sampling_session_seq_id: number,
            weights,
        };
        let base = SamplerWeights::Base("tiny".into());
        let from_base = bench.core.create_sampling_session(new(0, base.clone())).await.unwrap();
        assert_eq!(bench.core.create_sampling_session(new(0, base)).await.unwrap(), from_base);
        let path = SamplerWeights::Path(format!("tinker://{model}/weights/ck1"));
        let clash = bench.core.create_sampling_session(new(0, path.clone())).await.unwrap_err();
        assert_eq!(clash.code(), "conflict");
        let from_path = bench.core.create_sampling_session(new(1, path)).await.unwrap();
        let missing = SamplerWeights::Path(format!("tinker://{model}/weights/none"));
        let error = bench.core.create_sampling_session(new(2, missing)).await.unwrap_err();
        assert_eq!(error.code(), "unknown_checkpoint");
        assert_eq!(bench.core.sampler(&from_path).await.unwrap().base_model, "tiny");
        let mut drawn = Vec::new();
        for sampler in [from_base, from_path, saved.unwrap()] {
            let first = bench.core.submit(sample(&sampler, 0, Some(3))).await.unwrap();
            assert_eq!(first.sample_sequence_ids.len(), 2);
            let OpResult::Sampled(result) = bench.done(&first).await else { panic!() };
            let again = bench.run(sample(&sampler, 1, Some(3))).await;
            assert_eq!(again, Outcome::Done(OpResult::Sampled(result.clone())));
            drawn.push(result.sequences[0].tokens.clone());
        }
        drawn.sort();
        drawn.dedup();
        assert_eq!(drawn.len(), 3, "each set of weights draws its own");
        bench.stop().await;
    });
}

#[test]
fn a_client_that_goes_away_loses_nothing_and_leaves_nothing() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let world = World::new();
        let bench = Bench::with(home.path(), world.clone(), |_| ()).await;
        let (_, model) = bench.model().await;
        world.rules().gated = true;
        // Polled once, then dropped: it was handed over, so it is done.
        let submit = bench.core.submit(optim_step(&model, 1));
        tokio::select! {
            biased;
            _ = submit => {}
            () = std::future::ready(()) => {}
        }
        let second = bench.core.submit(optim_step(&model, 2)).await.unwrap();
        for _ in 0..100 {
            let poll = bench.core.wait(&second.request_id, HOLD);
            let dropped = tokio::time::timeout(Duration::from_micros(50), poll).await;
            assert!(dropped.is_err());
        }
        world.rules().gated = false;
        world.gate.add_permits(1);
        let end = bench.end(&second).await;
        assert!(matches!(end, Outcome::Done(OpResult::Optimized(o)) if o.step == 2), "{end:?}");
        bench.stop().await;
    });
}

#[test]
fn many_polls_of_one_result_all_wake() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let world = World::new();
        let bench = Bench::with(home.path(), world.clone(), |_| ()).await;
        let (_, model) = bench.model().await;
        world.rules().gated = true;
        let promise = bench.core.submit(optim_step(&model, 1)).await.unwrap();
        let polls = futures_util::future::join_all((0..200).map(|_| bench.end(&promise)));
        let (ends, ()) = tokio::join!(polls, async { world.gate.add_permits(1) });
        assert!(ends.iter().all(|end| matches!(end, Outcome::Done(_))));
        world.rules().gated = false;
        bench.stop().await;
    });
}
