//! The owner task: runs one operation after the other and survives every engine.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use snakehouse_base::id::{ModelId, OpId};
use snakehouse_engine_api::{LoadBase, StateDigest};
use snakehouse_supervise::CancellationToken;
use snakehouse_supervise::{BoxError, ChildCtx};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

use super::engine::EngineConnector;
use super::life::{Halt, Life};
use super::load::load;
use super::op::Job;
use super::shared::{Broken, Readiness, Shared};
use super::snapshots::Work;
use super::status::EngineState;
use super::{BaseModel, Category, CoreError, journal};

/// What the owner keeps between its lives: where engines and commands come from.
pub(super) struct Sources {
    pub(super) engines: Mutex<Box<dyn EngineConnector>>,
    pub(super) commands: Mutex<mpsc::Receiver<Command>>,
}

/// Something asked of the engine that is not an operation.
pub(super) enum Command {
    /// A model's digest, once nothing is ready to run.
    Digest(ModelId, oneshot::Sender<Result<StateDigest, CoreError>>),
}

/// Runs operations. Everything it knows can be read again from the store.
pub(super) struct Owner {
    pub(super) shared: Arc<Shared>,
    pub(super) stop: CancellationToken,
    /// Unsnapshotted work of each model that has some.
    pub(super) work: HashMap<ModelId, Work>,
    /// Engine deaths while a model was being brought back, since it last came back.
    pub(super) revival_deaths: HashMap<ModelId, u32>,
    /// The operation that was running when the engine died.
    carried: Option<Job>,
    /// Models to bring back before anything else.
    wanted: HashSet<ModelId>,
    /// Since when nothing is served.
    down_since: Instant,
    pub(super) ended: u64,
}

/// What the owner was doing when the engine died.
pub(super) enum Running {
    /// An operation, or its result.
    Op(Job),
    /// Bringing a model back for an operation that had not begun.
    Revival(ModelId, Job),
}

/// How an operation's turn ended.
pub(super) type Turn = Result<(), (Halt, Running)>;

impl Owner {
    /// Engines that may die while bringing back one model before it is stopped.
    const REVIVALS: u32 = 3;
    /// Deaths of the engine that one operation may cause.
    const DEATHS: u64 = 2;

    pub(super) fn new(shared: Arc<Shared>, stop: CancellationToken) -> Self {
        Self {
            shared,
            stop,
            work: HashMap::new(),
            revival_deaths: HashMap::new(),
            carried: None,
            wanted: HashSet::new(),
            down_since: Instant::now(),
            ended: 0,
        }
    }

    /// One life of the owner task.
    pub(super) async fn run(
        mut self,
        ctx: ChildCtx,
        sources: Arc<Sources>,
    ) -> Result<(), BoxError> {
        self.shared.not_serving();
        if ctx.attempt() > 0 {
            load(&self.shared).await?;
        }
        for begun in [self.let_go(None).await, self.forget().await] {
            if let Err(Halt::Broken(error)) = begun {
                return Err(error.into());
            }
        }
        let mut engines = sources.engines.lock().await;
        let mut commands = sources.commands.lock().await;
        self.wanted.extend(self.shared.state().queue.ready_models().cloned());
        // What a death interrupted comes back at once; the rest when it is asked for.
        self.wanted.extend(self.shared.db.read(|c| Box::pin(journal::unsnapshotted(c))).await?);
        while !self.stop.is_cancelled() {
            let served = self.serve(&ctx, &mut **engines, &mut commands).await;
            match served {
                Ok(()) | Err(Halt::Stopping) => break,
                Err(Halt::Died(why)) => {
                    tracing::warn!(%why, "the engine died; bringing back its models");
                    self.down_since = Instant::now();
                    self.shared.not_serving();
                    let mut status = self.shared.status();
                    status.engine_deaths += 1;
                    status.engine = EngineState::Recovering;
                }
                Err(Halt::Broken(error)) => {
                    self.shared.not_serving();
                    self.shared.status().engine = EngineState::Starting;
                    return Err(error.into());
                }
            }
        }
        self.shared.status().engine = EngineState::Stopped;
        Ok(())
    }

