//! Bringing models back: snapshot, then the operations that took effect after it.

use snakehouse_base::id::{ModelId, OpId};
use snakehouse_engine_api::{LoadModel, Restore};
use tokio::time::Instant;

use super::journal::{self, ModelState};
use super::life::{Halt, Life};
use super::op::{OpKind, OpRow};
use super::owner::Owner;
use super::plan::LoadPlan;
use super::shared::Model;
use super::vault::Stored;

impl Owner {
    /// How many journalled operations are looked up at once.
    const PAGE: u32 = 32;

    /// Makes sure that the engine holds a model exactly as after its last durable operation.
    ///
    /// A model that cannot be brought back is stopped, which is not an error here.
    pub(super) async fn revive(&mut self, life: &mut Life, id: &ModelId) -> Result<(), Halt> {
        if life.models.contains(id) {
            return Ok(());
        }
        let model = self.shared.state().models.get(id).cloned();
        let Some(model) = model.filter(|model| model.state == ModelState::Live) else {
            return Ok(());
        };
        self.work.remove(id);
        let began = Instant::now();
        let (mut next, snapshots, damaged) = self.restore(life, id, &model).await?;
        let mut last = None;
        loop {
            let (key, from) = (id.clone(), next);
            let rows = self.shared.read(|c| {
                Box::pin(async move { journal::effects_after(c, &key, from, Self::PAGE).await })
            });
            let rows = rows.await?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                let seq = row.job.model().map_or(0, |(_, seq)| seq);
                if next == 0 && seq != 0 {
                    return self.give_up(life, id, lost(snapshots)).await;
                }
                if let Some(why) = self.replay(life, id, &model, &row, snapshots).await? {
                    return self.give_up(life, id, why).await;
                }
                self.shared.status().replayed_ops += 1;
                self.work.entry(id.clone()).or_default().add(
                    row.job.op,
                    seq,
                    row.job.size,
                    std::time::Duration::ZERO,
                );
                next = seq + 1;
                last = Some(row.job.op);
            }
        }
        if next == 0 {
            return self.give_up(life, id, lost(snapshots)).await;
        }
        if let (Some(work), Some(_)) = (self.work.get_mut(id), last) {
            work.took(began.elapsed());
        }
        life.models.insert(id.clone());
        self.revival_deaths.remove(id);
        // It has come back without them; they must neither count as kept nor be found complete by
        // the next snapshot after the same operation.
        self.drop_snapshots(damaged).await
    }

    /// Puts the newest readable snapshot in place. Gives the first number to replay, how many
    /// snapshots there were, and which were passed over because they are damaged.
    async fn restore(
        &mut self,
        life: &mut Life,
        id: &ModelId,
        model: &Model,
    ) -> Result<(u64, usize, Vec<OpId>), Halt> {
        let key = id.clone();
        let snapshots = self
            .shared
            .read(|c| Box::pin(async move { journal::snapshots_of(c, Some(&key)).await }))
            .await?;
        let count = snapshots.len();
        let mut damaged = Vec::new();
        for snapshot in snapshots {
            let dir = Self::op_dir(&self.shared.snapshots, snapshot.op);
            let request = Restore {
                model: id.clone(),
                base: model.base.clone(),
                dir: dir.display().to_string(),
            };
            match life.ask(&request).await? {
                Ok(_) => return Ok((snapshot.seq + 1, count, damaged)),
                Err(refusal) => {
                    let (code, message) = (refusal.code, refusal.message);
                    tracing::error!(model = %id, op = %snapshot.op, code, message, "a snapshot cannot be restored; trying the one before");
                    if refusal.kind == snakehouse_base::Kind::Corrupt {
                        damaged.push(snapshot.op);
                    }
                }
            }
        }
        Ok((0, count, damaged))
    }

    /// Repeats one operation. Gives the reason if the model cannot go on.
    async fn replay(
        &mut self,
        life: &mut Life,
        id: &ModelId,
        model: &Model,
        row: &OpRow,
        snapshots: usize,
    ) -> Result<Option<&'static str>, Halt> {
        if row.body == Stored::Dropped {
            return Ok(Some(lost(snapshots)));
        }
        let what = || format!("the body of operation {}", row.job.op);
        let Ok(body) = self.shared.fetch(&row.body, what).await? else {
            return Ok(Some("journal_damaged"));
        };
        let reply = match (row.job.kind, row.job.kind.tool()) {
            (OpKind::LoadWeights, _) => {
                let Ok(plan) = serde_json::from_slice::<LoadPlan>(&body) else {
                    return Ok(Some("journal_damaged"));
                };
                let Some(source) = row.source else { return Ok(Some("source_lost")) };
                let request = LoadModel {
                    model: id.clone(),
                    base: model.base.clone(),
                    dir: Self::op_dir(&self.shared.saves, source).display().to_string(),
                    optimizer: plan.optimizer,
                };
                life.ask_at(&request, None).await?.map(|(_, reply)| reply)
            }
            (_, Some(tool)) => life.call(tool, body, None).await?,
            (_, None) => return Ok(Some("replay_diverged")),
        };
        let same = match reply {
            Err(refusal) => {
                let (code, message) = (refusal.code, refusal.message);
                tracing::error!(model = %id, op = %row.job.op, code, message, "a replayed operation failed");
                false
            }
            Ok(reply) => {
                let digest = self.shared.sha256(&reply).await?;
                row.reply_digest.as_deref().is_some_and(|known| known == digest)
            }
        };
        if !same {
            tracing::error!(model = %id, op = %row.job.op, "a replayed operation had another result");
        }
        Ok((!same).then_some("replay_diverged"))
    }

    /// Stops a model that cannot be brought back.
    async fn give_up(
        &mut self,
        life: &mut Life,
        id: &ModelId,
        why: &'static str,
    ) -> Result<(), Halt> {
        self.stop_model(id, why).await?;
        self.discard(life, id).await
    }
}

/// Why there is nothing to replay from.
fn lost(snapshots: usize) -> &'static str {
    if snapshots > 0 { "snapshots_unreadable" } else { "journal_incomplete" }
}
