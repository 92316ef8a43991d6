//! The handle that everything outside the core uses.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use snakehouse_base::id::{ModelId, SamplerId, SessionId};
use snakehouse_engine_api::StateDigest;
use snakehouse_supervise::{Child, ChildSpec, Scope};
use snakehouse_tinker_api::CheckpointPath;
use tokio::sync::{mpsc, oneshot};

use super::accept::{accept, require_base, require_session};
use super::departure::{self, room_for_session};
use super::execute::kind_code;
use super::journal::{self, ModelState, SamplerRow};
use super::open::open;
use super::owner::{Command, Owner, Sources};
use super::shared::{Readiness, Shared};
use super::{
    BaseModel, CoreConfig, CoreError, CoreStatus, FinishReason, ModelInfo, NewSampler, NewSession,
    Outcome, Promise, SamplerInfo, SamplerWeights, Submit, WeightsInfo,
};

/// The durable heart of the service. Cheap to clone; the scope it was started in owns everything.
#[derive(Clone)]
pub struct Core {
    pub(super) shared: Arc<Shared>,
    scope: Scope,
    commands: mpsc::Sender<Command>,
    owner: Child,
}

impl Core {
    /// Questions to the engine that may wait.
    const COMMANDS: usize = 64;
    /// A stop waits this long for the running operation and the last snapshots.
    const GRACE: Duration = Duration::from_secs(30);

    /// Opens the state directory and begins to bring back what it holds. Returns once requests can
    /// be accepted; [`ready`](Core::ready) tells when the engine serves.
    ///
    /// # Errors
    /// [`CoreError::Store`] if the directory is held by another process, is not writable or was
    /// written by a newer version; [`CoreError::Engine`] if no engine can be started.
    pub async fn start(scope: &Scope, config: CoreConfig) -> Result<Self, CoreError> {
        let scope = scope.open("core");
        match Self::start_in(scope.clone(), config).await {
            Ok(core) => Ok(core),
            Err(error) => {
                // Lets go of the state directory at once.
                scope.stop().await;
                Err(error)
            }
        }
    }

    async fn start_in(scope: Scope, config: CoreConfig) -> Result<Self, CoreError> {
        let engines = config.engine.clone();
        let shared = Arc::new(open(&scope.open("store"), config).await?);
        let engines = engines.open(&scope.open("engine")).await;
        let engines = engines.map_err(|e| CoreError::Engine(e.to_string()))?;
        let (commands, receiver) = mpsc::channel(Self::COMMANDS);
        let sources = Arc::new(Sources {
            engines: tokio::sync::Mutex::new(engines),
            commands: tokio::sync::Mutex::new(receiver),
        });
        let for_owner = shared.clone();
        let spec = ChildSpec::new("owner", move |ctx| {
            let owner = Owner::new(for_owner.clone(), ctx.cancelled());
            owner.run(ctx, sources.clone())
        });
        // Whatever keeps failing, accepted operations wait on disk: never take the service down.
        let spec = spec.grace(Self::GRACE).intensity(u32::MAX, Duration::from_secs(1));
        let owner = scope.child(spec);
        Ok(Self { shared, scope, commands, owner })
    }

    /// Tells a second opener of the state directory which port this process serves.
    ///
    /// # Errors
    /// [`CoreError::Store`] if the lock file cannot be written.
    pub fn record_port(&self, port: u16) -> Result<(), CoreError> {
        let mut dir = self.shared.dir.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(dir.record_port(port)?)
    }

    /// Whether an engine serves every base model.
    ///
    /// Models that a death interrupted may still be on their way back. False while a dead engine is
    /// being replaced and while the store fails; requests are accepted all the time.
    pub fn ready(&self) -> bool {
        matches!(*self.shared.readiness.borrow(), Readiness::Ready)
    }

    /// Waits for [`ready`](Core::ready), also through the replacement of an engine. Cancel safe.
    ///
    /// # Errors
    /// [`CoreError::BadBaseModel`] if a base model cannot be loaded; [`CoreError::Engine`] if no
    /// engine can be started; [`CoreError::Stopping`].
    pub async fn wait_ready(&self) -> Result<(), CoreError> {
        let mut readiness = self.shared.readiness.subscribe();
        let decided = readiness.wait_for(|now| !matches!(now, Readiness::Starting));
        let decided = tokio::select! {
            decided = decided => decided.map_err(|_| CoreError::Stopping)?.clone(),
            _ = self.owner.gone() => return Err(CoreError::Stopping),
        };
        match decided {
            Readiness::Broken(broken) => Err(broken.into()),
            _ => Ok(()),
        }
    }

    /// The base models, once the engine has loaded them for the first time; empty before.
    pub fn models(&self) -> Vec<BaseModel> {
        self.shared.state().bases.clone()
    }

