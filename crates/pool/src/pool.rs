//! A pool of workers that serve calls.
//!
//! Each worker is a supervised child of the pool's scope: it starts a process, serves its socket
//! until the process is dead, and is started again with back-off. What waits, what is where and who
//! is next is the [`Dispatcher`]'s; this module holds it, and the two sides that change it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use snakehouse_base::Deadline;
use snakehouse_base::id::WorkerId;
use snakehouse_supervise::Scope;
use snakehouse_wire::{ToolInfo, Value};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout_at;

use crate::call::{Args, Call, CallError, CallOptions, Where};
use crate::dispatcher::{After, Dispatcher};
use crate::error::PoolError;
use crate::os;
use crate::output::{Output, OutputLine};
use crate::reaper::Reaper;
use crate::session::Session;
use crate::slot;
use crate::spec::WorkerSpec;
use crate::worker::{Life, WorkerInfo};

/// How a pool works.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Workers. Default 1; at least 1.
    pub workers: usize,
    /// Calls that may wait; one more is [`CallError::Saturated`]. Default 10,000.
    pub queue: usize,
    /// From the start of a worker's process to its hello. Default 60 s: an import of a large
    /// library on a loaded machine takes 20 s. The reaper has as long to start the process, but no
    /// longer than 10 s, or it is replaced.
    pub start_within: Duration,
    /// From the pool's stop to the kill of a worker that is not gone by itself. Default 3 s.
    pub stop_grace: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            queue: 10_000,
            start_within: Duration::from_secs(60),
            stop_grace: Duration::from_secs(3),
        }
    }
}

/// Workers that serve calls. Cheap to clone; the scope it was started in owns the workers.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
    scope: Scope,
}

/// What callers and connections have in common.
pub(crate) struct Shared {
    pub(crate) spec: WorkerSpec,
    pub(crate) config: PoolConfig,
    pub(crate) reaper: Reaper,
    dispatcher: Mutex<Dispatcher>,
    /// One per worker: its connection has something to do.
    pub(crate) bells: Vec<Notify>,
    pub(crate) outputs: Vec<Output>,
    /// Counts the times that a worker began to serve, for those who wait for one.
    pub(crate) served: watch::Sender<u64>,
    /// Items of streams that came for nobody.
    pub(crate) late_items: AtomicU64,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Dispatcher> {
        // Its methods do not panic half-way: they call nothing that is not theirs.
        self.dispatcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a deadline that passed in the queue means.
    pub(crate) fn not_given_out(&self) -> CallError {
        match self.lock().why_none_serves() {
            Some(cause) => CallError::NoWorker { cause: cause.to_owned() },
            None => CallError::Deadline { at: Where::Queue },
        }
    }

    /// Changes the state, then does what follows from it without the lock.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Dispatcher, &mut After) -> T) -> T {
        let mut after = After::default();
        let result = change(&mut self.lock(), &mut after);
        for place in after.ring {
            self.bells[place].notify_one();
        }
        for (call, error) in after.fail {
            call.finish(Err(error));
        }
        result
    }
}

impl Pool {
    /// Starts the workers and waits until every one of them serves.
    ///
    /// From then on a worker that dies is started again for as long as the scope lives: at once if
    /// it had been of use, after 50 ms to 5 s if it died before it started a call. At the scope's stop
    /// what waits fails with [`CallError::Stopped`], and the workers have
    /// [`PoolConfig::stop_grace`] to finish what they run.
    ///
    /// # Errors
    /// [`PoolError`] of the first worker that does not get ready; nothing is left then.
    pub async fn start(
        scope: &Scope,
        reaper: Reaper,
        spec: WorkerSpec,
        config: PoolConfig,
    ) -> Result<Self, PoolError> {
        let workers = config.workers.max(1);
        let scope = scope.open(&spec.name);
        let shared = Arc::new(Shared {
            dispatcher: Mutex::new(Dispatcher::new(workers, config.queue)),
            bells: std::iter::repeat_with(Notify::new).take(workers).collect(),
            outputs: std::iter::repeat_with(Output::default).take(workers).collect(),
            served: watch::Sender::new(0),
            late_items: AtomicU64::new(0),
            spec,
            config,
            reaper,
        });
        let mut starts = Vec::new();
        for place in 0..workers {
            let (first, started) = oneshot::channel();
            scope.child(slot::spec(shared.clone(), place, first));
            starts.push(started);
        }
        let (watched, token) = (shared.clone(), scope.cancelled());
        // The result is nothing, and a panic is the scope's to report.
        let _stopper = scope.task("stopper", async move {
            token.cancelled().await;
            watched.change(Dispatcher::stop);
        });
        for started in starts {
            let outcome = started.await.unwrap_or(Err(PoolError::Stopped));
            if let Err(error) = outcome {
                scope.stop().await;
                return Err(error);
            }
        }
        Ok(Self { shared, scope })
    }

