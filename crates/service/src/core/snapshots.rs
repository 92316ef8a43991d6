//! When snapshots are taken, and what they let go.

use std::path::{Path, PathBuf};
use std::time::Duration;

use snakehouse_base::id::{ModelId, OpId};
use snakehouse_engine_api::Snapshot;
use snakehouse_store::StoreError;

use super::fault::FaultPoint;
use super::journal::{self, SnapshotRow};
use super::life::{Halt, Life};
use super::owner::Owner;
use super::shared::Shared;
use super::{CoreError, Limits};

/// What a model would have to repeat if the engine died now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    ops: u64,
    bytes: u64,
    compute: Duration,
    urgent: bool,
    /// The last operation in it, with its number.
    last: Option<(OpId, u64)>,
}

impl Work {
    pub(super) fn add(&mut self, op: OpId, seq: u64, bytes: u64, compute: Duration) {
        self.ops += 1;
        self.bytes += bytes;
        self.compute += compute;
        self.last = Some((op, seq));
    }

    /// Counts time that belongs to no single operation.
    pub(super) fn took(&mut self, compute: Duration) {
        self.compute += compute;
    }

    /// Whether it is time for a snapshot.
    pub(super) fn is_due(&self, limits: &Limits) -> bool {
        self.urgent
            || self.ops >= limits.snapshot_ops
            || self.bytes >= limits.snapshot_bytes.0
            || self.compute >= limits.snapshot_compute
    }

    /// Makes a snapshot due.
    pub(super) fn hurry(&mut self) {
        self.urgent = true;
    }

    /// Begins counting anew without forgetting that there is unsnapshotted work.
    fn postpone(&mut self) {
        (self.ops, self.bytes, self.compute) = (0, 0, Duration::ZERO);
        self.urgent = false;
    }
}

impl Owner {
    /// Snapshots that are kept of each model.
    const KEPT: usize = 2;
    /// Operations after which old rows and files are looked for.
    const TIDY_EVERY: u64 = 1024;
    /// The same when the log is more than half full.
    const TIDY_EVERY_WHEN_FULL: u64 = 16;

    pub(super) async fn snapshot_if_due(
        &mut self,
        life: &mut Life,
        model: &ModelId,
    ) -> Result<(), Halt> {
        match self.work.get(model) {
            Some(work) if work.is_due(&self.shared.limits) => self.snapshot(life, model).await,
            _ => Ok(()),
        }
    }

    pub(super) async fn snapshot_if_dirty(
        &mut self,
        life: &mut Life,
        model: &ModelId,
    ) -> Result<(), Halt> {
        match self.work.contains_key(model) {
            true => self.snapshot(life, model).await,
            false => Ok(()),
        }
    }

    /// Snapshots everything that is held, for a graceful stop.
    pub(super) async fn snapshot_all(&mut self, life: &mut Life) -> Result<(), Halt> {
        let held: Vec<ModelId> = life.models.iter().cloned().collect();
        for model in held {
            self.snapshot_if_dirty(life, &model).await?;
        }
        Ok(())
    }

    async fn snapshot(&mut self, life: &mut Life, model: &ModelId) -> Result<(), Halt> {
        let Some((op, seq)) = self.work.get(model).and_then(|work| work.last) else {
            return Ok(());
        };
        let dir = Self::op_dir(&self.shared.snapshots, op).display().to_string();
        let request = Snapshot { model: model.clone(), dir };
        let saved = match life.ask_at(&request, Some(FaultPoint::MidSnapshot)).await? {
            Ok((saved, _)) => saved,
            Err(refusal) => {
                tracing::error!(%model, code = refusal.code, message = %refusal.message, "no snapshot was taken");
                if let Some(work) = self.work.get_mut(model) {
                    work.postpone();
                }
                return Ok(());
            }
        };
        let row = SnapshotRow { op, model: model.clone(), seq, digest: saved.digest };
        self.shared
            .db
            .write(move |c| Box::pin(async move { journal::add_snapshot(c, &row).await }))
            .await?;
        self.work.remove(model);
        self.shared.status().snapshots += 1;
        self.shared.at(FaultPoint::BetweenSnapshotAndPrune).await;
        self.prune(model, Self::KEPT).await
    }

