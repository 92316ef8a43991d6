//! What requests and the owner task have in common.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use snakehouse_base::Chance;
use snakehouse_base::id::{ModelId, OpId, SessionId};
use snakehouse_engine_api::LoraSpec;
use snakehouse_store::{Db, SqlFuture, StateDir, StoreError};
use snakehouse_supervise::Lane;
use snakehouse_tinker_api::json::ErrorDetail;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Notify, RwLock, watch};
use tokio::time::Instant;

use super::engine::Engine;
use super::fault::{Fault, FaultPoint, Victim};
use super::journal::{self, Extra, Finish, ModelState, StoredOutcome};
use super::op::{Ending, Job, OpKind, read_result};
use super::queue::Queue;
use super::vault::{Stored, Vault};
use super::{BaseModel, Category, CoreConfig, CoreError, CoreStatus, Limits, Outcome};

/// Everything that outlives one life of the owner task.
pub(super) struct Shared {
    pub(super) db: Db,
    pub(super) vault: Vault,
    /// For files and for encoding what is large.
    pub(super) lane: Lane,
    pub(super) limits: Limits,
    pub(super) fault: Option<Fault>,
    pub(super) sources: Vec<super::ModelSource>,
    pub(super) saves: PathBuf,
    pub(super) snapshots: PathBuf,
    /// Part of every request id, so that an id of another state directory is unknown here.
    pub(super) store_id: String,
    pub(super) chance: Chance,
    /// The owner task has something to look at.
    pub(super) wake: Notify,
    /// Something was refused because the log is full: the owner makes room.
    pub(super) crowded: AtomicBool,
    pub(super) readiness: watch::Sender<Readiness>,
    /// Held shared from the commit of an operation, a session or its end until memory has it, and
    /// exclusively while memory is filled from the journal, so that none is missed or there twice.
    pub(super) gate: RwLock<()>,
    pub(super) dir: Mutex<StateDir>,
    state: Mutex<State>,
    status: Mutex<CoreStatus>,
    waiters: Mutex<HashMap<OpId, watch::Sender<Option<Arc<Outcome>>>>>,
    killer: Mutex<Option<Killer>>,
}

type Killer = Box<dyn FnOnce() + Send>;

/// How far the owner task has come.
#[derive(Clone, Debug)]
pub(super) enum Readiness {
    /// Not yet.
    Starting,
    /// Every base model is served.
    Ready,
    /// It will not come to that.
    Broken(Broken),
}

/// Why a core cannot serve.
#[derive(Clone, Debug)]
pub(super) enum Broken {
    /// A base model does not load: name, message, hint.
    Base(String, String, Option<String>),
    /// There is no engine.
    Engine(String),
}

/// The live state that requests and the owner task change under one lock.
pub(super) struct State {
    pub(super) queue: Queue,
    pub(super) sessions: HashMap<SessionId, Session>,
    pub(super) models: HashMap<ModelId, Model>,
    pub(super) bases: Vec<BaseModel>,
    /// Models whose session has finished, for the owner to unload.
    pub(super) retired: Vec<ModelId>,
    pending_ops: usize,
    pending_bytes: u64,
}

/// An open session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) last_seen: Instant,
}

/// A model of an open session.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) session: SessionId,
    pub(super) base: String,
    pub(super) lora: Option<LoraSpec>,
    pub(super) state: ModelState,
    pub(super) stopped: Option<String>,
}

/// Room for one operation, given back when dropped unless it is used.
pub(super) struct Room<'a> {
    shared: &'a Shared,
    bytes: u64,
    used: bool,
}

/// Work up to this many bytes is done on the spot; more goes to the lane.
const ON_THE_SPOT: usize = 64 << 10;

