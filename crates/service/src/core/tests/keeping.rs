//! What is kept, for how long, and how little.

use std::path::Path;

use snakehouse_base::{ByteSize, Coded as _};
use snakehouse_testkit::{eventually, real_time};

use super::bench::{Bench, forward_backward, optim_step, play, save, script};
use super::fake_engine::World;
use crate::core::{FinishReason, Outcome};

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_restart_after_a_graceful_stop_replays_nothing() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (_, model) = bench.model().await;
        let ends = play(&bench, script(&model)).await;
        let before = bench.digest(&model).await;
        bench.stop().await;
        let bench = Bench::start(home.path()).await;
        assert_eq!(play(&bench, script(&model)).await, ends, "results are still there");
        assert_eq!(bench.digest(&model).await, before);
        assert_eq!(bench.core.status().replayed_ops, 0);
        let log = bench.world.rules().log.clone();
        assert!(log.iter().all(|call| !call.starts_with("forward")), "{log:?}");
        bench.stop().await;
    });
}

#[test]
fn snapshots_and_segments_stay_few() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::with(home.path(), World::new(), |config| {
            config.limits.snapshot_ops = 10;
            config.limits.inline_bytes = 0;
            config.limits.kept_results = 20;
            // Far less than all bodies and results together.
            config.limits.log_bytes = ByteSize::kib(200);
        })
        .await;
        let (_, model) = bench.model().await;
        let mut first = None;
        for seq in 1..=2100 {
            let promise = bench.core.submit(optim_step(&model, seq)).await.unwrap();
            assert!(matches!(bench.end(&promise).await, Outcome::Done(_)));
            first.get_or_insert(promise.request_id);
        }
        let status = bench.core.status();
        assert_eq!(status.snapshots, 210);
        assert_eq!(entries(&home.path().join("snapshots")), 2);
        assert!(entries(&home.path().join("log")) <= 4);
        assert!(status.log_bytes <= ByteSize::kib(200).0);
        let gone = bench.core.wait(&first.unwrap(), super::bench::HOLD).await.unwrap_err();
        assert_eq!(gone.code(), "result_gone");
        bench.stop().await;
    });
}

#[test]
fn a_bad_snapshot_falls_back_to_the_one_before() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench =
            Bench::with(home.path(), World::new(), |config| config.limits.snapshot_ops = 4).await;
        let (_, model) = bench.model().await;
        play(&bench, (1..=11).map(|seq| forward_backward(&model, seq, 1)).collect()).await;
        let before = bench.digest(&model).await;
        bench.stop().await;
        let snapshots = home.path().join("snapshots");
        let names = std::fs::read_dir(&snapshots).unwrap().map(|e| e.unwrap().file_name());
        let newest = names.map(|n| n.into_string().unwrap().parse::<u64>().unwrap()).max().unwrap();
        std::fs::write(snapshots.join(newest.to_string()).join("model.json"), "torn").unwrap();
        let bench = Bench::start(home.path()).await;
        assert_eq!(bench.digest(&model).await, before);
        assert!(bench.core.status().replayed_ops > 0);
        bench.stop().await;
        // The damaged one is gone; the one taken in its place is whole.
        let bench = Bench::start(home.path()).await;
        assert_eq!(bench.digest(&model).await, before);
        assert_eq!(bench.core.status().replayed_ops, 0);
        assert_eq!(entries(&snapshots), 2);
        bench.stop().await;
    });
}

#[test]
fn snapshots_that_cannot_be_read_now_are_tried_again_at_the_next_start() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench =
            Bench::with(home.path(), World::new(), |config| config.limits.snapshot_ops = 4).await;
        let (_, model) = bench.model().await;
        play(&bench, (1..=11).map(|seq| forward_backward(&model, seq, 1)).collect()).await;
        let before = bench.digest(&model).await;
        bench.stop().await;
        let (snapshots, elsewhere) = (home.path().join("snapshots"), home.path().join("elsewhere"));
        let names = || std::fs::read_dir(&snapshots).unwrap().map(|e| e.unwrap().file_name());
        std::fs::create_dir(&elsewhere).unwrap();
        for name in names() {
            let from = snapshots.join(&name).join("model.json");
            std::fs::rename(from, elsewhere.join(&name)).unwrap();
        }
        let bench = Bench::start(home.path()).await;
        let end = bench.run(optim_step(&model, 12)).await;
        assert!(
            matches!(&end, Outcome::Failed { error, .. } if error.contains("snapshots_unreadable")),
            "{end:?}"
        );
        bench.stop().await;
        assert_eq!(names().count(), 2);
        for name in names() {
            let back = snapshots.join(&name).join("model.json");
            std::fs::rename(elsewhere.join(&name), back).unwrap();
        }
        let bench = Bench::start(home.path()).await;
        assert_eq!(bench.digest(&model).await, before);
        bench.stop().await;
    });
}

#[test]
fn what_a_crash_left_half_written_is_removed_at_start() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (_, model) = bench.model().await;
        bench.run(save(&model, 1, "kept")).await;
        bench.stop().await;
        for dir in ["saves/999.part", "saves/998", "snapshots/.tmp-1"] {
            std::fs::create_dir_all(home.path().join(dir)).unwrap();
        }
        let bench = Bench::start(home.path()).await;
        assert_eq!(entries(&home.path().join("saves")), 1);
        assert_eq!(entries(&home.path().join("snapshots")), 1);
        assert!(bench.core.weights_info(&format!("tinker://{model}/weights/kept")).await.is_ok());
        bench.stop().await;
    });
}

#[test]
fn a_finished_sessions_models_leave_the_engine_and_its_named_saves_stay() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (session, model) = bench.model().await;
        play(&bench, script(&model)).await;
        bench.core.finish_session(&session, FinishReason::Success, None).await.unwrap();
        let live = || bench.core.status().models;
        eventually("the model is unloaded", super::bench::HOLD, live, |live| *live == 0).await;
        let path = format!("tinker://{model}/weights/ck1");
        assert!(bench.core.weights_info(&path).await.is_ok());
        let unloaded = || bench.world.rules().log.iter().any(|call| call == "unload");
        eventually("the engine has let go of it", super::bench::HOLD, unloaded, |it| *it).await;
        bench.stop().await;
    });
}
