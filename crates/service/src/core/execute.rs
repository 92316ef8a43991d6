//! Running one operation.

use std::time::Duration;

use bytes::Bytes;
use snakehouse_base::id::{ModelId, OpId, SamplerId, SessionId};
use snakehouse_engine_api::{
    CreateModel, LoadModel, LoadSampler, LoraSpec, Request as _, Save, SaveKind, Unload,
    UnloadSampler,
};
use snakehouse_tinker_api::json::ErrorDetail;
use snakehouse_tinker_api::{CheckpointKind, CheckpointName, CheckpointPath};
use tokio::time::Instant;

use super::fault::FaultPoint;
use super::journal::{self, Extra, ModelState, SamplerRow, SaveRow};
use super::life::{Halt, Life, Refusal};
use super::op::{Ending, Job, OpKind, SAMPLER_MARK};
use super::owner::{Owner, Running, Turn, failure_of};
use super::plan::{LoadPlan, SavePlan};
use super::shared::{End, Model};
use super::{Category, CoreError};

impl Owner {
    /// Runs an operation and makes its end durable.
    pub(super) async fn execute(&mut self, life: &mut Life, job: Job) -> Turn {
        if let Some((model, seq)) = job.model()
            && seq > 0
        {
            let model = model.clone();
            if let Err(halt) = self.revive(life, &model).await {
                return Err((halt, Running::Revival(model, job)));
            }
        }
        if let Err(halt) = self.run_job(life, &job).await {
            return Err((halt, Running::Op(job)));
        }
        Ok(())
    }

    async fn run_job(&mut self, life: &mut Life, job: &Job) -> Result<(), Halt> {
        let model = match job.model() {
            None => None,
            Some((id, _)) => match self.model(id) {
                Err(why) => return self.end_failed(job, why, Category::Server).await,
                Ok(model) => Some((id.clone(), model)),
            },
        };
        let op = job.op;
        let row = self.shared.read(|c| Box::pin(journal::op_row(c, op))).await?;
        let row = row.ok_or_else(|| CoreError::Corrupt(format!("operation {op} is gone")))?;
        let what = || format!("the body of operation {op}");
        let body = match self.shared.fetch(&row.body, what).await? {
            Ok(body) => body,
            Err(lost) => return self.end_lost(job, &lost).await,
        };
        match (job.kind, model) {
            (OpKind::Sample, _) => self.sample(life, job, body).await,
            (OpKind::CreateModel, Some((id, model))) => {
                self.create(life, job, body, id, model).await
            }
            (OpKind::LoadWeights, Some((id, model))) => {
                self.load_weights(life, job, &body, id, model).await
            }
            (OpKind::SaveWeights | OpKind::SaveForSampler, Some((id, model))) => {
                self.save(life, job, &body, id, model).await
            }
            (OpKind::ForwardBackward | OpKind::Forward | OpKind::OptimStep, Some((id, _))) => {
                self.train(life, job, body, &id).await
            }
            (OpKind::Invalid, _) | (_, None) => {
                let why = format!("operation {op} cannot be run");
                self.end_failed(job, why, Category::Server).await
            }
        }
    }

    /// The model of an operation whose turn has come, or why it cannot run.
    fn model(&self, id: &ModelId) -> Result<Model, String> {
        let model = self.shared.state().models.get(id).cloned();
        match model {
            None => Err(format!("model {id} was never made")),
            Some(Model { state: ModelState::NeverMade, .. }) => {
                Err(format!("model {id} was never made"))
            }
            Some(Model { state: ModelState::Stopped, stopped, .. }) => {
                let why = stopped.unwrap_or_default();
                Err(format!("model {id} is stopped: {why}; create a new one from a checkpoint"))
            }
            Some(model) => Ok(model),
        }
    }

    async fn train(
        &mut self,
        life: &mut Life,
        job: &Job,
        body: Bytes,
        model: &ModelId,
    ) -> Result<(), Halt> {
        let Some(tool) = job.kind.tool() else {
            return Err(CoreError::Corrupt(format!("operation {} has no tool", job.op)).into());
        };
        let began = Instant::now();
        match life.call(tool, body, Some(FaultPoint::MidCall)).await? {
            Err(refusal) => self.end_refused(job, &refusal).await,
            Ok(reply) => {
                let took = began.elapsed();
                let digest = self.shared.sha256(&reply).await?;
                self.end_done(job, reply, Some(digest), None, Extra::Nothing).await?;
                if job.kind.changes_model() {
                    self.note_work(model, job, took);
                }
                Ok(())
            }
        }
    }