impl Shared {
    pub(super) fn new(config: CoreConfig, stores: Stores, lane: Lane, store_id: String) -> Self {
        Self {
            state: Mutex::new(State {
                queue: Queue::new(config.limits.gap_idle),
                sessions: HashMap::new(),
                models: HashMap::new(),
                bases: Vec::new(),
                retired: Vec::new(),
                pending_ops: 0,
                pending_bytes: 0,
            }),
            db: stores.db,
            vault: stores.vault,
            lane,
            limits: config.limits,
            fault: config.fault,
            sources: config.models,
            saves: stores.saves,
            snapshots: stores.snapshots,
            store_id,
            chance: Chance::from_entropy(),
            wake: Notify::new(),
            crowded: AtomicBool::new(false),
            readiness: watch::Sender::new(Readiness::Starting),
            gate: RwLock::new(()),
            dir: Mutex::new(stores.dir),
            status: Mutex::new(CoreStatus::default()),
            waiters: Mutex::new(HashMap::new()),
            killer: Mutex::new(None),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self) -> MutexGuard<'_, CoreStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads rows that may turn out damaged.
    pub(super) async fn read<T, F>(&self, run: F) -> Result<T, CoreError>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> SqlFuture<'c, Result<T, CoreError>>,
    {
        self.db.read(run).await?
    }

    /// The bytes that a row points to. The inner error means that they are lost.
    pub(super) async fn fetch(
        &self,
        stored: &Stored,
        what: impl FnOnce() -> String,
    ) -> Result<Result<Bytes, CoreError>, CoreError> {
        let why = match self.vault.load(stored).await {
            Ok(Some(bytes)) => return Ok(Ok(bytes)),
            Ok(None) => "it is not kept".to_owned(),
            Err(error @ (StoreError::Closed | StoreError::Panicked(_))) => return Err(error.into()),
            Err(error) => error.to_string(),
        };
        let lost = CoreError::Unreadable { what: what(), why };
        tracing::error!(error = %lost, "stored bytes are lost");
        Ok(Err(lost))
    }

    /// The log is full: lets the owner know.
    pub(super) fn note_crowded(&self) {
        self.crowded.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Nothing is served from now on. What is broken for good stays so.
    pub(super) fn not_serving(&self) {
        self.readiness.send_if_modified(|now| {
            let served = matches!(now, Readiness::Ready);
            if served {
                *now = Readiness::Starting;
            }
            served
        });
    }

    /// Runs work in the lane if it is large.
    pub(super) async fn compute<T, F>(&self, size: usize, work: F) -> Result<T, CoreError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if size <= ON_THE_SPOT {
            return Ok(work());
        }
        Ok(self.lane.run(work).await.map_err(StoreError::from)?)
    }

    pub(super) async fn sha256(&self, bytes: &Bytes) -> Result<[u8; 32], CoreError> {
        let copy = bytes.clone();
        self.compute(bytes.len(), move || Sha256::digest(&copy).into()).await
    }

    // --- room ---

    /// Takes room for an operation with a body of `bytes`.
    pub(super) fn room(&self, bytes: u64) -> Result<Room<'_>, CoreError> {
        let mut state = self.state();
        if state.pending_ops >= self.limits.pending_ops {
            let limit = self.limits.pending_ops as u64;
            return Err(CoreError::Saturated { what: "the number of queued operations", limit });
        }
        let limit = self.limits.pending_bytes.0;
        if state.pending_ops > 0 && state.pending_bytes + bytes > limit {
            return Err(CoreError::Saturated { what: "the size of queued operations", limit });
        }
        state.hold(bytes);
        drop(state);
        Ok(Room { shared: self, bytes, used: false })
    }

    // --- request ids and waiters ---

    pub(super) fn request_id(&self, op: OpId) -> String {
        format!("{}-{op}", self.store_id)
    }

    pub(super) fn parse_request_id(&self, id: &str) -> Result<OpId, CoreError> {
        let number = id.strip_prefix(&self.store_id).and_then(|rest| rest.strip_prefix('-'));
        let parsed = number.and_then(|n| n.parse().ok()).map(OpId);
        parsed.ok_or_else(|| CoreError::UnknownRequest(id.to_owned()))
    }

