//! Virtual environments, made from lock files and kept.
//!
//! The installer runs as a call of a worker of its own: it has a deadline, can be cancelled, reports
//! as it goes, and nothing that it starts survives this process. What it does is in the Python
//! package's `_environment`; this side holds the lock that keeps an environment from being forgotten
//! while it is used. Tested with real installers of a package that is made on the spot
//! (`tests/it/python_environments.rs`).

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
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
    /// The lock file may have any name; the cache's path must be UTF-8, as those of all Python workers
    /// ([`PoolError::Spawn`] says so).
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
        let found = find_and_hold(&pool, reaper, lock, deadline, &mut progress).await;
        drop(wanted);
        // Its panic would be the scope's to report.
        let _ = end.await;
        found
    }
}

/// Has it found or made until it is held. It may be forgotten between the two if many are in use.
async fn find_and_hold(
    pool: &Pool,
    reaper: &Reaper,
    lock: &Path,
    deadline: Deadline,
    progress: &mut impl FnMut(&str),
) -> Result<Interpreter, EnvironmentError> {
    loop {
        let found = find(pool, reaper.cache(), lock, deadline, progress).await;
        let found =
            found.map_err(|source| EnvironmentError::NotMade { lock: lock.to_owned(), source })?;
        let opened = reaper.in_lane(move || found.open()).await.map_err(PoolError::of_lane)?;
        match opened? {
            Some(interpreter) => return Ok(interpreter),
            None => tracing::debug!(lock = %lock.display(), "the environment was just forgotten"),
        }
    }
}

/// What the tool returned.
struct Found {
    python: PathBuf,
    /// The file whose lock says that it is in use.
    used: PathBuf,
}

impl Found {
    /// Says that it is in use. Blocks while others look whether it is. `None` if they found that it was
    /// not: they forget it then, and its file with it.
    fn open(self) -> Result<Option<Interpreter>, PoolError> {
        let in_use = match File::open(&self.used) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(PoolError::os("open an environment"))?,
        };
        flock(&in_use, FlockOperation::LockShared)
            .map_err(|error| PoolError::os("lock an environment")(error.into()))?;
        let held = in_use.metadata().map_err(PoolError::os("look at an environment"))?;
        let is_there = |found: Metadata| (found.dev(), found.ino()) == (held.dev(), held.ino());
        if !std::fs::metadata(&self.used).is_ok_and(is_there) || !self.python.exists() {
            return Ok(None);
        }
        Ok(Some(Interpreter::find(Some(&self.python))?.holding(in_use)))
    }
}

async fn find(
    pool: &Pool,
    cache: &Path,
    lock: &Path,
    deadline: Deadline,
    progress: &mut impl FnMut(&str),
) -> Result<Found, CallError> {
    let bytes = |path: &Path| Value::from(path.as_os_str().as_bytes());
    let args = Args::none().arg(bytes(lock)).arg(bytes(cache));
    let making = pool.stream("ensure", args, CallOptions::until(deadline)).await?;
    while let Some(line) = making.next().await {
        if let Some(line) = line?.as_str() {
            progress(line);
        }
    }
    let result = making.result().await?;
    let path = |key| match result.get(key) {
        Some(Value::Bytes(path)) => PathBuf::from(OsStr::from_bytes(path)),
        _ => PathBuf::default(),
    };
    Ok(Found { python: path("python"), used: path("use") })
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use snakehouse_supervise::{Lane, Root};

    use super::*;

    const BOUND: Duration = Duration::from_secs(30);

    /// As `_forget` does it in another process: it has the file alone when a host that has found the
    /// environment comes to hold it, and removes it.
    #[test]
    fn an_environment_that_is_forgotten_before_it_is_held_is_not_taken() {
        snakehouse_supervise::run(async {
            let below = tempfile::tempdir().unwrap();
            let used = below.path().join("key.use");
            let python = Interpreter::find(None).unwrap().path().to_owned();
            let found = || Found { python: python.clone(), used: used.clone() };
            let root = Root::new("test");
            let lane = Lane::new(root.scope(), "hold", 1, 1);

            let alone = File::create(&used).unwrap();
            flock(&alone, FlockOperation::LockExclusive).unwrap();
            let late = found();
            let forget = async {
                // The other one has opened the file, and waits.
                let is_waiting = || {
                    let locks = std::fs::read_to_string("/proc/locks").unwrap();
                    let inode = format!(":{} ", alone.metadata().unwrap().ino());
                    locks.lines().any(|line| line.contains("->") && line.contains(&inode))
                };
                let looking = async {
                    while !is_waiting() {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::time::timeout(BOUND, looking).await.expect("it never waited");
                std::fs::remove_file(&used).unwrap();
                // Whoever makes it anew makes another file.
                File::create(&used).unwrap();
                flock(&alone, FlockOperation::Unlock).unwrap();
            };
            let (opened, ()) = tokio::join!(lane.run(move || late.open()), forget);
            assert!(opened.unwrap().unwrap().is_none(), "what it holds is gone");
            assert!(found().open().unwrap().is_some(), "the new one is there");
            std::fs::remove_file(&used).unwrap();
            assert!(found().open().unwrap().is_none());
            root.stop().await;
        });
    }
}