    async fn create(
        &mut self,
        life: &mut Life,
        job: &Job,
        body: Bytes,
        id: ModelId,
        model: Model,
    ) -> Result<(), Halt> {
        let began = Instant::now();
        let reply = life.call(CreateModel::TOOL, body, Some(FaultPoint::MidCall)).await?;
        let reply = match reply {
            Ok(reply) => reply,
            Err(refusal) => return self.never_made(job, &id, failure_of(&refusal)).await,
        };
        let loaded = match CreateModel::decode_reply(&reply) {
            Ok(loaded) => loaded,
            Err(error) => {
                let refusal = Refusal::bad_reply(CreateModel::TOOL, &error.to_string());
                self.discard(life, &id).await?;
                return self.never_made(job, &id, failure_of(&refusal)).await;
            }
        };
        let digest = self.shared.sha256(&reply).await?;
        let extra = live(&id, &model.base, &loaded.lora)?;
        self.end_done(job, reply, Some(digest), None, extra).await?;
        self.set_live(life, &id, model.base, loaded.lora);
        self.note_work(&id, job, began.elapsed());
        Ok(())
    }

    async fn load_weights(
        &mut self,
        life: &mut Life,
        job: &Job,
        body: &[u8],
        id: ModelId,
        model: Model,
    ) -> Result<(), Halt> {
        let plan: LoadPlan = match read_plan(job, body) {
            Ok(plan) => plan,
            Err(lost) => return self.end_lost(job, &lost).await,
        };
        let save = match self.loadable(&plan, job, &model).await? {
            Ok(save) => save,
            Err(why) => return self.never_made(job, &id, (why, Category::User)).await,
        };
        let request = LoadModel {
            model: id.clone(),
            base: save.base.clone(),
            dir: Self::op_dir(&self.shared.saves, save.op).display().to_string(),
            optimizer: plan.optimizer,
        };
        let began = Instant::now();
        let (loaded, reply) = match life.ask_at(&request, Some(FaultPoint::MidCall)).await? {
            Ok(loaded) => loaded,
            Err(refusal) => {
                if refusal.code == Life::BAD_REPLY {
                    // It may have been loaded: the next operation finds the model as it was.
                    self.discard(life, &id).await?;
                }
                return self.never_made(job, &id, failure_of(&refusal)).await;
            }
        };
        let digest = self.shared.sha256(&reply).await?;
        let extra = live(&id, &save.base, &loaded.lora)?;
        let result = Bytes::from(plan.path);
        self.end_done(job, result, Some(digest), Some(save.op), extra).await?;
        self.set_live(life, &id, save.base, loaded.lora);
        self.note_work(&id, job, began.elapsed());
        // After a snapshot the model does not depend on the checkpoint, which may be overwritten.
        self.work.entry(id).or_default().hurry();
        Ok(())
    }

    /// The save to load, or why it cannot be loaded.
    async fn loadable(
        &self,
        plan: &LoadPlan,
        job: &Job,
        model: &Model,
    ) -> Result<Result<SaveRow, String>, Halt> {
        let path: CheckpointPath = match plan.path.parse() {
            Ok(path) => path,
            Err(error) => return Ok(Err(ErrorDetail::of(&error).sentence())),
        };
        let (run, name) = (path.run, path.name);
        let save = self
            .shared
            .read(|c| Box::pin(async move { journal::checkpoint(c, &run, 0, name.as_str()).await }))
            .await?;
        let Some(save) = save else {
            let error = CoreError::UnknownCheckpoint(plan.path.clone());
            return Ok(Err(ErrorDetail::of(&error).sentence()));
        };
        let wanted = match job.model() {
            Some((_, 0)) => plan.base.as_deref(),
            _ => Some(model.base.as_str()),
        };
        if wanted.is_some_and(|wanted| wanted != save.base) {
            let wanted = wanted.unwrap_or_default();
            return Ok(Err(format!(
                "wrong_base_model: checkpoint {} belongs to base model {}, not to {wanted} \
                 (hint: name its own base model)",
                plan.path, save.base
            )));
        }
        if !self.shared.sources.iter().any(|source| source.name == save.base) {
            return Ok(Err(format!(
                "unknown_base_model: base model {} of checkpoint {} is not served (hint: start the \
                 service with --model {}=DIR)",
                save.base, plan.path, save.base
            )));
        }
        Ok(Ok(save))
    }