    /// Hears of the operation's end from now on.
    pub(super) fn listen(&self, op: OpId) -> watch::Receiver<Option<Arc<Outcome>>> {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if waiters.len() > 2 * self.limits.pending_ops {
            waiters.retain(|_, waiter| waiter.receiver_count() > 0);
        }
        waiters.entry(op).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    /// Nobody needs to hear of this operation; it has ended, or never was.
    pub(super) fn unlisten(&self, op: OpId) {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner).remove(&op);
    }

    /// How an operation has ended, from its row.
    pub(super) async fn stored_outcome(&self, op: OpId) -> Result<Outcome, CoreError> {
        let found = self.read(|c| Box::pin(journal::outcome(c, op))).await?;
        let gone = || CoreError::ResultGone(self.request_id(op));
        match found {
            None => {
                let highest =
                    self.db.read(|c| Box::pin(async move { journal::highest_op(c).await })).await?;
                if op.0 <= highest { Err(gone()) } else { Err(self.unknown(op)) }
            }
            Some(StoredOutcome::Accepted) => Ok(Outcome::Pending),
            Some(
                StoredOutcome::Failed { error: Stored::Dropped, .. }
                | StoredOutcome::Done { result: Stored::Dropped, .. },
            ) => Err(gone()),
            Some(StoredOutcome::Failed { error, category }) => {
                Ok(match self.fetch(&error, || result_of(op)).await? {
                    Ok(text) => {
                        let error = String::from_utf8_lossy(&text).into_owned();
                        Outcome::Failed { error, category }
                    }
                    Err(lost) => failed(&lost),
                })
            }
            Some(StoredOutcome::Done { kind, model, result }) => {
                match self.fetch(&result, || result_of(op)).await? {
                    Ok(bytes) => self.read_done(op, kind, model, bytes).await,
                    Err(lost) => Ok(failed(&lost)),
                }
            }
        }
    }

    fn unknown(&self, op: OpId) -> CoreError {
        CoreError::UnknownRequest(self.request_id(op))
    }

    /// What a stored result is. One that cannot be read is a failure for good: its client must
    /// not ask again and again.
    async fn read_done(
        &self,
        op: OpId,
        kind: OpKind,
        model: Option<ModelId>,
        bytes: Bytes,
    ) -> Result<Outcome, CoreError> {
        let size = bytes.len();
        let read = move || read_result(kind, model.as_ref(), &bytes);
        Ok(match self.compute(size, read).await? {
            Ok(result) => Outcome::Done(result),
            Err(error) => {
                let lost = CoreError::Unreadable { what: result_of(op), why: error.to_string() };
                tracing::error!(error = %lost, "a result cannot be read");
                failed(&lost)
            }
        })
    }

    // --- endings ---

    /// Makes the end of an operation durable, then lets everybody know.
    pub(super) async fn settle(&self, job: &Job, end: End) -> Result<(), CoreError> {
        let (result, failed, reply_digest) = match &end.ending {
            Ending::Done { result, reply_digest } => (result.clone(), None, *reply_digest),
            Ending::Failed { error, category } => {
                (Bytes::from(error.clone()), Some(*category), None)
            }
        };
        let (kept, crowded) = self.vault.keep(result).await?;
        if crowded {
            self.note_crowded();
        }
        let finish = Finish {
            op: job.op,
            failed,
            effect: failed.is_none() && job.kind.changes_model(),
            result: kept.stored.clone(),
            reply_digest,
            source: end.source,
            passed: job.model().filter(|_| end.in_turn).map(|(m, seq)| (m.clone(), seq)),
            extra: end.extra,
        };
        self.db.write(move |c| Box::pin(journal::finish(c, finish))).await?;
        drop(kept);
        self.at(FaultPoint::AfterResult).await;
        self.state().release(job.size);
        self.status().finished_ops += 1;
        let waiter = {
            let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            waiters.remove(&job.op)
        };
        if let Some(waiter) = waiter {
            let outcome = match end.ending {
                Ending::Failed { error, category } => Outcome::Failed { error, category },
                Ending::Done { result, .. } => {
                    let model = job.model().map(|(model, _)| model.clone());
                    self.read_done(job.op, job.kind, model, result).await?
                }
            };
            waiter.send_replace(Some(Arc::new(outcome)));
        }
        Ok(())
    }

