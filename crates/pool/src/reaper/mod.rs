//! The reaper as the host sees it: started, supervised, replaced, swept after.
//!
//! A library cannot be the parent of processes that must die with it: it may be killed, and it must
//! not change attributes of the program it lives in. So one small child process, the reaper
//! (`python/snakehouse/_reaper.py`), is the parent of every worker. This module owns that process
//! through one supervised loop: it passes spawn requests on, hands exit statuses to whoever waits,
//! and holds the lifelines, whose closing makes the kernel kill a worker's process group.
//!
//! When the reaper dies, the loop closes every lifeline, fails what was pending, sweeps by run
//! token and ends; its supervisor starts the next one. When the host dies, the reaper and the
//! kernel do the same without it. Tested with real processes in `tests/reaper.rs`.

mod incarnation;
mod message;
mod process;
mod zygotes;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use snakehouse_base::id::{RunToken, WorkerId};
use snakehouse_supervise::{BoxError, Child, ChildSpec, Lane, LaneError, Scope};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

pub(crate) use message::Zygote;
pub(crate) use process::{Command, Hold, Process};
pub use zygotes::{ZygoteInfo, ZygoteState};

use crate::error::PoolError;
use crate::interpreter::Interpreter;
use crate::oom::OomCounter;
use crate::os::{Group, Pidfd, group_name};
use crate::package::Package;
use crate::start_delay::StartDelay;
use crate::starts::Starts;

use self::incarnation::{Ask, Spawn};
use self::zygotes::Zygotes;

/// Spawn requests that may wait for the reaper.
const QUEUE: usize = 64;

/// To say that it has a request takes it milliseconds; on the most loaded machine, not this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Its clean-up is bounded by less than this.
const GRACE: Duration = Duration::from_secs(30);

/// How to start a reaper.
#[derive(Clone, Debug)]
pub struct ReaperConfig {
    /// The interpreter that runs it. Only its standard library is used.
    pub python: Interpreter,
    /// Marks every process of this run.
    pub run_token: RunToken,
    /// Where the Python package is extracted, made with mode 0700. `None`: `snakehouse` below
    /// `XDG_CACHE_HOME`, else below `~/.cache`.
    pub cache: Option<PathBuf>,
}

/// The parent of all workers of this host. Cheap to clone; the scope it was started in owns it.
#[derive(Clone)]
pub struct Reaper {
    shared: Arc<Shared>,
    child: Child,
}

/// What the handle and the loop have in common.
pub(crate) struct Shared {
    config: ReaperConfig,
    package: Package,
    /// Starts the reaper from its one permanent thread, and sweeps.
    lane: Lane,
    state: watch::Sender<State>,
    zygotes: Zygotes,
    delay: StartDelay,
    /// Whose turn it is to start a worker, over all pools.
    starts: Starts,
    next_id: AtomicU64,
    oom: Arc<OomCounter>,
    /// Processes that a sweep had to end.
    swept: AtomicU64,
}

