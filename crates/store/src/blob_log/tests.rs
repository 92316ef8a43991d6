use std::collections::HashSet;
use std::path::PathBuf;

use futures_util::future::join_all;
use snakehouse_base::Chance;
use snakehouse_supervise::{Root, run};

use super::*;
use crate::{RealDisk, SimulatedDisk};

const DIR: &str = "/log";

fn small() -> BlobLogConfig {
    BlobLogConfig { segment: ByteSize(400), record: ByteSize(200), total: ByteSize::kib(64) }
}

async fn open(root: &Root, disk: &SimulatedDisk, config: BlobLogConfig) -> BlobLog {
    let disk = Arc::new(disk.clone());
    BlobLog::open(root.scope(), disk, Path::new(DIR), config).await.unwrap()
}

fn body(chance: &Chance) -> Bytes {
    let len = usize::try_from(chance.next_u64() % 120).unwrap();
    (0..len).map(|_| chance.next_u64().to_le_bytes()[0]).collect()
}

/// The rule of this crate: what `append` has returned is there after any crash, whatever else the
/// disk kept or lost of what was written around it.
#[test]
fn what_was_acknowledged_survives_every_crash() {
    for seed in 0..60 {
        let chance = Chance::seeded(seed);
        run(async {
            let disk = SimulatedDisk::new();
            let mut rows: Vec<(BlobRef, Bytes)> = Vec::new();
            for _life in 0..4 {
                let root = Root::new("log");
                let log = open(&root, &disk, small()).await;
                for (at, expected) in &rows {
                    assert_eq!(&log.read(*at).await.unwrap(), expected, "seed {seed}");
                }
                for _ in 0..chance.next_u64() % 5 {
                    let bodies: Vec<_> =
                        (0..chance.next_u64() % 6).map(|_| body(&chance)).collect();
                    let appended = join_all(bodies.iter().map(|b| log.append(b.clone()))).await;
                    rows.extend(appended.into_iter().map(|a| a.unwrap().at).zip(bodies));
                }
                // These are under way when the power fails; nobody has heard of them.
                let unheard = (0..4).map(|_| log.append(body(&chance)));
                let _lost = tokio::time::timeout(
                    std::time::Duration::from_micros(chance.next_u64() % 50),
                    join_all(unheard),
                )
                .await;
                disk.crash(&chance);
                root.stop().await;
            }
            let root = Root::new("log");
            let log = open(&root, &disk, small()).await;
            for (at, expected) in &rows {
                assert_eq!(&log.read(*at).await.unwrap(), expected, "seed {seed}");
            }
            root.stop().await;
        });
    }
}

#[test]
fn appends_that_wait_together_share_a_sync() {
    run(async {
        let (root, disk) = (Root::new("log"), SimulatedDisk::new());
        let log = open(&root, &disk, BlobLogConfig::default()).await;
        let appended = join_all((0..500).map(|_| log.append(Bytes::from_static(b"x")))).await;
        assert!(appended.iter().all(Result::is_ok));
        assert!(disk.syncs() <= 20, "{} syncs for 500 appends", disk.syncs());
        root.stop().await;
    });
}

#[test]
fn after_a_failed_sync_nothing_is_appended_behind_the_damage() {
    run(async {
        let (root, disk) = (Root::new("log"), SimulatedDisk::new());
        let log = open(&root, &disk, BlobLogConfig::default()).await;
        let first = log.append(Bytes::from_static(b"first")).await.unwrap().at;
        disk.fail_syncs(1);
        let refused = log.append(Bytes::from_static(b"lost")).await.unwrap_err();
        assert!(matches!(refused, StoreError::NotDurable(_)), "{refused}");
        let next = log.append(Bytes::from_static(b"next")).await.unwrap().at;
        assert_ne!(next.segment, first.segment);
        assert_eq!(log.read(first).await.unwrap(), "first");
        assert_eq!(log.read(next).await.unwrap(), "next");
        root.stop().await;
    });
}

#[test]
fn a_changed_byte_is_noticed() {
    run(async {
        let (root, disk) = (Root::new("log"), SimulatedDisk::new());
        let log = open(&root, &disk, BlobLogConfig::default()).await;
        let at = log.append(Bytes::from_static(b"payload")).await.unwrap().at;
        for offset in 0..HEAD + 7 {
            let file = segment_path(Path::new(DIR), at.segment);
            disk.flip(&file, offset).unwrap();
            let error = log.read(at).await.unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "byte {offset}: {error}");
            disk.flip(&file, offset).unwrap();
        }
        assert_eq!(log.read(at).await.unwrap(), "payload");
        root.stop().await;
    });
}