    /// Opens a session. Durable when it returns.
    ///
    /// # Errors
    /// [`CoreError::Saturated`], [`CoreError::Store`].
    pub async fn create_session(&self, new: NewSession) -> Result<SessionId, CoreError> {
        let shared = self.shared.clone();
        let opened =
            self.scope.task("open-session", async move { open_session(&shared, new).await });
        opened.await.map_err(|_| CoreError::Stopping)?
    }

    /// Says that a session's client is there.
    ///
    /// # Errors
    /// [`CoreError::UnknownSession`]; [`CoreError::SessionFinished`].
    pub async fn heartbeat(&self, session: &SessionId) -> Result<(), CoreError> {
        require_session(&self.shared, session).await
    }

    /// Ends a session. Nothing more is accepted from it; what was accepted is still done.
    ///
    /// # Errors
    /// [`CoreError::UnknownSession`]. Ending it again changes nothing.
    pub async fn finish_session(
        &self,
        session: &SessionId,
        reason: FinishReason,
        detail: Option<String>,
    ) -> Result<(), CoreError> {
        let (shared, session) = (self.shared.clone(), session.clone());
        let finished = self.scope.task("finish-session", async move {
            departure::finish_session(&shared, &session, reason, detail).await
        });
        finished.await.map_err(|_| CoreError::Stopping)?
    }

    /// Accepts an operation. It is durable when this returns, and stays so if the future is dropped
    /// after the commit.
    ///
    /// # Errors
    /// Unknown ids, [`CoreError::SessionFinished`], [`CoreError::Conflict`],
    /// [`CoreError::Saturated`], [`CoreError::Store`]. Nothing is recorded then.
    pub async fn submit(&self, op: Submit) -> Result<Promise, CoreError> {
        // A task of its own: a client that goes away between commit and queue loses nothing.
        let accepted = self.scope.task("accept", accept(self.shared.clone(), op));
        accepted.await.map_err(|_| CoreError::Stopping)?
    }

    /// Waits up to `hold` for an operation to end. Wakes the moment its result is durable; asking
    /// again gives the same outcome. Dropping the future is free.
    ///
    /// # Errors
    /// [`CoreError::UnknownRequest`]; [`CoreError::ResultGone`] if the result was kept long enough
    /// and has been removed.
    pub async fn wait(&self, request_id: &str, hold: Duration) -> Result<Outcome, CoreError> {
        let op = self.shared.parse_request_id(request_id)?;
        // Listen first, look second: an end in between is not missed.
        let mut ended = self.shared.listen(op);
        match self.shared.stored_outcome(op).await {
            Ok(Outcome::Pending) => {}
            known => {
                self.shared.unlisten(op);
                return known;
            }
        }
        if tokio::time::timeout(hold, ended.changed()).await.is_err() {
            return Ok(Outcome::Pending);
        }
        let heard = ended.borrow().clone();
        match heard {
            Some(outcome) => Ok(Outcome::clone(&outcome)),
            // The owner has begun anew; the journal knows.
            None => self.shared.stored_outcome(op).await,
        }
    }

    /// Opens a sampling session. The same number with the same weights gives the same id.
    ///
    /// # Errors
    /// Unknown session, base model or checkpoint; [`CoreError::Conflict`].
    pub async fn create_sampling_session(&self, new: NewSampler) -> Result<SamplerId, CoreError> {
        require_session(&self.shared, &new.session).await?;
        let id = SamplerId::new(format!("{}:sample:{}", new.session, new.sampling_session_seq_id));
        let path = match &new.weights {
            SamplerWeights::Base(name) => {
                require_base(&self.shared, name)?;
                None
            }
            SamplerWeights::Path(path) => Some((path.clone(), parse_path(path)?)),
        };
        let (row_id, session) = (id.clone(), new.session.clone());
        let asked = new.weights.clone();
        let opened = self.shared.db.write(move |c| {
            Box::pin(async move {
                if let Some(known) = flat(journal::find_sampler(c, &row_id).await)? {
                    return Ok(Ok(known));
                }
                let (base, path, save) = match (path, new.weights) {
                    (Some((path, parsed)), _) => {
                        let code = kind_code(parsed.kind);
                        let name = parsed.name.as_str();
                        let found = journal::checkpoint(c, &parsed.run, code, name).await;
                        match flat(found)? {
                            Some(save) => (save.base, Some(path), Some(save.op)),
                            None => return Ok(Err(CoreError::UnknownCheckpoint(path))),
                        }
                    }
                    (None, SamplerWeights::Base(base) | SamplerWeights::Path(base)) => {
                        (base, None, None)
                    }
                };
                let row = SamplerRow { id: row_id, session, base, path, save };
                journal::add_sampler(c, &row).await?;
                Ok(Ok(row))
            })
        });
        let row = opened.await??;
        // The number may have been used before, for these weights or for others.
        let same = match &asked {
            SamplerWeights::Base(base) => row.path.is_none() && row.base == *base,
            SamplerWeights::Path(path) => row.path.as_ref() == Some(path),
        };
        match same {
            true => Ok(id),
            false => Err(CoreError::Conflict { key: format!("sampling session {id}") }),
        }
    }