/// The loop at this moment.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Starting,
    Up { pid: u32, pidfd: Arc<Pidfd>, requests: mpsc::Sender<Ask> },
    Down { message: String, unfit: Option<String>, os: Option<(&'static str, i32)> },
}

impl State {
    pub(crate) fn down(ended: &Result<(), PoolError>) -> Self {
        let (message, unfit) = match ended {
            Ok(()) => ("it was stopped".to_owned(), None),
            Err(PoolError::ReaperUnfit { reason, message }) => {
                (message.clone(), Some(reason.clone()))
            }
            Err(PoolError::ReaperGone { message }) => (message.clone(), None),
            Err(error) => (error.to_string(), None),
        };
        let os = match ended {
            Err(PoolError::Os { what, source }) => source.raw_os_error().map(|code| (*what, code)),
            _ => None,
        };
        Self::Down { message, unfit, os }
    }
}

impl Reaper {
    /// Starts the reaper and waits until it serves.
    ///
    /// The scope owns it: at the scope's stop it kills and reaps whatever is still below it, so
    /// start pools in scopes that stop earlier (later siblings do). If it dies, everything below it
    /// is ended and another one is started.
    ///
    /// # Errors
    /// [`PoolError::Package`], [`ReaperUnfit`](PoolError::ReaperUnfit), [`Os`](PoolError::Os) or
    /// [`ReaperGone`](PoolError::ReaperGone) if the first one does not come up.
    pub async fn start(scope: &Scope, config: ReaperConfig) -> Result<Self, PoolError> {
        let lane = Lane::new(scope, "reaper-lane", 1, QUEUE);
        let cache = config.cache.clone();
        let package = lane
            .run(move || match cache {
                Some(cache) => Package::extract_below(&cache),
                None => Package::extract(),
            })
            .await
            .map_err(PoolError::of_lane)??;
        let shared = Arc::new(Shared {
            config,
            package,
            lane,
            state: watch::Sender::new(State::Starting),
            zygotes: Zygotes::default(),
            delay: StartDelay::default(),
            starts: Starts::new(),
            next_id: AtomicU64::new(1),
            oom: Arc::new(OomCounter::new()),
            swept: AtomicU64::new(0),
        });
        let mut state = shared.state.subscribe();
        let loops = shared.clone();
        let spec = ChildSpec::new("reaper", move |ctx| {
            let shared = loops.clone();
            async move {
                let ended = incarnation::run(&ctx, &shared).await;
                shared.state.send_replace(State::down(&ended));
                ended.map_err(BoxError::from)
            }
        });
        let child = scope.child(StartDelay::supervise(spec).grace(GRACE));
        let first = state
            .wait_for(|state| !matches!(state, State::Starting))
            .await
            .map(|state| state.clone())
            .map_err(|_gone| PoolError::Stopped)?;
        let reaper = Self { shared, child };
        match first {
            State::Up { .. } | State::Starting => Ok(reaper),
            State::Down { message, unfit, os } => {
                reaper.child.stop().await;
                Err(match (unfit, os) {
                    (Some(reason), _) => PoolError::ReaperUnfit { reason, message },
                    (None, Some((what, code))) => {
                        PoolError::Os { what, source: io::Error::from_raw_os_error(code) }
                    }
                    (None, None) => PoolError::ReaperGone { message },
                })
            }
        }
    }

    /// The reaper's process, if it is up.
    pub fn pid(&self) -> Option<u32> {
        match &*self.shared.state.borrow() {
            State::Up { pid, .. } => Some(*pid),
            State::Starting | State::Down { .. } => None,
        }
    }

    /// How often it had to be started again.
    pub fn restarts(&self) -> u64 {
        self.child.restarts()
    }

    /// The processes that fork its workers, and the preload lists that none can fork.
    pub fn zygotes(&self) -> Vec<ZygoteInfo> {
        self.shared.zygotes.all()
    }

    /// Processes that were still there after a reaper's end and had to be found and ended by run
    /// token. 0 for as long as no reaper is killed.
    pub fn swept(&self) -> u64 {
        self.shared.swept.load(Ordering::Relaxed)
    }

    /// The token that every process below it carries in `SNAKEHOUSE_RUN`.
    pub fn run_token(&self) -> &RunToken {
        &self.shared.config.run_token
    }

    /// The order of starts that all its pools share.
    pub(crate) fn starts(&self) -> &Starts {
        &self.shared.starts
    }

    /// The program of Python workers.
    pub(crate) fn python_worker(&self) -> PathBuf {
        self.shared.package.worker()
    }

    /// The directory that the package was extracted below.
    pub(crate) fn cache(&self) -> &Path {
        self.shared.package.cache()
    }

    /// Runs what may block.
    pub(crate) async fn in_lane<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LaneError> {
        self.shared.lane.run(work).await
    }

    /// Extracts the package again if something damaged it.
    pub(crate) async fn mend_package(&self) {
        self.shared.mend_package().await;
    }

    /// Starts a worker: has it forked by a zygote if the command names one, else executed.
    ///
    /// Waits `within` for a reaper that is up, and as long again for the process: a zygote imports
    /// its list first, and a program may lie on a slow disk. What holds it up longer is ended. A
    /// reaper that does not say within [`ANSWER_WITHIN`] that it has the request is killed, and
    /// with it everything below it, since a host without a reaper that works has no workers for
    /// long.
    ///
    /// Cancel safe: a worker that starts for nobody is killed.
    pub(crate) async fn spawn(
        &self,
        worker: WorkerId,
        mut command: Command,
        within: Duration,
    ) -> Result<Process, PoolError> {
        command.env.insert(crate::sweep::RUN_ENV.to_owned(), self.run_token().as_str().to_owned());
        let mut state = self.shared.state.subscribe();
        let up = timeout(within, state.wait_for(|state| matches!(state, State::Up { .. }))).await;
        let up = up
            .map_err(|_elapsed| PoolError::reaper_gone("it did not come up in time"))?
            .map_err(|_gone| PoolError::Stopped)?
            .clone();
        let State::Up { pid, pidfd, requests } = up else { return Err(PoolError::Stopped) };
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let group = self.group(id, worker, &command).await?;
        let (reply, mut answer) = oneshot::channel();
        let (taken, told) = oneshot::channel();
        let request = Ask::Spawn(Box::new(Spawn { id, worker, command, group, taken, reply }));
        let gone = |_| PoolError::reaper_gone("it ended before it started the worker");
        let asked = async {
            requests.send(request).await.map_err(|_| gone(()))?;
            // Also ends when the request could not be made.
            Ok(told.await.is_ok())
        };
        // However impatient this pool is: the workers of all others would go with the reaper.
        if let Ok(is_taken) = timeout(ANSWER_WITHIN, asked).await {
            let patience = if is_taken? { within } else { ANSWER_WITHIN };
            if let Ok(process) = timeout(patience, &mut answer).await {
                return process.map_err(|_| gone(()))?;
            }
            requests.send(Ask::GiveUp(id)).await.map_err(|_| gone(()))?;
            if let Ok(process) = timeout(ANSWER_WITHIN, answer).await {
                return process.map_err(|_| gone(()))?;
            }
        }
        tracing::error!(pid, %worker, "reaper does not answer and is killed");
        pidfd.kill().map_err(PoolError::os("kill the reaper"))?;
        Err(PoolError::reaper_gone("it did not answer in time and is replaced"))
    }

    /// The control group that the command's limits need.
    async fn group(
        &self,
        id: u64,
        worker: WorkerId,
        command: &Command,
    ) -> Result<Option<Group>, PoolError> {
        let (name, limits) = (group_name(self.run_token().as_str(), id), command.limits.clone());
        if limits.memory.is_none() && limits.tasks.is_none() {
            return Ok(None);
        }
        let made = self.shared.lane.run(move || limits.group(&name)).await;
        let made = made.map_err(PoolError::of_lane)?;
        made.map_err(|source| PoolError::LimitUnavailable { worker, source })
    }
}

impl Shared {
    async fn mend_package(&self) {
        let package = self.package.clone();
        // A lane that is closed belongs to a host that stops.
        if let Ok(Err(error)) = self.lane.run(move || package.mend()).await {
            tracing::warn!(%error, "Python package not mended");
        }
    }
}

impl fmt::Debug for Reaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reaper")
            .field("pid", &self.pid())
            .field("restarts", &self.restarts())
            .finish_non_exhaustive()
    }
}