    /// Ends an operation that never ran.
    pub(super) async fn refuse(
        &self,
        job: &Job,
        error: String,
        category: Category,
        in_turn: bool,
    ) -> Result<(), CoreError> {
        let ending = Ending::Failed { error, category };
        let end = End { ending, source: None, extra: Extra::Nothing, in_turn };
        self.settle(job, end).await
    }

    // --- faults ---

    /// A point where a test may want somebody to die.
    pub(super) async fn at(&self, point: FaultPoint) {
        if let Some(victim) = self.fault.as_ref().and_then(|fault| fault.visit(point)) {
            let killer = self.killer.lock().unwrap_or_else(PoisonError::into_inner).take();
            match (&victim, killer) {
                (Victim::Engine, Some(kill)) => kill(),
                _ => die(victim).await,
            }
        }
    }

    /// Notes how the serving engine is killed, if a test may want that.
    pub(super) fn note_engine(&self, engine: &dyn Engine) {
        if self.fault.is_some() {
            let killer = engine.killer();
            *self.killer.lock().unwrap_or_else(PoisonError::into_inner) = Some(killer);
        }
    }
}

fn result_of(op: OpId) -> String {
    format!("the result of operation {op}")
}

/// An end that only tells of what was lost.
fn failed(lost: &CoreError) -> Outcome {
    Outcome::Failed { error: ErrorDetail::of(lost).sentence(), category: Category::Server }
}

/// Carries out a death other than the engine's, which only its owner can bring about.
pub(super) async fn die(victim: Victim) {
    match victim {
        Victim::Engine => {}
        Victim::Service => {
            let me = rustix::process::getpid();
            // Nothing after this line runs; were the signal refused, the test would see it.
            let _sent = rustix::process::kill_process(me, rustix::process::Signal::KILL);
            std::future::pending().await
        }
        Victim::Simulated(take) => {
            take();
            std::future::pending().await
        }
    }
}

/// The end of an operation, with what else becomes true.
pub(super) struct End {
    pub(super) ending: Ending,
    pub(super) source: Option<OpId>,
    pub(super) extra: Extra,
    /// Its turn had come, so that its model's order is past it.
    pub(super) in_turn: bool,
}

/// The opened stores.
pub(super) struct Stores {
    pub(super) dir: StateDir,
    pub(super) db: Db,
    pub(super) vault: Vault,
    pub(super) saves: PathBuf,
    pub(super) snapshots: PathBuf,
}

impl State {
    pub(super) fn hold(&mut self, bytes: u64) {
        self.pending_ops += 1;
        self.pending_bytes += bytes;
    }

    pub(super) fn release(&mut self, bytes: u64) {
        self.pending_ops = self.pending_ops.saturating_sub(1);
        self.pending_bytes = self.pending_bytes.saturating_sub(bytes);
    }

    /// A session is open.
    pub(super) fn add_session(&mut self, id: SessionId) {
        let now = Instant::now();
        self.queue.touch(&id, now);
        self.sessions.insert(id, Session { last_seen: now });
    }

    pub(super) fn pending_ops(&self) -> usize {
        self.pending_ops
    }

    /// Begins anew, as at a start.
    pub(super) fn clear(&mut self, limits: &Limits) {
        self.queue = Queue::new(limits.gap_idle);
        self.sessions.clear();
        self.models.clear();
        self.retired.clear();
    }

    /// Sets what is pending, once it has been read from the journal.
    pub(super) fn set_pending(&mut self, ops: usize, bytes: u64) {
        self.pending_ops = ops;
        self.pending_bytes = bytes;
    }
}

impl Room<'_> {
    /// The operation is accepted: whoever ends it gives the room back.
    pub(super) fn used(mut self) {
        self.used = true;
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if !self.used {
            self.shared.state().release(self.bytes);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("store_id", &self.store_id).finish_non_exhaustive()
    }
}