    /// Removes what the `kept` newest snapshots of a model make superfluous.
    async fn prune(&mut self, model: &ModelId, kept: usize) -> Result<(), Halt> {
        let id = model.clone();
        let all = self
            .shared
            .read(|c| Box::pin(async move { journal::snapshots_of(c, Some(&id)).await }))
            .await?;
        // Nothing before the oldest that is kept is ever replayed.
        let floor = all.get(kept - 1).map(|oldest| oldest.seq);
        let doomed: Vec<OpId> = all.into_iter().skip(kept).map(|row| row.op).collect();
        let (id, ops) = (model.clone(), doomed.clone());
        self.shared
            .db
            .write(move |c| {
                Box::pin(async move {
                    journal::drop_snapshots(c, &ops).await?;
                    match floor {
                        Some(seq) => journal::drop_old_bodies(c, &id, seq).await,
                        None => Ok(()),
                    }
                })
            })
            .await?;
        remove_dirs(&self.shared, &self.shared.snapshots, &doomed).await?;
        prune_files(&self.shared).await?;
        Ok(())
    }

    /// Makes room in a full log: forgets what may be forgotten, then lets the models that hold the
    /// oldest bodies live by one snapshot, so that their bodies can go.
    pub(super) async fn relieve(&mut self, life: &mut Life) -> Result<(), Halt> {
        self.forget().await?;
        if self.shared.vault.has_room() {
            return Ok(());
        }
        let holders = self.shared.db.read(|c| Box::pin(journal::log_holders(c))).await?;
        tracing::info!(models = holders.len(), "the log is full; taking snapshots to make room");
        for model in holders {
            if let Err(halt) = self.revive(life, &model).await {
                self.count_revival_death(&halt, &model).await?;
                return Err(halt);
            }
            if !life.models.contains(&model) {
                continue;
            }
            self.snapshot_if_dirty(life, &model).await?;
            self.prune(&model, 1).await?;
            if self.shared.vault.has_room() {
                break;
            }
        }
        Ok(())
    }

    /// Forgets what models of finished sessions would need to go on: of one, or of all that have
    /// nothing left to do.
    pub(super) async fn let_go(&mut self, model: Option<ModelId>) -> Result<(), Halt> {
        let gone = self
            .shared
            .db
            .write(move |c| Box::pin(async move { journal::let_go(c, model.as_ref()).await }))
            .await?;
        remove_dirs(&self.shared, &self.shared.snapshots, &gone).await?;
        prune_files(&self.shared).await?;
        Ok(())
    }

    /// Forgets snapshots and their directories.
    pub(super) async fn drop_snapshots(&mut self, ops: Vec<OpId>) -> Result<(), Halt> {
        if ops.is_empty() {
            return Ok(());
        }
        let doomed = ops.clone();
        self.shared
            .db
            .write(move |c| Box::pin(async move { journal::drop_snapshots(c, &doomed).await }))
            .await?;
        Ok(remove_dirs(&self.shared, &self.shared.snapshots, &ops).await?)
    }

    /// From time to time, and more often when the log fills up, forgets what nobody will ask for.
    pub(super) async fn tidy(&mut self) -> Result<(), Halt> {
        let half_full = self.shared.vault.log.size().0 > self.shared.limits.log_bytes.0 / 2;
        let every = if half_full { Self::TIDY_EVERY_WHEN_FULL } else { Self::TIDY_EVERY };
        if self.ended.is_multiple_of(every) { self.forget().await } else { Ok(()) }
    }

    /// Forgets ended operations past the bounds, and the files that only they needed.
    pub(super) async fn forget(&mut self) -> Result<(), Halt> {
        let limits = &self.shared.limits;
        let rows = limits.kept_results;
        // Results must never fill the log by themselves.
        let bytes = limits.kept_result_bytes.0.min(limits.log_bytes.0 / 4);
        self.shared.db.write(move |c| Box::pin(journal::trim(c, rows, bytes))).await?;
        prune_files(&self.shared).await?;
        Ok(())
    }
}

