//! A disk that loses bytes, and a log that is full: whoever is concerned hears of it, and nobody
//! else does.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use snakehouse_base::id::{ModelId, SeqId};
use snakehouse_base::{ByteSize, Coded as _};
use snakehouse_engine_api::{Datum, Loss};
use snakehouse_store::{BlobRef, Disk as _, SimulatedDisk, StoreError};
use snakehouse_testkit::real_time;

use super::bench::{Bench, HOLD, create, forward_backward, optim_step};
use super::fake_engine::World;
use crate::core::journal::{self, StoredOutcome};
use crate::core::vault::Stored;
use crate::core::{Category, CoreError, NewSession, Outcome, Promise, Submit};

async fn on(disk: &SimulatedDisk, home: &Path, world: &Arc<World>) -> Bench {
    Bench::with(home, world.clone(), |config| {
        config.disk = Arc::new(disk.clone());
        config.limits.inline_bytes = 0;
        config.limits.log_bytes = ByteSize::kib(200);
    })
    .await
}

/// Changes a byte of a stored record, or changes it back.
fn flip(disk: &SimulatedDisk, home: &Path, at: BlobRef) {
    let file = home.join("log").join(format!("{:016x}.seg", at.segment));
    disk.flip(&file, usize::try_from(at.offset).unwrap() + 9).unwrap();
}

async fn body_of(bench: &Bench, promise: &Promise) -> BlobRef {
    let shared = &bench.core.shared;
    let op = shared.parse_request_id(&promise.request_id).unwrap();
    let row = shared.read(|c| Box::pin(journal::op_row(c, op))).await.unwrap().unwrap();
    let Stored::Logged(at) = row.body else { panic!("{row:?}") };
    at
}

async fn result_of(bench: &Bench, promise: &Promise) -> BlobRef {
    let shared = &bench.core.shared;
    let op = shared.parse_request_id(&promise.request_id).unwrap();
    let row = shared.read(|c| Box::pin(journal::outcome(c, op))).await.unwrap().unwrap();
    let StoredOutcome::Done { result: Stored::Logged(at), .. } = row else { panic!("{row:?}") };
    at
}

fn assert_lost(end: &Outcome, code: &str) {
    assert!(
        matches!(end, Outcome::Failed { category: Category::Server, error } if error.contains(code)),
        "{end:?}"
    );
}

/// A second model, of another client.
async fn neighbour(bench: &Bench) -> ModelId {
    let session = bench.core.create_session(NewSession::default()).await.unwrap();
    let promise = bench.core.submit(create(&session, 0)).await.unwrap();
    bench.done(&promise).await;
    promise.model_id.unwrap()
}

#[test]
fn a_request_that_is_lost_before_it_runs_fails_and_nothing_else_does() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let (disk, world) = (SimulatedDisk::new(), World::new());
        let bench = on(&disk, home.path(), &world).await;
        let (_, model) = bench.model().await;
        let other = neighbour(&bench).await;
        world.rules().gated = true;
        let first = bench.core.submit(forward_backward(&model, 1, 1)).await.unwrap();
        let struck = bench.core.submit(forward_backward(&model, 2, 2)).await.unwrap();
        let later = bench.core.submit(forward_backward(&model, 3, 3)).await.unwrap();
        let beside = bench.core.submit(forward_backward(&other, 1, 4)).await.unwrap();
        flip(&disk, home.path(), body_of(&bench, &struck).await);
        world.rules().gated = false;
        world.gate.add_permits(1);
        for promise in [&first, &later, &beside] {
            bench.done(promise).await;
        }
        assert_lost(&bench.end(&struck).await, "blob_damaged");
        assert!(matches!(bench.run(optim_step(&model, 4)).await, Outcome::Done(_)));
        assert_eq!(world.rules().lives, 1, "the owner has not begun anew");
        bench.stop().await;
    });
}

#[test]
fn a_request_that_is_lost_before_its_replay_stops_its_model_until_the_disk_gives_it_back() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let (disk, world) = (SimulatedDisk::new(), World::new());
        let bench = on(&disk, home.path(), &world).await;
        let (_, model) = bench.model().await;
        let other = neighbour(&bench).await;
        let promise = bench.core.submit(forward_backward(&model, 1, 1)).await.unwrap();
        bench.done(&promise).await;
        bench.run(forward_backward(&other, 1, 1)).await;
        let before = (bench.digest(&model).await, bench.digest(&other).await);
        let at = body_of(&bench, &promise).await;
        flip(&disk, home.path(), at);
        let next = world.rules().calls + 1;
        world.rules().deaths.insert(next, false);
        assert_eq!(bench.digest(&other).await, before.1);
        assert_lost(&bench.run(optim_step(&model, 2)).await, "journal_damaged");
        assert!(matches!(bench.run(optim_step(&other, 2)).await, Outcome::Done(_)));
        assert_eq!(world.rules().lives, 2, "one death, and the owner has not begun anew");
        bench.stop().await;
        flip(&disk, home.path(), at);
        let bench = on(&disk, home.path(), &world).await;
        assert_eq!(bench.digest(&model).await, before.0);
        assert!(matches!(bench.run(optim_step(&model, 3)).await, Outcome::Done(_)));
        bench.stop().await;
    });
}

