//! Why a pool, a reaper or a worker could not be had.

use std::io;
use std::path::PathBuf;

use snakehouse_base::id::WorkerId;
use snakehouse_base::{Coded, Kind};
use snakehouse_supervise::LaneError;

use crate::death::Death;

/// A failure of the pool itself, not of a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// No interpreter where one was looked for.
    #[error("no Python interpreter at {path}: {source}")]
    InterpreterMissing {
        /// What was tried.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The interpreter is older than [`Interpreter::MINIMUM`](crate::Interpreter::MINIMUM).
    #[error("{path} is Python {version}, and at least 3.11 is needed")]
    InterpreterTooOld {
        /// The interpreter.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// The program is there but does not behave like Python.
    #[error("{path} does not answer like a Python interpreter: {message}")]
    InterpreterBroken {
        /// The program.
        path: PathBuf,
        /// What it did.
        message: String,
    },
    /// The Python package could not be put where interpreters find it.
    #[error("cannot extract the Python package to {path}: {source}")]
    Package {
        /// The directory or file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The run could not be recorded, so that a later one would not find what it leaves.
    #[error("cannot record the run at {path}: {source}")]
    RunRecord {
        /// The record.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The reaper said that it cannot work here.
    #[error("the reaper cannot work with this interpreter: {message}")]
    ReaperUnfit {
        /// Its own code: `ctypes_missing`, `prctl_refused`.
        reason: String,
        /// Its own words.
        message: String,
    },
    /// The reaper did not start, or ended before it answered.
    #[error("the reaper is not running: {message}")]
    ReaperGone {
        /// What is known about it.
        message: String,
    },
    /// The worker's program could not be started.
    #[error("cannot start worker {worker}: {message}")]
    Spawn {
        /// The worker.
        worker: WorkerId,
        /// The step that failed and why.
        message: String,
    },
    /// A limit of the worker cannot be kept here, so it was not started.
    #[error("worker {worker} cannot be limited: {source}")]
    LimitUnavailable {
        /// The worker.
        worker: WorkerId,
        /// Which control group could not be made, and why.
        source: io::Error,
    },
    /// No worker of the pool said hello.
    #[error("worker {worker} of pool {pool} did not get ready: {cause}{}", tail(.output))]
    NotReady {
        /// The pool.
        pool: String,
        /// The worker that failed first.
        worker: WorkerId,
        /// How it died.
        cause: Death,
        /// The last lines it wrote.
        output: Vec<String>,
    },
    /// A worker that had served died. Another incarnation of it is started.
    #[error("worker {worker} of pool {pool} served and died: {cause}{}", tail(.output))]
    Died {
        /// The pool.
        pool: String,
        /// The worker.
        worker: WorkerId,
        /// How.
        cause: Death,
        /// The last lines it wrote.
        output: Vec<String>,
    },
    /// The pool's configuration breaks a rule.
    #[error("the pool cannot be set up like this: {message}")]
    BadConfig {
        /// The rule.
        message: String,
    },
    /// Ctrl-C or SIGTERM ended a [`script`](crate::script()).
    #[error("interrupted")]
    Interrupted,
    /// The pool was stopped, or the scope it lives in.
    #[error("the pool is stopped")]
    Stopped,
    /// Something of the host panicked.
    #[error("the host failed: {what}")]
    Panicked {
        /// What, and what it said.
        what: String,
    },
    /// An operating system call failed that always works.
    #[error("cannot {what}: {source}")]
    Os {
        /// What was attempted.
        what: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

impl PoolError {
    /// Work of the pool's own that was not done: it panicked, or the scope stops.
    pub(crate) fn of_lane(error: LaneError) -> Self {
        match error {
            LaneError::Panicked { .. } => Self::Panicked { what: error.to_string() },
            _ => Self::Stopped,
        }
    }

    pub(crate) fn os(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Os { what, source }
    }

    pub(crate) fn reaper_gone(message: impl Into<String>) -> Self {
        Self::ReaperGone { message: message.into() }
    }

    /// The end of an incarnation that nobody asked for; `served` is whether it had said hello.
    pub(crate) fn ended(
        pool: &str,
        worker: WorkerId,
        served: bool,
        death: &Death,
        output: Vec<String>,
    ) -> Self {
        let (pool, cause) = (pool.to_owned(), death.clone());
        match served {
            true => Self::Died { pool, worker, cause, output },
            false => Self::NotReady { pool, worker, cause, output },
        }
    }
}

fn tail(output: &[String]) -> String {
    match output.last() {
        Some(line) => format!("; it last wrote: {line}"),
        None => String::new(),
    }
}

impl Coded for PoolError {
    fn kind(&self) -> Kind {
        match self {
            Self::InterpreterMissing { .. }
            | Self::InterpreterTooOld { .. }
            | Self::InterpreterBroken { .. }
            | Self::Package { .. }
            | Self::RunRecord { .. }
            | Self::ReaperUnfit { .. }
            | Self::Spawn { .. }
            | Self::LimitUnavailable { .. }
            | Self::NotReady { .. }
            | Self::Os { .. } => Kind::Environment,
            Self::BadConfig { .. } => Kind::InvalidInput,
            Self::Died { .. } => Kind::WorkerDied,
            Self::Interrupted => Kind::Cancelled,
            Self::Panicked { .. } => Kind::Internal,
            Self::ReaperGone { .. } | Self::Stopped => Kind::Unavailable,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::InterpreterMissing { .. } => "interpreter_missing",
            Self::InterpreterTooOld { .. } => "interpreter_too_old",
            Self::InterpreterBroken { .. } => "interpreter_broken",
            Self::Package { .. } => "package_not_extracted",
            Self::RunRecord { .. } => "run_not_recorded",
            Self::ReaperUnfit { .. } => "reaper_unfit",
            Self::ReaperGone { .. } => "reaper_gone",
            Self::Spawn { .. } => "worker_not_started",
            Self::LimitUnavailable { .. } => "limit_unavailable",
            Self::NotReady { .. } => "worker_not_ready",
            Self::Died { .. } => "worker_died",
            Self::BadConfig { .. } => "bad_pool_config",
            Self::Interrupted => "interrupted",
            Self::Stopped => "pool_stopped",
            Self::Panicked { .. } => "lane_panicked",
            Self::Os { .. } => "os_call_failed",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::InterpreterMissing { .. } => {
                "install Python 3.11 or newer, or name one with SNAKEHOUSE_PYTHON".to_owned()
            }
            Self::InterpreterTooOld { .. } | Self::InterpreterBroken { .. } => {
                "name a Python of version 3.11 or newer with SNAKEHOUSE_PYTHON".to_owned()
            }
            Self::Package { .. } => {
                "make the directory writable for this user only, or set XDG_CACHE_HOME".to_owned()
            }
            Self::RunRecord { .. } => "make the directory writable for this user".to_owned(),
            Self::ReaperUnfit { reason, .. } if reason == "ctypes_missing" => {
                "this Python was built without ctypes (libffi); use another one".to_owned()
            }
            Self::ReaperUnfit { .. } => {
                "the system forbids prctl; a container's seccomp profile can do that".to_owned()
            }
            Self::ReaperGone { .. } => "it is started again by itself; try once more".to_owned(),
            Self::Spawn { .. } => "check that the program exists and may be run".to_owned(),
            Self::LimitUnavailable { .. } => {
                "memory and tasks are limited by a control group: name one that this user may \
                 write with SNAKEHOUSE_CGROUP, or limit address_space instead"
                    .to_owned()
            }
            Self::NotReady { .. } | Self::Died { .. } => {
                "the worker's own output names the cause; it is kept in the log".to_owned()
            }
            Self::Panicked { .. } => "that is a fault of the pool's own: report it".to_owned(),
            Self::BadConfig { .. } | Self::Interrupted | Self::Stopped => return None,
            Self::Os { .. } => {
                "the system may be out of descriptors, processes or memory".to_owned()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_panicked_is_told_as_that_and_a_closed_lane_as_a_stop() {
        let lane = "reaper-lane".to_owned();
        let payload = "no such path".to_owned();
        let error = PoolError::of_lane(LaneError::Panicked { lane: lane.clone(), payload });
        assert_eq!((error.kind(), error.code()), (Kind::Internal, "lane_panicked"));
        assert!(error.to_string().contains("no such path") && error.hint().is_some());
        assert_eq!(PoolError::of_lane(LaneError::Closed { lane }).code(), "pool_stopped");
    }
}
