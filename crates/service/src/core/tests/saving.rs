//! Checkpoints: names, directories, loading.

use snakehouse_base::id::SeqId;
use snakehouse_testkit::real_time;

use super::bench::{Bench, forward_backward, optim_step, play, save, script};
use crate::core::{Category, LoadTarget, OpResult, Outcome, Submit};

fn load(target: LoadTarget, path: &str) -> Submit {
    Submit::LoadWeights { target, path: path.to_owned(), optimizer: true }
}

#[test]
fn a_name_is_taken_once_unless_overwriting_is_allowed() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (_, model) = bench.model().await;
        let path = format!("tinker://{model}/weights/one");
        let saved = Outcome::Done(OpResult::Saved { path: path.clone() });
        assert_eq!(bench.run(save(&model, 1, "one")).await, saved);
        let taken = bench.run(save(&model, 2, "one")).await;
        assert!(
            matches!(&taken, Outcome::Failed { category: Category::User, error } if error.contains("exists"))
        );
        let mut over = save(&model, 3, "one");
        if let Submit::SaveWeights { overwrite, .. } = &mut over {
            *overwrite = true;
        }
        assert_eq!(bench.run(over).await, saved);
        let info = bench.core.weights_info(&path).await.unwrap();
        assert_eq!((info.base_model.as_str(), info.lora.rank), ("tiny", 8));
        let bad = bench.run(save(&model, 4, "../up")).await;
        assert!(matches!(bad, Outcome::Failed { category: Category::User, .. }));
        bench.stop().await;
    });
}

#[test]
fn a_retry_of_an_unnamed_save_gets_the_first_sampler() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (_, model) = bench.model().await;
        let unnamed = |number| Submit::SaveForSampler {
            model: model.clone(),
            seq: SeqId(1),
            name: None,
            sampling_session_seq_id: Some(number),
        };
        let first = bench.run(unnamed(0)).await;
        assert!(matches!(first, Outcome::Done(OpResult::SamplerSaved { .. })));
        assert_eq!(bench.run(unnamed(1)).await, first);
        bench.stop().await;
    });
}

#[test]
fn a_model_made_from_a_checkpoint_goes_on_where_it_was_saved() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (session, model) = bench.model().await;
        play(&bench, vec![forward_backward(&model, 1, 1), optim_step(&model, 2)]).await;
        bench.run(save(&model, 3, "half")).await;
        let at_save = bench.digest(&model).await;
        let path = format!("tinker://{model}/weights/half");
        let target = LoadTarget::Create {
            session: session.clone(),
            model_seq_id: 5,
            base_model: Some("tiny".into()),
            user_metadata: None,
        };
        let promise = bench.core.submit(load(target, &path)).await.unwrap();
        let copy = promise.model_id.clone().unwrap();
        assert_eq!(copy.as_str(), format!("{session}:train:5"));
        bench.done(&promise).await;
        assert_eq!(bench.digest(&copy).await, at_save);
        assert_eq!(bench.core.model_info(&copy).await.unwrap().base_model, "tiny");
        bench.run(optim_step(&copy, 1)).await;
        bench.run(optim_step(&model, 4)).await;
        assert_eq!(bench.digest(&copy).await, bench.digest(&model).await);
        let back = LoadTarget::Overwrite { model: model.clone(), seq: SeqId(5) };
        assert!(matches!(bench.run(load(back, &path)).await, Outcome::Done(_)));
        assert_eq!(bench.digest(&model).await, at_save);
        bench.stop().await;
    });
}

#[test]
fn loading_what_does_not_exist_fails_without_a_model() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (session, model) = bench.model().await;
        for path in
            ["tinker://a:train:0/weights/none", "tinker://x/y", "tinker://a/sampler_weights/b"]
        {
            let number = path.len() as u64;
            let target = LoadTarget::Create {
                session: session.clone(),
                model_seq_id: number,
                base_model: None,
                user_metadata: None,
            };
            let promise = bench.core.submit(load(target, path)).await.unwrap();
            let end = bench.end(&promise).await;
            assert!(matches!(end, Outcome::Failed { category: Category::User, .. }), "{end:?}");
            let made = promise.model_id.unwrap();
            assert!(bench.core.model_info(&made).await.is_err());
        }
        let target = LoadTarget::Overwrite { model: model.clone(), seq: SeqId(1) };
        let before = bench.digest(&model).await;
        let end = bench.run(load(target, "tinker://a:train:0/weights/none")).await;
        assert!(matches!(end, Outcome::Failed { .. }));
        assert_eq!(bench.digest(&model).await, before);
        bench.stop().await;
    });
}

#[test]
fn an_overwritten_checkpoint_does_not_change_what_was_loaded_from_it() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (session, model) = bench.model().await;
        bench.run(save(&model, 1, "a")).await;
        let path = format!("tinker://{model}/weights/a");
        let target =
            LoadTarget::Create { session, model_seq_id: 1, base_model: None, user_metadata: None };
        let promise = bench.core.submit(load(target, &path)).await.unwrap();
        bench.done(&promise).await;
        let copy = promise.model_id.unwrap();
        let loaded = bench.digest(&copy).await;
        bench.run(optim_step(&model, 2)).await;
        let mut over = save(&model, 3, "a");
        if let Submit::SaveWeights { overwrite, .. } = &mut over {
            *overwrite = true;
        }
        bench.run(over).await;
        let call = bench.world.rules().calls;
        bench.world.rules().deaths.insert(call + 1, false);
        assert_eq!(bench.digest(&copy).await, loaded);
        bench.stop().await;
    });
}

#[test]
fn a_script_gives_paths_and_samplers() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (_, model) = bench.model().await;
        let ends = play(&bench, script(&model)).await;
        let paths = ends.iter().filter(|e| matches!(e, Outcome::Done(OpResult::Saved { .. })));
        assert_eq!(paths.count(), 3);
        bench.stop().await;
    });
}