    async fn save(
        &mut self,
        life: &mut Life,
        job: &Job,
        body: &[u8],
        id: ModelId,
        model: Model,
    ) -> Result<(), Halt> {
        let plan: SavePlan = match read_plan(job, body) {
            Ok(plan) => plan,
            Err(lost) => return self.end_lost(job, &lost).await,
        };
        let (kind, what) = match job.kind {
            OpKind::SaveWeights => (CheckpointKind::Training, SaveKind::Training),
            _ => (CheckpointKind::Sampler, SaveKind::Sampler),
        };
        let name = match plan.name.as_deref().map(CheckpointName::new).transpose() {
            Ok(name) => name,
            Err(error) => {
                let why = ErrorDetail::of(&error).sentence();
                return self.end_failed(job, why, Category::User).await;
            }
        };
        let code = kind_code(kind);
        if let (Some(name), false) = (&name, plan.overwrite) {
            let (run, name) = (id.clone(), name.clone());
            let taken = self.shared.read(|c| {
                Box::pin(async move { journal::checkpoint(c, &run, code, name.as_str()).await })
            });
            if taken.await?.is_some() {
                let name = plan.name.unwrap_or_default();
                let why = format!(
                    "name_taken: a checkpoint named {name:?} exists already (hint: choose another \
                     name or allow overwriting)"
                );
                return self.end_failed(job, why, Category::User).await;
            }
        }
        let dir = Self::op_dir(&self.shared.saves, job.op).display().to_string();
        let request = Save { model: id.clone(), dir, what };
        let saved = match life.ask_at(&request, Some(FaultPoint::MidSave)).await? {
            Ok((saved, _)) => saved,
            Err(refusal) => return self.end_refused(job, &refusal).await,
        };
        let save = SaveRow {
            op: job.op,
            model: id.clone(),
            kind: code,
            base: model.base.clone(),
            lora: lora_json(&self.lora(&id)?)?,
            bytes: saved.bytes,
        };
        let (result, sampler) = match &name {
            Some(name) => {
                let path = CheckpointPath { run: id.clone(), kind, name: name.clone() };
                (path.to_string(), None)
            }
            None => {
                let sampler = unnamed_sampler(&id, job, &model.session, &model.base);
                (format!("{SAMPLER_MARK}{}", sampler.id), Some(sampler))
            }
        };
        let extra = Extra::Saved { save, name: name.map(String::from), sampler };
        self.end_done(job, Bytes::from(result), None, None, extra).await
    }

    async fn sample(&mut self, life: &mut Life, job: &Job, body: Bytes) -> Result<(), Halt> {
        let super::op::Place::Sampler(sampler) = &job.place else {
            return Err(CoreError::Corrupt("a sample without a sampler".into()).into());
        };
        if let Some(refusal) = self.load_sampler(life, sampler).await? {
            return self.end_refused(job, &refusal).await;
        }
        match life
            .call(snakehouse_engine_api::Sample::TOOL, body, Some(FaultPoint::MidCall))
            .await?
        {
            Err(refusal) => self.end_refused(job, &refusal).await,
            Ok(reply) => self.end_done(job, reply, None, None, Extra::Nothing).await,
        }
    }

    /// Makes sure that the engine holds a sampler; gives the engine's refusal if it cannot.
    async fn load_sampler(
        &mut self,
        life: &mut Life,
        sampler: &SamplerId,
    ) -> Result<Option<Refusal>, Halt> {
        if !life.samplers.contains(sampler) {
            let id = sampler.clone();
            let row =
                self.shared.read(|c| Box::pin(async move { journal::find_sampler(c, &id).await }));
            let Some(row) = row.await? else {
                return Ok(Some(Refusal {
                    kind: snakehouse_base::Kind::NotFound,
                    code: "unknown_sampler".into(),
                    message: format!("sampling session {sampler} does not exist any more"),
                    hint: Some("open a new one".into()),
                }));
            };
            let dir = |op: OpId| Self::op_dir(&self.shared.saves, op).display().to_string();
            let request = LoadSampler { sampler: row.id, base: row.base, dir: row.save.map(dir) };
            if let Err(refusal) = life.ask(&request).await? {
                return Ok(Some(refusal));
            }
        }
        for surplus in life.used_sampler(sampler, self.shared.limits.loaded_samplers) {
            if let Err(refusal) = life.ask(&UnloadSampler { sampler: surplus }).await? {
                tracing::warn!(message = %refusal.message, "a sampler was not unloaded");
            }
        }
        Ok(None)
    }

    // --- endings ---

    async fn end_done(
        &mut self,
        job: &Job,
        result: Bytes,
        reply_digest: Option<[u8; 32]>,
        source: Option<OpId>,
        extra: Extra,
    ) -> Result<(), Halt> {
        self.shared.at(FaultPoint::BeforeResult).await;
        let ending = Ending::Done { result, reply_digest };
        Ok(self.shared.settle(job, End { ending, source, extra, in_turn: true }).await?)
    }

