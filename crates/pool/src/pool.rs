//! A pool of workers that serve calls.
//!
//! Each worker is a supervised child of the pool's scope: it starts a process, serves its socket
//! until the process is dead, and is started again with back-off. What waits, what is where, who is
//! next and how many workers there shall be is the [`Dispatcher`]'s; this module holds it and lets
//! callers change it. Connections and the keeper are the others who do.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use bytes::Bytes;
use snakehouse_base::id::WorkerId;
use snakehouse_guard::{Breaker, Permits, by};
use snakehouse_supervise::{Lane, Scope};
use snakehouse_wire::{ToolInfo, TraceContext, Value};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use crate::attempts::call_bytes;
use crate::call::{Args, Body, Call, CallError, CallOptions, Where};
use crate::config::{PoolConfig, Start};
use crate::counters::PoolCounters;
use crate::devices::DevicePool;
use crate::dispatcher::{After, Dispatcher, Ticket};
use crate::error::PoolError;
use crate::host::chain::{Chain, Place};
use crate::keeper;
use crate::os;
use crate::output::{Output, OutputCounts, OutputLine};
use crate::reaper::Reaper;
use crate::session::Tag;
use crate::spec::WorkerSpec;
use crate::starts::PoolStarts;
use crate::stats::Tally;
use crate::telemetry::{Hub, OpenSpan, Reader, SpanKind, TelemetryFilter};
use crate::worker::WorkerInfo;

/// Threads that copy large results, and how many copies may wait there: one of each worker; more wait at
/// their connections.
const COPIERS: usize = 1;
const MAX_COPIES: usize = 64;

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
    pub(crate) starts: PoolStarts,
    dispatcher: Mutex<Dispatcher>,
    /// One per place: its worker's connection has something to do.
    pub(crate) bells: Vec<Notify>,
    /// The keeper has something to do.
    pub(crate) keeper: Notify,
    pub(crate) outputs: Vec<Output>,
    pub(crate) tally: Tally,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) devices: Option<DevicePool>,
    /// Copies large results.
    pub(crate) copier: Lane,
    /// Reads large reports of telemetry, if there is any.
    pub(crate) reader: Option<Reader>,
    /// What outlives a worker: the last of its results, and of what it told.
    pub(crate) late: Scope,
    /// Who is told what, if anybody is.
    pub(crate) telemetry: Option<Arc<Hub>>,
    /// How many callbacks of all workers may be open.
    pub(crate) callbacks: Option<Permits>,
    /// Counts the times that a worker began to serve or could not, for those who wait for one.
    pub(crate) news: watch::Sender<u64>,
    /// Told of the first worker that does not get ready, while the pool starts.
    pub(crate) first_failure: Mutex<Option<oneshot::Sender<PoolError>>>,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Dispatcher> {
        // Its methods do not panic half-way: they call nothing that is not theirs.
        self.dispatcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a span, if anybody wants to know; see [`OpenSpan::begin`].
    pub(crate) fn span(&self, kind: SpanKind, tool: &str, context: &mut TraceContext) -> OpenSpan {
        OpenSpan::begin(self.telemetry.as_ref(), self.spec.name(), kind, tool, context)
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
        for stop in after.stop {
            stop.cancel();
        }
        if after.keeper {
            self.keeper.notify_one();
        }
        for (call, error) in after.fail {
            call.finish(Err(error));
        }
        drop(after.over);
        result
    }
}