/// Removes saves that nothing points to and segments that no row points to.
async fn prune_files(shared: &Shared) -> Result<(), CoreError> {
    let doomed = shared
        .db
        .write(|c| {
            Box::pin(async move {
                let doomed = journal::doomed_saves(c).await?;
                journal::drop_saves(c, &doomed).await?;
                Ok(doomed)
            })
        })
        .await?;
    remove_dirs(shared, &shared.saves, &doomed).await?;
    let referenced = async {
        let segments = shared.db.read(|c| Box::pin(journal::referenced_segments(c))).await?;
        Ok::<_, StoreError>(segments)
    };
    match shared.vault.log.prune(referenced).await {
        // What cannot be removed is in nobody's way but the disk's.
        Err(error @ StoreError::Io { .. }) => tracing::warn!(%error, "a segment stays"),
        other => drop(other?),
    }
    shared.status().log_bytes = shared.vault.log.size().0;
    Ok(())
}

async fn remove_dirs(shared: &Shared, root: &Path, ops: &[OpId]) -> Result<(), CoreError> {
    if ops.is_empty() {
        return Ok(());
    }
    let dirs: Vec<PathBuf> = ops.iter().map(|op| Owner::op_dir(root, *op)).collect();
    let removed = shared.lane.run(move || {
        for dir in dirs {
            if let Err(error) = remove_dir(&dir) {
                // No row names it any more, so the next start tries again.
                tracing::warn!(%error, "a directory stays");
            }
        }
    });
    Ok(removed.await.map_err(StoreError::from)?)
}

/// Removes a directory that may be gone already.
fn remove_dir(dir: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(StoreError::Io { what: "remove", path: dir.to_path_buf(), source }),
    }
}

/// Removes what a death left half done: every entry that no row names. Run before an engine is.
pub(super) async fn sweep(shared: &Shared) -> Result<(), CoreError> {
    let snapshots =
        shared.read(|c| Box::pin(async move { journal::snapshots_of(c, None).await })).await?;
    let snapshots: Vec<String> = snapshots.iter().map(|row| row.op.to_string()).collect();
    let saves = shared.db.read(|c| Box::pin(journal::all_saves(c))).await?;
    let saves: Vec<String> = saves.iter().map(ToString::to_string).collect();
    let roots = [(shared.snapshots.clone(), snapshots), (shared.saves.clone(), saves)];
    let swept = shared.lane.run(move || {
        for (root, known) in roots {
            let failed = |source| StoreError::Io { what: "read", path: root.clone(), source };
            for entry in std::fs::read_dir(&root).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name();
                if known.iter().any(|known| name == known.as_str()) {
                    continue;
                }
                tracing::info!(path = %entry.path().display(), "removing what a crash left behind");
                if entry.path().is_dir() {
                    remove_dir(&entry.path())?;
                } else {
                    std::fs::remove_file(entry.path()).map_err(failed)?;
                }
            }
        }
        Ok::<_, StoreError>(())
    });
    Ok(swept.await.map_err(StoreError::from)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_alone_makes_a_snapshot_due() {
        let limits = Limits::default();
        let mut few = Work::default();
        few.add(OpId(1), 1, 100, Duration::from_millis(10));
        assert!(!few.is_due(&limits));
        let grown: [fn(&mut Work); 3] = [
            |work| (0..255).for_each(|n| work.add(OpId(n), n, 1, Duration::ZERO)),
            |work| work.add(OpId(2), 2, 64 << 20, Duration::ZERO),
            |work| work.add(OpId(2), 2, 1, Duration::from_secs(5)),
        ];
        for grow in grown {
            let mut work = few.clone();
            grow(&mut work);
            assert!(work.is_due(&limits), "{work:?}");
            work.postpone();
            assert!(!work.is_due(&limits) && work.last.is_some());
        }
    }
}