#[test]
fn a_result_that_is_lost_is_a_failure_and_no_reason_to_ask_again() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let (disk, world) = (SimulatedDisk::new(), World::new());
        let bench = on(&disk, home.path(), &world).await;
        let (_, model) = bench.model().await;
        let promise = bench.core.submit(forward_backward(&model, 1, 1)).await.unwrap();
        bench.done(&promise).await;
        let at = result_of(&bench, &promise).await;
        flip(&disk, home.path(), at);
        assert_lost(&bench.end(&promise).await, "blob_damaged");
        flip(&disk, home.path(), at);
        bench.done(&promise).await;
        let file = home.path().join("log").join(format!("{:016x}.seg", at.segment));
        disk.remove(&file).unwrap();
        assert_lost(&bench.end(&promise).await, "blob_damaged");
        bench.stop().await;
    });
}

fn large(model: &ModelId, seq: u64) -> Submit {
    let numbers = || Bytes::from(vec![u8::try_from(seq % 200).unwrap(); 2000]);
    let datum = Datum { tokens: numbers(), targets: numbers(), weights: numbers() };
    Submit::ForwardBackward {
        model: model.clone(),
        seq: SeqId(seq),
        data: vec![datum],
        loss: Loss::CrossEntropy,
        forward_only: false,
    }
}

#[test]
fn a_full_log_makes_room_by_itself() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let world = World::new();
        let bench = Bench::with(home.path(), world.clone(), |config| {
            config.limits.inline_bytes = 1000;
            config.limits.log_bytes = ByteSize::kib(400);
            config.limits.snapshot_ops = u64::MAX;
        })
        .await;
        let (_, model) = bench.model().await;
        let mut refused = 0;
        for seq in 1..=150 {
            // 900 KiB in all, none of which may go without a snapshot.
            let accepted = async {
                loop {
                    match bench.core.submit(large(&model, seq)).await {
                        Ok(promise) => break promise,
                        Err(error) => assert_eq!(error.code(), "log_full"),
                    }
                    refused += 1;
                    tokio::task::yield_now().await;
                }
            };
            let promise = tokio::time::timeout(HOLD, accepted).await.unwrap();
            bench.done(&promise).await;
        }
        assert!(refused > 0, "the bound was met");
        assert_eq!(world.rules().lives, 1, "the owner has not begun anew");
        let before = bench.digest(&model).await;
        let next = world.rules().calls + 1;
        world.rules().deaths.insert(next, false);
        assert_eq!(bench.digest(&model).await, before, "what is left suffices for a replay");
        bench.stop().await;
    });
}

/// Fills the log to the last byte; what it gives keeps it full.
async fn fill(bench: &Bench) -> Vec<snakehouse_store::Appended> {
    let mut held = Vec::new();
    for size in [10_000, 100, 1] {
        loop {
            match bench.core.shared.vault.log.append(Bytes::from(vec![0; size])).await {
                Ok(appended) => held.push(appended),
                Err(StoreError::Full { .. }) => break,
                Err(other) => panic!("{other}"),
            }
        }
    }
    held
}

#[test]
fn a_full_log_neither_loses_a_result_nor_refuses_a_retry() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let (disk, world) = (SimulatedDisk::new(), World::new());
        let bench = on(&disk, home.path(), &world).await;
        let (_, model) = bench.model().await;
        world.rules().gated = true;
        let promise = bench.core.submit(forward_backward(&model, 1, 1)).await.unwrap();
        let full = fill(&bench).await;
        let size = bench.core.status().log_bytes;
        let again = bench.core.submit(forward_backward(&model, 1, 1)).await.unwrap();
        assert_eq!(again, promise);
        let new = bench.core.submit(forward_backward(&model, 2, 1)).await.unwrap_err();
        assert_eq!(new.code(), "log_full");
        assert!(new.hint().is_some());
        assert_eq!(bench.core.status().log_bytes, size, "a retry adds nothing");
        world.rules().gated = false;
        world.gate.add_permits(1);
        bench.done(&promise).await;
        bench.done(&promise).await;
        assert_eq!(world.rules().lives, 1, "the owner has not begun anew");
        drop(full);
        let next = async {
            loop {
                match bench.core.submit(forward_backward(&model, 2, 1)).await {
                    Ok(promise) => break promise,
                    Err(CoreError::Store(StoreError::Full { .. })) => {}
                    Err(other) => panic!("{other}"),
                }
                tokio::task::yield_now().await;
            }
        };
        let promise = tokio::time::timeout(HOLD, next).await.unwrap();
        bench.done(&promise).await;
        bench.stop().await;
    });
}