#[test]
fn bounds_are_kept() {
    run(async {
        let (root, disk) = (Root::new("log"), SimulatedDisk::new());
        let config = BlobLogConfig { total: ByteSize(1000), ..small() };
        let log = open(&root, &disk, config).await;
        let large = log.append(Bytes::from(vec![0; 201])).await.unwrap_err();
        assert!(matches!(large, StoreError::TooLarge { .. }));
        let mut written = 0;
        let full = loop {
            match log.append(Bytes::from(vec![0; 100])).await {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(full, StoreError::Full { .. }));
        assert_eq!(written, 9);
        root.stop().await;
    });
}

#[test]
fn pruning_spares_what_is_referenced_pinned_or_open() {
    run(async {
        let (root, disk) = (Root::new("log"), SimulatedDisk::new());
        let log = open(&root, &disk, small()).await;
        let mut rows = Vec::new();
        for _ in 0..20 {
            rows.push(log.append(Bytes::from(vec![7; 100])).await.unwrap());
        }
        let segments: HashSet<u64> = rows.iter().map(|row| row.at.segment).collect();
        assert_eq!(segments.len(), 5);
        let none = || async { Ok::<_, StoreError>(HashSet::new()) };
        assert_eq!(log.prune(none()).await.unwrap(), 0, "all are pinned");
        let (kept, pinned) = (rows[0].at, rows.remove(6));
        rows.clear();
        let referenced = async { Ok::<_, StoreError>(HashSet::from([kept.segment])) };
        let removed = log.prune(referenced).await.unwrap();
        assert_eq!(log.read(kept).await.unwrap().len(), 100);
        assert_eq!(log.read(pinned.at).await.unwrap().len(), 100);
        let left: HashSet<u64> = disk
            .list(Path::new(DIR))
            .unwrap()
            .iter()
            .map(|(name, _)| u64::from_str_radix(&name[..16], 16).unwrap())
            .collect();
        assert!(left.contains(&kept.segment) && left.contains(&pinned.at.segment));
        assert_eq!(removed + left.len() as u64, 5);
        root.stop().await;
    });
}

#[test]
fn it_works_on_the_machines_own_disk() {
    run(async {
        let home = tempfile::tempdir().unwrap();
        let dir: PathBuf = home.path().join("a/log");
        let mut at = None;
        for life in 0..2 {
            let root = Root::new("log");
            let disk = Arc::new(RealDisk);
            let log =
                BlobLog::open(root.scope(), disk, &dir, BlobLogConfig::default()).await.unwrap();
            if let Some(at) = at {
                assert_eq!(log.read(at).await.unwrap(), "life 0");
            }
            at = Some(log.append(Bytes::from(format!("life {life}"))).await.unwrap().at);
            assert!(root.stop().await.is_clean());
        }
    });
}

#[test]
fn a_failed_append_leaves_nothing_uncounted() {
    for (cut_fails, first) in [(false, true), (false, false), (true, false)] {
        run(async {
            let (root, disk) = (Root::new("log"), SimulatedDisk::new());
            let log = open(&root, &disk, BlobLogConfig::default()).await;
            if !first {
                log.append(Bytes::from_static(b"before")).await.unwrap();
            }
            disk.fail_syncs(1);
            disk.fail_set_lens(u64::from(cut_fails));
            log.append(Bytes::from(vec![1; 1000])).await.unwrap_err();
            let on_disk = || {
                let files = disk.list(Path::new(DIR)).unwrap();
                files.iter().map(|(_, len)| *len).sum::<u64>()
            };
            assert_eq!(log.size().0, on_disk(), "cut fails: {cut_fails}, first: {first}");
            assert_eq!(on_disk() > 1000, cut_fails);
            log.append(Bytes::from_static(b"after")).await.unwrap();
            let none = async { Ok::<_, StoreError>(HashSet::new()) };
            log.prune(none).await.unwrap();
            assert_eq!(on_disk(), HEAD as u64 + 5, "what failed can be pruned");
            root.stop().await;
        });
    }
}

#[test]
fn numbers_are_not_used_again_after_everything_was_pruned() {
    run(async {
        let disk = SimulatedDisk::new();
        let mut last = 0;
        for _life in 0..3 {
            let root = Root::new("log");
            let log = open(&root, &disk, small()).await;
            let none = || async { Ok::<_, StoreError>(HashSet::new()) };
            log.prune(none()).await.unwrap();
            for _ in 0..10 {
                let at = log.append(Bytes::from(vec![7; 200])).await.unwrap().at;
                assert!(at.segment >= last);
                last = at.segment;
            }
            log.prune(none()).await.unwrap();
            last += 1;
            root.stop().await;
        }
    });
}

#[test]
fn what_is_left_to_others_is_not_taken_by_appends_that_wait_together() {
    run(async {
        let (root, disk) = (Root::new("log"), SimulatedDisk::new());
        let config = BlobLogConfig { total: ByteSize(1080), ..small() };
        let log = open(&root, &disk, config).await;
        let below = (0..20).map(|_| log.append_below(Bytes::from(vec![0; 100]), ByteSize(540)));
        let taken = join_all(below).await;
        assert_eq!(taken.iter().filter(|append| append.is_ok()).count(), 5);
        let rest = join_all((0..20).map(|_| log.append(Bytes::from(vec![0; 100])))).await;
        assert_eq!(rest.iter().filter(|append| append.is_ok()).count(), 5);
        root.stop().await;
    });
}