impl Pool {
    /// Starts the workers and waits until [`min_workers`](PoolConfig::min_workers) of them serve; a
    /// lazy pool is there at once, and so is one whose workers [attach](WorkerSpec::attached).
    ///
    /// From then on a worker that dies is started again for as long as the scope lives: at once if
    /// it had been of use, after 50 ms to 5 s if it died before it started a call. All pools of a
    /// reaper share the CPUs for their starts: as many start at once as there are CPUs, and a pool
    /// whose workers fail delays no other. At the scope's stop what waits fails with
    /// [`CallError::Stopped`], and the workers have [`PoolConfig::stop_grace`] to finish what they
    /// run.
    ///
    /// Cancel safe: a pool whose start is given up is stopped.
    ///
    /// # Errors
    /// [`PoolError::BadConfig`] names a rule that `config` breaks; else the [`PoolError`] of the first
    /// worker that does not get ready. Nothing is left then.
    pub async fn start(
        scope: &Scope,
        reaper: Reaper,
        spec: WorkerSpec,
        config: PoolConfig,
    ) -> Result<Self, PoolError> {
        config.check().map_err(|rule| PoolError::BadConfig { message: rule.to_owned() })?;
        let config = config.bounded();
        let breaker = config.breaker.map(|rules| Breaker::new(spec.name(), rules)).transpose();
        let breaker =
            breaker.map_err(|error| PoolError::BadConfig { message: error.to_string() })?;
        let callbacks = Permits::counted(config.callbacks)
            .map_err(|error| PoolError::BadConfig { message: error.to_string() })?;
        spec.host_tools.check().map_err(|message| PoolError::BadConfig { message })?;
        let (places, least) = (config.places(), config.least());
        let mut beginning = Beginning { scope: scope.open(&spec.name), is_over: false };
        let scope = beginning.scope.clone();
        let (failure, mut failed) = oneshot::channel();
        // Nobody can say when those of other hosts come.
        let copier = Lane::new(&scope, "buffers", COPIERS, MAX_COPIES);
        let reader = config.telemetry.is_some().then(|| Reader::new(&scope));
        let eager = config.start == Start::Eager && spec.attachments().is_none();
        let shared = Arc::new(Shared {
            dispatcher: Mutex::new(Dispatcher::new(config.clone(), Instant::now())),
            bells: std::iter::repeat_with(Notify::new).take(places).collect(),
            keeper: Notify::new(),
            outputs: std::iter::repeat_with(Output::default).take(places).collect(),
            tally: Tally::default(),
            breaker,
            callbacks: Some(callbacks),
            devices: spec.devices.clone().map(DevicePool::new),
            telemetry: config.telemetry.clone().map(|config| Hub::new(spec.name(), config)),
            copier,
            reader,
            // Before the workers, so that it takes something until they are gone.
            late: scope.open("late"),
            news: watch::Sender::new(0),
            first_failure: Mutex::new(eager.then_some(failure)),
            starts: reaper.starts().pool(),
            spec,
            config,
            reaper,
        });
        // Their results are nothing, and a panic is the scope's to report.
        let _keeper = scope.task("keeper", keeper::run(shared.clone(), scope.clone()));
        let (watched, token) = (shared.clone(), scope.cancelled());
        let _stopper = scope.task("stopper", async move {
            token.cancelled().await;
            let now = Instant::now();
            watched.change(|pool, after| pool.stop(now, after));
        });
        let (mut news, token) = (shared.news.subscribe(), scope.cancelled());
        while eager && shared.lock().open_workers() < least {
            let error = tokio::select! {
                biased;
                error = &mut failed => error.unwrap_or(PoolError::Stopped),
                () = token.cancelled() => PoolError::Stopped,
                _ = news.changed() => continue,
            };
            scope.stop().await;
            return Err(error);
        }
        shared.first_failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        beginning.is_over = true;
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

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Every worker at this moment.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        let mut workers = self.shared.lock().workers();
        for worker in &mut workers {
            worker.rss = worker.pid.and_then(os::resident_bytes);
        }
        workers
    }

    /// Replaces a worker as [`Recycle`](crate::Recycle) does: a new one starts, takes its place, and
    /// the old one ends when it has finished. Whether there was such a worker, that serves and is not
    /// being replaced already.
    pub fn recycle(&self, worker: WorkerId) -> bool {
        let place = usize::try_from(worker.0).unwrap_or(usize::MAX);
        let now = Instant::now();
        self.shared.change(|pool, after| pool.asked_to_recycle(place, now, after))
    }

