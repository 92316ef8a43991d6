//! Named, bounded lanes for work that blocks.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt as _;
use snakehouse_base::{Coded, Kind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::exit::payload_text;
use crate::member::{BoxFuture, Member};
use crate::scope::Scope;
use crate::spawn;
use crate::stop::{StopReport, Stopped};
use crate::tree::{Node, NodeKind, NodeState};

/// How long a stop waits for a lane to finish what it accepted.
const DRAIN: Duration = Duration::from_secs(30);

/// A fixed number of own threads behind a bounded queue, for disk, SQL and other blocking calls.
///
/// Cheap to clone. The scope owns the threads: at its stop the lane accepts nothing more, finishes
/// what it has accepted (for at most 30 s) and its threads are joined.
#[derive(Clone)]
pub struct Lane {
    shared: Arc<LaneShared>,
}

/// Why a piece of work has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// All threads are busy and the queue is full.
    #[error("lane {lane} is full")]
    Saturated {
        /// Name of the lane.
        lane: String,
    },
    /// The lane's scope is stopping or its threads never started; the work did not run.
    #[error("lane {lane} is closed")]
    Closed {
        /// Name of the lane.
        lane: String,
    },
    /// The work panicked.
    #[error("work in lane {lane} panicked: {payload}")]
    Panicked {
        /// Name of the lane.
        lane: String,
        /// The panic's payload.
        payload: String,
    },
}

