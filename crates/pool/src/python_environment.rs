//! Virtual environments, made from lock files and kept.
//!
//! The installer runs as a call of a worker of its own: it has a deadline, can be cancelled, reports
//! as it goes, and nothing that it starts survives this process. What it does is in the Python
//! package's `_environment`; this side holds the lock that keeps an environment from being forgotten
//! while it is used. Tested with real installers of a package that is made on the spot
//! (`tests/it/python_environments.rs`).

use std::convert::Infallible;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use snakehouse_base::{Coded, Deadline, Kind};
use snakehouse_supervise::Scope;
use snakehouse_wire::Value;
use tokio::sync::oneshot;

use crate::call::{Args, CallError, CallOptions};
use crate::config::PoolConfig;
use crate::error::PoolError;
use crate::interpreter::Interpreter;
use crate::pool::Pool;
use crate::reaper::Reaper;
use crate::spec::WorkerSpec;

/// What the installer may see of this process's environment.
const INSTALLER_SEES: [&str; 12] = [
    "PATH",
    "HOME",
    "PIP_*",
    "UV_*",
    "SSL_*",
    "NETRC",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// Why there is no such environment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvironmentError {
    /// The installer, or reading the lock file, failed.
    #[error("no Python environment from {lock}: {source}")]
    NotMade {
        /// The lock file.
        lock: PathBuf,
        /// What the installer said, or the deadline.
        source: CallError,
    },
    /// The worker that runs the installer could not be started.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl Interpreter {
    /// An interpreter that sees what a lock file names: that of a virtual environment, which is found or
    /// made, with `uv` if that is on `PATH`, else with `venv` and `pip`.
    ///
    /// A lock file is a requirements file, best with exact versions and hashes, such as
    /// `uv pip compile --generate-hashes` writes. The same files and the same `base` interpreter give
    /// the same environment, at once after the first time; processes that ask at the same time wait for
    /// one of them to make it. One that was left half made is made anew. `progress` gets what the
    /// installer prints, line by line.
    ///
    /// Environments are kept below `environments` in the cache of the reaper's package, sixteen of
    /// them; of more, those go that were used least recently and that no such interpreter is held of.
    ///
    /// Cancel safe: the installer ends with the future.
    ///
    /// # Errors
    /// [`EnvironmentError`].
    pub async fn with_packages(
        scope: &Scope,
        reaper: &Reaper,
        base: Self,
        lock: &Path,
        deadline: Deadline,
        mut progress: impl FnMut(&str),
    ) -> Result<Self, EnvironmentError> {
        let spec = WorkerSpec::python("environment", base).spawn();
        let spec = INSTALLER_SEES.into_iter().fold(spec, WorkerSpec::inherit_env);
        let spec = spec.module("snakehouse._environment");
        let pool = Pool::start(scope, reaper.clone(), spec, PoolConfig::default()).await?;
        let (wanted, unwanted) = oneshot::channel::<Infallible>();
        let (stopping, ending) = (scope.cancelled(), pool.clone());
        let end = scope.task("environment-end", async move {
            tokio::select! {
                _ = unwanted => ending.stop().await,
                () = stopping.cancelled() => {}
            }
        });
        let found = find(&pool, reaper.cache(), lock, deadline, &mut progress).await;
        drop(wanted);
        // Its panic would be the scope's to report.
        let _ = end.await;
        let found =
            found.map_err(|source| EnvironmentError::NotMade { lock: lock.to_owned(), source })?;
        let opened = reaper.in_lane(move || found.open()).await;
        Ok(opened.map_err(|_closed| PoolError::Stopped)??)
    }
}

/// What the tool returned.
struct Found {
    python: PathBuf,
    /// The file whose lock says that it is in use.
    used: PathBuf,
}

impl Found {
    /// Says that it is in use. Blocks while others look whether it is.
    fn open(self) -> Result<Interpreter, PoolError> {
        let in_use = File::open(&self.used).map_err(PoolError::os("open an environment"))?;
        flock(&in_use, FlockOperation::LockShared)
            .map_err(|error| PoolError::os("lock an environment")(error.into()))?;
        Ok(Interpreter::find(Some(&self.python))?.holding(in_use))
    }
}

async fn find(
    pool: &Pool,
    cache: &Path,
    lock: &Path,
    deadline: Deadline,
    progress: &mut impl FnMut(&str),
) -> Result<Found, CallError> {
    let args = Args::none().arg(lock.to_string_lossy().as_ref());
    let args = args.arg(cache.to_string_lossy().as_ref());
    let making = pool.stream("ensure", args, CallOptions::until(deadline)).await?;
    while let Some(line) = making.next().await {
        if let Some(line) = line?.as_str() {
            progress(line);
        }
    }
    let result = making.result().await?;
    let text = |key| result.get(key).and_then(Value::as_str).map(PathBuf::from);
    let (python, used) = (text("python"), text("use"));
    Ok(Found { python: python.unwrap_or_default(), used: used.unwrap_or_default() })
}

impl Coded for EnvironmentError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotMade { source: CallError::Tool { .. }, .. } => Kind::Environment,
            Self::NotMade { source, .. } => source.kind(),
            Self::Pool(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotMade { .. } => "environment_not_made",
            Self::Pool(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotMade { source, .. } => source.hint(),
            Self::Pool(error) => error.hint(),
        }
    }
}