    async fn end_refused(&mut self, job: &Job, refusal: &Refusal) -> Result<(), Halt> {
        let (error, category) = failure_of(refusal);
        self.end_failed(job, error, category).await
    }

    /// Ends an operation whose stored request is lost. Nobody else is concerned.
    async fn end_lost(&mut self, job: &Job, lost: &CoreError) -> Result<(), Halt> {
        self.end_failed(job, ErrorDetail::of(lost).sentence(), Category::Server).await
    }

    /// Lets the engine forget a model, whatever it holds under that name.
    pub(super) async fn discard(&mut self, life: &mut Life, id: &ModelId) -> Result<(), Halt> {
        life.models.remove(id);
        if let Err(refusal) = life.ask(&Unload { model: id.clone() }).await? {
            tracing::warn!(model = %id, message = %refusal.message, "not unloaded");
        }
        Ok(())
    }

    /// Ends an operation that left nothing behind.
    pub(super) async fn end_failed(
        &mut self,
        job: &Job,
        error: String,
        category: Category,
    ) -> Result<(), Halt> {
        match job.model() {
            Some((model, 0)) => {
                let model = model.clone();
                self.never_made(job, &model, (error, category)).await
            }
            _ => {
                self.shared.at(FaultPoint::BeforeResult).await;
                Ok(self.shared.refuse(job, error, category, true).await?)
            }
        }
    }

    /// Ends a creation that failed, and with it everything that waits for the model. Of a model
    /// that exists, only the operation fails.
    async fn never_made(
        &mut self,
        job: &Job,
        model: &ModelId,
        (error, category): (String, Category),
    ) -> Result<(), Halt> {
        self.shared.at(FaultPoint::BeforeResult).await;
        let creation = matches!(job.model(), Some((_, 0)));
        let extra = if creation { Extra::NeverMade(model.clone()) } else { Extra::Nothing };
        let ending = Ending::Failed { error, category };
        self.shared.settle(job, End { ending, source: None, extra, in_turn: true }).await?;
        if !creation {
            return Ok(());
        }
        let orphans = {
            let mut state = self.shared.state();
            state.models.remove(model);
            state.queue.close(model)
        };
        for orphan in orphans {
            let why = format!("model {model} was never made");
            self.shared.refuse(&orphan, why, Category::User, false).await?;
        }
        Ok(())
    }

    // --- models ---

    fn set_live(&mut self, life: &mut Life, id: &ModelId, base: String, lora: LoraSpec) {
        life.models.insert(id.clone());
        if let Some(entry) = self.shared.state().models.get_mut(id) {
            entry.state = ModelState::Live;
            entry.base = base;
            entry.lora = Some(lora);
        }
    }

    fn lora(&self, id: &ModelId) -> Result<LoraSpec, CoreError> {
        let lora = self.shared.state().models.get(id).and_then(|model| model.lora);
        lora.ok_or_else(|| CoreError::Corrupt(format!("the adapters of model {id} are unknown")))
    }

    fn note_work(&mut self, model: &ModelId, job: &Job, took: Duration) {
        let Some((_, seq)) = job.model() else { return };
        self.work.entry(model.clone()).or_default().add(job.op, seq, job.size, took);
    }
}

/// The number that stands for a kind in the database.
pub(super) const fn kind_code(kind: CheckpointKind) -> i64 {
    match kind {
        CheckpointKind::Training => 0,
        CheckpointKind::Sampler => 1,
    }
}

fn unnamed_sampler(model: &ModelId, job: &Job, session: &SessionId, base: &str) -> SamplerRow {
    let seq = job.model().map_or(0, |(_, seq)| seq);
    SamplerRow {
        id: SamplerId::new(format!("{model}:sample:{seq}")),
        session: session.clone(),
        base: base.to_owned(),
        path: None,
        save: Some(job.op),
    }
}

fn live(model: &ModelId, base: &str, lora: &LoraSpec) -> Result<Extra, CoreError> {
    Ok(Extra::Live { model: model.clone(), base: base.to_owned(), lora: lora_json(lora)? })
}

fn lora_json(lora: &LoraSpec) -> Result<String, CoreError> {
    serde_json::to_string(lora).map_err(|e| CoreError::Corrupt(e.to_string()))
}

fn read_plan<T: serde::de::DeserializeOwned>(job: &Job, body: &[u8]) -> Result<T, CoreError> {
    let what = || format!("the body of operation {}", job.op);
    serde_json::from_slice(body)
        .map_err(|e| CoreError::Unreadable { what: what(), why: e.to_string() })
}