    /// Serves with one engine until it dies or the service stops.
    async fn serve(
        &mut self,
        ctx: &ChildCtx,
        engines: &mut dyn EngineConnector,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<(), Halt> {
        let engine = tokio::select! {
            engine = engines.connect() => engine,
            () = self.stop.cancelled() => return Ok(()),
        };
        let engine = engine.map_err(|e| {
            let why = e.to_string();
            self.shared.readiness.send_replace(Readiness::Broken(Broken::Engine(why.clone())));
            CoreError::Engine(why)
        })?;
        let identity = engine.identity();
        {
            let mut status = self.shared.status();
            status.engine = EngineState::Recovering;
            status.engine_pid = identity.pid;
            status.engine_incarnation = identity.incarnation;
            status.replayed_ops = 0;
        }
        let (call, fault) = (self.shared.limits.call, self.shared.fault.clone());
        self.shared.note_engine(&*engine);
        let mut life = Life::new(engine, self.stop.clone(), call, fault);
        self.load_bases(&mut life).await?;
        self.shared.readiness.send_replace(Readiness::Ready);
        ctx.ready();
        self.revive_wanted(&mut life).await?;
        {
            let mut status = self.shared.status();
            status.recoveries += 1;
            status.recovered_ms = millis(self.down_since.elapsed());
            status.engine = EngineState::Idle;
        }
        let served = self.turns(&mut life, commands).await;
        if matches!(served, Err(Halt::Died(_))) {
            self.wanted.extend(life.models.drain());
        }
        served
    }

    /// Loads every base model; without all of them the core does not serve.
    async fn load_bases(&mut self, life: &mut Life) -> Result<(), Halt> {
        let mut bases = Vec::new();
        for source in self.shared.sources.clone() {
            let name = source.name.clone();
            let request = LoadBase { name: name.clone(), dir: source.dir.display().to_string() };
            match life.ask(&request).await? {
                Ok(info) => bases.push(BaseModel {
                    name,
                    max_context: info.max_context,
                    vocab_size: info.vocab_size,
                    parameters: info.parameters,
                    dir: source.dir,
                }),
                Err(refusal) => {
                    let (message, hint) = (refusal.message, refusal.hint);
                    let broken = Broken::Base(name.clone(), message.clone(), hint.clone());
                    self.shared.readiness.send_replace(Readiness::Broken(broken));
                    return Err(CoreError::BadBaseModel { name, message, hint }.into());
                }
            }
        }
        self.shared.state().bases = bases;
        Ok(())
    }

    /// Brings back the models that were in use.
    async fn revive_wanted(&mut self, life: &mut Life) -> Result<(), Halt> {
        let mut wanted: Vec<ModelId> = self.wanted.iter().cloned().collect();
        if let Some((model, _)) = self.carried.as_ref().and_then(Job::model) {
            wanted.push(model.clone());
        }
        wanted.sort();
        wanted.dedup();
        for model in wanted {
            if let Err(halt) = self.revive(life, &model).await {
                self.count_revival_death(&halt, &model).await?;
                return Err(halt);
            }
            self.wanted.remove(&model);
        }
        Ok(())
    }

    /// Runs operations and commands until something ends that.
    async fn turns(
        &mut self,
        life: &mut Life,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<(), Halt> {
        let lost = life.engine.lost();
        tokio::pin!(lost);
        loop {
            self.retire(life).await?;
            if self.stop.is_cancelled() {
                return self.snapshot_all(life).await;
            }
            if self.shared.crowded.swap(false, Ordering::Relaxed) {
                self.relieve(life).await?;
            }
            if let Some(job) = self.next() {
                self.shared.status().engine = EngineState::Busy;
                self.turn(life, job).await?;
                self.shared.status().engine = EngineState::Idle;
                continue;
            }
            let gap = self.shared.state().queue.next_gap();
            let gap_closes = async {
                match gap {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = self.stop.cancelled() => {}
                () = gap_closes => {}
                () = &mut lost => return Err(Halt::Died("it ended while idle".into())),
                Some(command) = commands.recv() => self.obey(life, command).await?,
            }
        }
    }

    /// The next operation: the one that a death interrupted, else the queue's.
    fn next(&mut self) -> Option<Job> {
        self.carried.take().or_else(|| {
            let mut state = self.shared.state();
            state.queue.close_gaps(Instant::now());
            state.queue.pop()
        })
    }

    /// Runs one operation to its end, or finds out why not.
    async fn turn(&mut self, life: &mut Life, job: Job) -> Result<(), Halt> {
        let model = job.model().map(|(model, _)| model.clone());
        let Err((halt, running)) = self.execute(life, job).await else {
            // From here on the operation is over, whatever happens.
            self.ended += 1;
            if let Some(model) = model {
                self.snapshot_if_due(life, &model).await?;
            }
            return self.tidy().await;
        };
        match running {
            Running::Op(job) => {
                if matches!(halt, Halt::Died(_)) {
                    self.blame(job).await?;
                } else {
                    self.carried = Some(job);
                }
            }
            Running::Revival(model, job) => {
                self.count_revival_death(&halt, &model).await?;
                self.carried = Some(job);
            }
        }
        Err(halt)
    }

    /// Counts a death against the operation that was running, and ends one that kills engines.
    async fn blame(&mut self, job: Job) -> Result<(), Halt> {
        let op = job.op;
        let deaths = self.shared.db.write(move |c| Box::pin(journal::add_death(c, op))).await?;
        if deaths < Self::DEATHS {
            self.carried = Some(job);
            return Ok(());
        }
        let why = "the engine died twice while it ran this operation, which has been given up and \
                   has left nothing behind"
            .to_owned();
        self.end_failed(&job, why, Category::Server).await
    }

    pub(super) async fn count_revival_death(
        &mut self,
        halt: &Halt,
        model: &ModelId,
    ) -> Result<(), Halt> {
        if !matches!(halt, Halt::Died(_)) {
            return Ok(());
        }
        let deaths = self.revival_deaths.entry(model.clone()).or_default();
        *deaths += 1;
        if *deaths >= Self::REVIVALS {
            self.wanted.remove(model);
            self.stop_model(model, "recovery_failed").await?;
        }
        Ok(())
    }

    /// Marks a model as one that cannot go on. That is for good only where no other machine, disk or
    /// engine could help; else the next start tries again.
    pub(super) async fn stop_model(
        &mut self,
        model: &ModelId,
        why: &'static str,
    ) -> Result<(), Halt> {
        let for_good = matches!(why, "replay_diverged" | "journal_incomplete");
        tracing::error!(%model, why, for_good, "a model is stopped");
        if for_good {
            let id = model.clone();
            self.shared
                .db
                .write(move |c| Box::pin(async move { journal::stop_model(c, &id, why).await }))
                .await?;
        }
        if let Some(entry) = self.shared.state().models.get_mut(model) {
            entry.state = journal::ModelState::Stopped;
            entry.stopped = Some(why.to_owned());
        }
        self.work.remove(model);
        Ok(())
    }

    /// Lets go of models whose session is finished and which have nothing left to do.
    async fn retire(&mut self, life: &mut Life) -> Result<(), Halt> {
        let retired: Vec<ModelId> = {
            let mut state = self.shared.state();
            state.queue.close_gaps(Instant::now());
            let (busy, idle) = std::mem::take(&mut state.retired)
                .into_iter()
                .partition(|model| state.queue.is_busy(model));
            state.retired = busy;
            idle
        };
        for model in retired {
            if self.carried.as_ref().and_then(Job::model).is_some_and(|(m, _)| *m == model) {
                self.shared.state().retired.push(model);
                continue;
            }
            {
                let mut state = self.shared.state();
                if state.queue.is_busy(&model) {
                    // Accepted in the meantime. From here on nothing more is.
                    state.retired.push(model);
                    continue;
                }
                state.queue.close(&model);
                if let Some(gone) = state.models.remove(&model)
                    && !state.models.values().any(|other| other.session == gone.session)
                {
                    state.queue.forget_session(&gone.session);
                }
            }
            self.work.remove(&model);
            self.wanted.remove(&model);
            self.let_go(Some(model.clone())).await?;
            if life.models.contains(&model) {
                self.discard(life, &model).await?;
            }
        }
        Ok(())
    }

    async fn obey(&mut self, life: &mut Life, command: Command) -> Result<(), Halt> {
        let Command::Digest(model, reply) = command;
        if let Err(halt) = self.revive(life, &model).await {
            self.count_revival_death(&halt, &model).await?;
            return Err(halt);
        }
        let answer = life.ask(&snakehouse_engine_api::Digest { model }).await?;
        // Whoever asked may have stopped waiting.
        let _gone = reply.send(answer.map_err(|r| CoreError::Corrupt(r.message)));
        Ok(())
    }

    pub(super) fn op_dir(root: &std::path::Path, op: OpId) -> std::path::PathBuf {
        root.join(op.to_string())
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<Broken> for CoreError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Base(name, message, hint) => Self::BadBaseModel { name, message, hint },
            Broken::Engine(why) => Self::Engine(why),
        }
    }
}

/// Who is to blame, in words for the client.
pub(super) fn failure_of(refusal: &super::life::Refusal) -> (String, Category) {
    use snakehouse_base::Kind;
    use snakehouse_tinker_api::json::ErrorDetail;
    let category = match refusal.kind {
        Kind::InvalidInput | Kind::NotFound | Kind::Conflict => Category::User,
        _ => Category::Server,
    };
    let detail = ErrorDetail {
        code: refusal.code.clone(),
        kind: refusal.kind.as_str().to_owned(),
        message: refusal.message.clone(),
        hint: refusal.hint.clone(),
    };
    (detail.sentence(), category)
}