    /// Replaces every worker, a quarter of them at a time and without a call that fails: so new code
    /// is loaded. How many there were.
    pub fn recycle_all(&self) -> usize {
        let workers = self.shared.lock().workers();
        workers.iter().filter(|worker| self.recycle(worker.id)).count()
    }

    /// Changes what it tells, from now on and without a restart; see [`PoolConfig::telemetry`]. Has no
    /// effect on a pool that tells nobody.
    ///
    /// # Errors
    /// [`PoolError::BadConfig`] names a rule that `filter` breaks.
    pub fn set_telemetry(&self, filter: TelemetryFilter) -> Result<(), PoolError> {
        filter.check().map_err(|rule| PoolError::BadConfig { message: rule.to_owned() })?;
        if let Some(hub) = &self.shared.telemetry {
            hub.set_filter(filter);
            // Each connection looks for itself what its worker does not know yet.
            self.shared.bells.iter().for_each(Notify::notify_one);
        }
        Ok(())
    }

    /// What it has done since its start.
    pub fn counters(&self) -> PoolCounters {
        self.shared.lock().counters()
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

    /// What became of all that its workers printed.
    pub fn output_counts(&self) -> OutputCounts {
        let counts = self.shared.outputs.iter().map(Output::counts);
        counts.fold(OutputCounts::default(), OutputCounts::plus)
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

/// A pool that starts. Dropped before it is there, it stops: nobody has a handle by which it could be.
struct Beginning {
    scope: Scope,
    is_over: bool,
}

impl Drop for Beginning {
    fn drop(&mut self) {
        if !self.is_over {
            // One look begins the stop, which goes on by itself.
            let _begun = pin!(self.scope.stop()).poll(&mut Context::from_waker(Waker::noop()));
        }
    }
}

/// The session a call belongs to.
pub(crate) type Pin<'a> = Option<&'a Arc<Tag>>;

pub(crate) async fn call_value(
    shared: &Shared,
    pin: Pin<'_>,
    tool: &str,
    args: Args,
    options: CallOptions,
) -> Result<Value, CallError> {
    let body = args.encode(shared.spec.has_buffers()).map_err(CallError::BadArguments)?;
    let reply = call_bytes(shared, pin, tool, body, options).await?;
    Value::decode(&reply).map_err(|error| CallError::BadResult { tool: tool.to_owned(), error })
}

/// One attempt at a call.
pub(crate) async fn attempt(
    shared: &Shared,
    pin: Pin<'_>,
    tool: &str,
    body: impl Into<Body>,
    options: CallOptions,
    now: Instant,
    (chain, outer): (Place, Option<Chain>),
) -> Result<Bytes, CallError> {
    let (reply, mut outcome) = oneshot::channel();
    let call = Call {
        ticket: Ticket::default(),
        tool: tool.to_owned(),
        number: 0,
        body: body.into(),
        options,
        session: pin.cloned(),
        stream: false,
        deaths: 0,
        chain,
        outer,
        reply: reply.into(),
    };
    let ticket = shared.change(|pool, after| pool.submit(call, now, after))?;
    let mut guard = CancelOnDrop { shared, ticket, armed: true };
    match by(options.deadline, &mut outcome).await {
        Some(outcome) => {
            guard.armed = false;
            // Whoever had the call was dropped with it: its scope was aborted.
            outcome.unwrap_or(Err(CallError::Stopped))
        }
        None => match guard.cancel() {
            Some(Where::Queue) => Err(shared.not_given_out()),
            Some(at) => Err(CallError::Deadline { at }),
            // It ended otherwise at this moment, and whoever ended it is about to say how.
            None => outcome.await.unwrap_or(Err(CallError::Stopped)),
        },
    }
}

/// Cancels a call that nobody waits for any more.
struct CancelOnDrop<'a> {
    shared: &'a Shared,
    ticket: Ticket,
    armed: bool,
}

impl CancelOnDrop<'_> {
    fn cancel(&mut self) -> Option<Where> {
        self.armed = false;
        let now = Instant::now();
        self.shared.change(|dispatcher, after| dispatcher.cancel(self.ticket, now, after))
    }
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.cancel();
        }
    }
}