impl Coded for LaneError {
    fn kind(&self) -> Kind {
        match self {
            LaneError::Saturated { .. } => Kind::Saturated,
            LaneError::Closed { .. } => Kind::Unavailable,
            LaneError::Panicked { .. } => Kind::Internal,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            LaneError::Saturated { .. } => "lane_saturated",
            LaneError::Closed { .. } => "lane_closed",
            LaneError::Panicked { .. } => "lane_panicked",
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

struct LaneShared {
    name: String,
    /// One permit per free place in the queue or free thread.
    places: Arc<Semaphore>,
    jobs: Mutex<Jobs>,
    wake: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
    alive: AtomicUsize,
    gone: CancellationToken,
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<Job>,
    closed: bool,
}

impl Lane {
    /// A lane of `threads` threads (at least 1) where `queue` pieces of work may wait.
    ///
    /// If the operating system refuses every thread, or the scope is stopping, all work is refused
    /// with [`LaneError::Closed`].
    pub fn new(scope: &Scope, name: &str, threads: usize, queue: usize) -> Self {
        let threads = threads.max(1);
        let shared = Arc::new(LaneShared {
            name: name.to_owned(),
            places: Arc::new(Semaphore::new(threads.saturating_add(queue))),
            jobs: Mutex::default(),
            wake: Condvar::new(),
            threads: Mutex::default(),
            alive: AtomicUsize::new(threads),
            gone: CancellationToken::new(),
        });
        // The scope lists the lane until it stops, so there is nothing to leave early.
        if let Some(leave) = scope.inner().add(shared.clone()) {
            leave.stay();
            shared.start_threads(threads);
        } else {
            shared.close();
            shared.gone.cancel();
        }
        Self { shared }
    }

    /// Runs `work` on one of the lane's threads, waiting for a place in the queue (FIFO).
    ///
    /// Dropping the future before the work has begun takes it out of the lane; work that has begun
    /// runs to its end and its result is dropped.
    ///
    /// # Errors
    /// [`LaneError::Closed`] when the lane closes before the work is accepted,
    /// [`LaneError::Panicked`] with the payload; the thread survives.
    pub async fn run<T, F>(&self, work: F) -> Result<T, LaneError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let place = self.shared.places.clone().acquire_owned().await;
        self.submit(place.map_err(|_| self.shared.closed())?, work).await
    }

    /// Like [`run`](Lane::run), but refuses at once when there is no place.
    ///
    /// # Errors
    /// As [`run`](Lane::run), and [`LaneError::Saturated`].
    pub async fn try_run<T, F>(&self, work: F) -> Result<T, LaneError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let place =
            self.shared.places.clone().try_acquire_owned().map_err(|error| match error {
                tokio::sync::TryAcquireError::Closed => self.shared.closed(),
                tokio::sync::TryAcquireError::NoPermits => {
                    LaneError::Saturated { lane: self.shared.name.clone() }
                }
            })?;
        self.submit(place, work).await
    }

    async fn submit<T, F>(&self, place: OwnedSemaphorePermit, work: F) -> Result<T, LaneError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (result, receiver) = oneshot::channel();
        self.shared.push(Box::new(move || {
            if !result.is_closed() {
                let outcome = catch_unwind(AssertUnwindSafe(work));
                drop(place);
                let _ = result.send(outcome);
            }
        }))?;
        match receiver.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(payload)) => {
                let payload = payload_text(&*payload);
                tracing::error!(lane = %self.shared.name, panic = %payload, "work panicked");
                Err(LaneError::Panicked { lane: self.shared.name.clone(), payload })
            }
            Err(_) => Err(self.shared.closed()),
        }
    }

    /// The name it was made with.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// How much accepted work is waiting for a thread.
    pub fn queued(&self) -> usize {
        self.shared.jobs().queue.len()
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl LaneShared {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        // Jobs run outside the lock, so a panic cannot tear the queue.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self) -> LaneError {
        LaneError::Closed { lane: self.name.clone() }
    }

    fn start_threads(self: &Arc<Self>, threads: usize) {
        for n in 0..threads {
            let shared = self.clone();
            match spawn::thread(&format!("{}-{n}", self.name), move || shared.work()) {
                Ok(handle) => {
                    self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
                }
                Err(error) => {
                    tracing::error!(lane = %self.name, %error, "lane thread not started");
                    self.thread_ended();
                }
            }
        }
    }

    /// The loop of one thread: takes jobs until the lane is closed and empty.
    fn work(&self) {
        loop {
            let mut jobs = self.jobs();
            let job = loop {
                match jobs.queue.pop_front() {
                    Some(job) => break Some(job),
                    None if jobs.closed => break None,
                    None => jobs = self.wake.wait(jobs).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(jobs);
            match job {
                Some(job) => job(),
                None => break,
            }
        }
        self.thread_ended();
    }

    fn thread_ended(&self) {
        if self.alive.fetch_sub(1, Ordering::SeqCst) == 1 {
            // Only a lane without any thread can still hold jobs here; refuse them.
            self.close();
            self.discard();
            self.gone.cancel();
        }
    }

    /// Drops what is queued, outside the lock: destructors may use the lane.
    fn discard(&self) {
        let jobs = std::mem::take(&mut self.jobs().queue);
        drop(jobs);
    }

    fn push(&self, job: Job) -> Result<(), LaneError> {
        let mut jobs = self.jobs();
        if jobs.closed {
            return Err(self.closed());
        }
        jobs.queue.push_back(job);
        drop(jobs);
        self.wake.notify_one();
        Ok(())
    }

    fn close(&self) {
        self.places.close();
        self.jobs().closed = true;
        self.wake.notify_all();
    }
}

impl Member for LaneShared {
    fn node(&self, id: u64) -> Node {
        let state = match (self.jobs().closed, self.gone.is_cancelled()) {
            (false, _) => NodeState::Running,
            (true, false) => NodeState::Stopping,
            (true, true) => NodeState::Stopped,
        };
        Node {
            id,
            name: self.name.clone(),
            kind: NodeKind::Lane,
            state,
            restarts: 0,
            last_exit: None,
            children: Vec::new(),
        }
    }

    fn stop(self: Arc<Self>, _told: Instant) -> BoxFuture<StopReport> {
        async move {
            self.close();
            let how = if tokio::time::timeout(DRAIN, self.gone.cancelled()).await.is_ok() {
                let threads = std::mem::take(
                    &mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner),
                );
                for thread in threads {
                    // Each has left its loop; the join takes as long as the thread's exit.
                    let _ = thread.join();
                }
                Stopped::Gracefully
            } else {
                tracing::error!(lane = %self.name, "lane left behind while still busy");
                Stopped::Stuck
            };
            let mut report = StopReport::default();
            report.add(&self.name, how);
            report
        }
        .boxed()
    }

    fn abort(&self) {
        self.close();
        self.discard();
    }
}