    /// A sampling session.
    ///
    /// # Errors
    /// [`CoreError::UnknownSampler`].
    pub async fn sampler(&self, sampler: &SamplerId) -> Result<SamplerInfo, CoreError> {
        let id = sampler.clone();
        let row = self
            .shared
            .read(|c| Box::pin(async move { journal::find_sampler(c, &id).await }))
            .await?;
        let row = row.ok_or_else(|| CoreError::UnknownSampler(sampler.to_string()))?;
        Ok(SamplerInfo { sampler: row.id, base_model: row.base, model_path: row.path })
    }

    /// A training model.
    ///
    /// # Errors
    /// [`CoreError::UnknownModel`].
    pub async fn model_info(&self, model: &ModelId) -> Result<ModelInfo, CoreError> {
        let id = model.clone();
        let row = self
            .shared
            .read(|c| Box::pin(async move { journal::find_model(c, &id).await }))
            .await?;
        let unknown = || CoreError::UnknownModel(model.to_string());
        let row = row.filter(|row| row.state != ModelState::NeverMade).ok_or_else(unknown)?;
        let lora = row.lora.ok_or_else(unknown)?;
        let damaged = |e: serde_json::Error| CoreError::Corrupt(format!("model {model}: {e}"));
        let metadata = row.metadata.as_deref().map(serde_json::from_str).transpose();
        Ok(ModelInfo {
            model_id: row.id,
            session: row.session,
            base_model: row.base,
            lora: serde_json::from_str(&lora).map_err(damaged)?,
            user_metadata: metadata.map_err(damaged)?,
        })
    }

    /// A checkpoint, by `tinker://<model>/<kind>/<name>`.
    ///
    /// # Errors
    /// [`CoreError::BadName`]; [`CoreError::UnknownCheckpoint`].
    pub async fn weights_info(&self, path: &str) -> Result<WeightsInfo, CoreError> {
        let parsed = parse_path(path)?;
        let (run, name, code) = (parsed.run, parsed.name, kind_code(parsed.kind));
        let save = self.shared.read(|c| {
            Box::pin(async move { journal::checkpoint(c, &run, code, name.as_str()).await })
        });
        let save = save.await?.ok_or_else(|| CoreError::UnknownCheckpoint(path.to_owned()))?;
        let lora = serde_json::from_str(&save.lora);
        let lora = lora.map_err(|e| CoreError::Corrupt(format!("checkpoint {path}: {e}")))?;
        Ok(WeightsInfo { base_model: save.base, lora, bytes: save.bytes })
    }

    /// SHA-256 of a model's state after everything accepted so far that can run.
    ///
    /// # Errors
    /// [`CoreError::UnknownModel`]; [`CoreError::Stopping`].
    pub async fn digest(&self, model: &ModelId) -> Result<StateDigest, CoreError> {
        if !self.shared.state().models.contains_key(model) {
            return Err(CoreError::UnknownModel(model.to_string()));
        }
        loop {
            let (reply, answer) = oneshot::channel();
            let command = Command::Digest(model.clone(), reply);
            self.commands.send(command).await.map_err(|_| CoreError::Stopping)?;
            tokio::select! {
                answer = answer => match answer {
                    Ok(digest) => return digest,
                    // The engine died before it could answer: ask the next one.
                    Err(_) => continue,
                },
                _ = self.owner.gone() => return Err(CoreError::Stopping),
            }
        }
    }

    /// Numbers at this moment.
    pub fn status(&self) -> CoreStatus {
        let mut status = self.shared.status().clone();
        let state = self.shared.state();
        status.pending_ops = state.pending_ops() as u64;
        status.waiting_for_gap = state.queue.held_back() as u64;
        status.models = state.models.len() as u64;
        status.log_bytes = self.shared.vault.log.size().0;
        status
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// Opens a session. It is in memory when this returns, whatever the owner task does meanwhile.
async fn open_session(shared: &Shared, new: NewSession) -> Result<SessionId, CoreError> {
    room_for_session(shared).await?;
    let id = SessionId::fresh();
    let info = serde_json::to_string(&new).map_err(|e| CoreError::BadName(e.to_string()))?;
    let row = id.clone();
    let _passage = shared.gate.read().await;
    shared
        .db
        .write(move |c| Box::pin(async move { journal::add_session(c, &row, &info).await }))
        .await?;
    shared.state().add_session(id.clone());
    Ok(id)
}

fn parse_path(path: &str) -> Result<CheckpointPath, CoreError> {
    path.parse().map_err(|e: snakehouse_tinker_api::InvalidInput| CoreError::BadName(e.to_string()))
}

/// A damaged row inside a transaction ends the transaction.
fn flat<T>(read: Result<Result<T, CoreError>, sqlx::Error>) -> Result<T, sqlx::Error> {
    read?.map_err(|e| sqlx::Error::Decode(e.into()))
}