    /// Calls a Python tool on any worker.
    ///
    /// Dropping the future cancels the call: one that waits is forgotten, one that runs is
    /// interrupted, and its worker killed if it does not react within the grace of its spec.
    ///
    /// # Errors
    /// [`CallError`]: exactly one outcome. Values are encoded and decoded on the calling thread.
    pub async fn call(
        &self,
        tool: &str,
        args: Args,
        options: CallOptions,
    ) -> Result<Value, CallError> {
        call_value(&self.shared, None, tool, args, options).await
    }

    /// Calls a tool that reads its own bytes, on any worker. Dropping the future cancels the call.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_bytes(
        &self,
        tool: &str,
        body: Bytes,
        options: CallOptions,
    ) -> Result<Bytes, CallError> {
        call_bytes(&self.shared, None, tool, body, options).await
    }

    /// Opens a session on the serving worker that has the fewest. Waits until one serves. Cancel
    /// safe.
    ///
    /// # Errors
    /// [`CallError::Deadline`], [`CallError::NoWorker`] or [`CallError::Stopped`].
    pub async fn session(&self, deadline: Deadline) -> Result<Session, CallError> {
        let mut served = self.shared.served.subscribe();
        loop {
            served.borrow_and_update();
            if let Some((id, life)) = self.shared.lock().open_session()? {
                return Ok(Session::new(self.shared.clone(), life, id));
            }
            let stopped = self.scope.cancelled();
            let waited = until(deadline, async {
                tokio::select! {
                    changed = served.changed() => changed.map_err(|_gone| CallError::Stopped),
                    () = stopped.cancelled() => Err(CallError::Stopped),
                }
            });
            waited.await.unwrap_or_else(|| Err(self.shared.not_given_out()))?;
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Items of streams that came for callers that were gone. They are dropped.
    pub fn late_items(&self) -> u64 {
        self.shared.late_items.load(Ordering::Relaxed)
    }

    /// Every worker at this moment.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        let mut workers = self.shared.lock().workers();
        for worker in &mut workers {
            worker.rss = worker.pid.and_then(os::resident_bytes);
        }
        workers
    }

    /// Calls that wait for a worker.
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting()
    }

    /// The tools that its workers serve.
    pub fn tools(&self) -> Arc<[ToolInfo]> {
        self.shared.lock().tools()
    }

    /// The last lines that a worker printed, over its incarnations; empty for an unknown one.
    pub fn output(&self, worker: WorkerId) -> Vec<OutputLine> {
        let place = usize::try_from(worker.0).unwrap_or(usize::MAX);
        self.shared.outputs.get(place).map(Output::lines).unwrap_or_default()
    }

    /// The name of its spec.
    pub fn name(&self) -> &str {
        self.shared.spec.name()
    }

    /// Stops the pool as its scope's stop would. Returns when nothing of it is left.
    pub async fn stop(&self) {
        self.scope.stop().await;
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// The session a call belongs to.
pub(crate) type Pin<'a> = Option<(&'a Life, u64)>;

pub(crate) async fn call_value(
    shared: &Shared,
    pin: Pin<'_>,
    tool: &str,
    args: Args,
    options: CallOptions,
) -> Result<Value, CallError> {
    let body = args.encode().map_err(CallError::BadArguments)?;
    let reply = call_bytes(shared, pin, tool, body, options).await?;
    Value::decode(&reply).map_err(|error| CallError::BadResult { tool: tool.to_owned(), error })
}

pub(crate) async fn call_bytes(
    shared: &Shared,
    pin: Pin<'_>,
    tool: &str,
    body: Bytes,
    options: CallOptions,
) -> Result<Bytes, CallError> {
    let (reply, outcome) = oneshot::channel();
    let call = Call {
        id: 0,
        tool: tool.to_owned(),
        number: 0,
        body,
        options,
        session: pin.map_or(0, |(_, session)| session),
        deaths: 0,
        reply: reply.into(),
    };
    let life = pin.map(|(life, _)| life);
    let id = shared.change(|dispatcher, after| dispatcher.submit(call, life, after))?;
    let mut guard = CancelOnDrop { shared, id, armed: true };
    match until(options.deadline, outcome).await {
        Some(outcome) => {
            guard.armed = false;
            // Whoever had the call was dropped with it: its scope was aborted.
            outcome.unwrap_or(Err(CallError::Stopped))
        }
        None => Err(match guard.cancel() {
            Where::Queue => shared.not_given_out(),
            at => CallError::Deadline { at },
        }),
    }
}

/// `None` when the deadline passes first.
async fn until<T>(deadline: Deadline, future: impl Future<Output = T>) -> Option<T> {
    match deadline.instant() {
        Some(at) => timeout_at(at.into(), future).await.ok(),
        None => Some(future.await),
    }
}

/// Cancels a call that nobody waits for any more.
struct CancelOnDrop<'a> {
    shared: &'a Shared,
    id: u64,
    armed: bool,
}

impl CancelOnDrop<'_> {
    fn cancel(&mut self) -> Where {
        self.armed = false;
        self.shared.change(|dispatcher, after| dispatcher.cancel(self.id, after))
    }
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.cancel();
        }
    }
}
