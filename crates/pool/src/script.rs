//! A program around its pools: everything from the interpreter to the clean end in one call.
//!
//! It owns `main`: the runtime, the wish to end that Ctrl-C and SIGTERM express, the reaper, and the
//! record of the run. Whatever the program does, nothing that it started is left. Libraries use
//! [`Reaper::start`] and [`Pool::start`] in a scope of their own instead. Tested with real programs,
//! which end in every way that a program can (`tests/it/scripts.rs`).

use std::path::{Path, PathBuf};

use snakehouse_base::id::RunToken;
use snakehouse_supervise::{Root, Scope};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::call::CallOptions;
use crate::config::PoolConfig;
use crate::error::PoolError;
use crate::interpreter::Interpreter;
use crate::package::cache_directory;
use crate::pool::Pool;
use crate::python_environment::EnvironmentError;
use crate::reaper::{Reaper, ReaperConfig};
use crate::run::Run;
use crate::spec::WorkerSpec;

/// What a [`script`] starts its pools with.
#[derive(Debug)]
pub struct Host {
    scope: Scope,
    reaper: Reaper,
    python: Interpreter,
}

impl Host {
    /// Starts a pool that lives until the script ends. As [`Pool::start`].
    ///
    /// # Errors
    /// As [`Pool::start`].
    pub async fn pool(&self, spec: WorkerSpec, config: PoolConfig) -> Result<Pool, PoolError> {
        Pool::start(&self.scope, self.reaper.clone(), spec, config).await
    }

    /// The interpreter that `SNAKEHOUSE_PYTHON` names, else `python3` on `PATH`.
    pub fn python(&self) -> Interpreter {
        self.python.clone()
    }

    /// The interpreter with the packages that a lock file names. As [`Interpreter::with_packages`]
    /// within 300 s; what the installer says is logged at debug level.
    ///
    /// # Errors
    /// As [`Interpreter::with_packages`].
    pub async fn python_with(&self, lock: &Path) -> Result<Interpreter, EnvironmentError> {
        let deadline = CallOptions::default().deadline;
        let said = |line: &str| tracing::debug!(target: "snakehouse::environment", "{line}");
        let (scope, base) = (&self.scope, self.python());
        Interpreter::with_packages(scope, &self.reaper, base, lock, deadline, said).await
    }

    /// What starts processes, for what is no pool: an agent of a pool elsewhere.
    pub fn reaper(&self) -> &Reaper {
        &self.reaper
    }

    /// The scope of everything the script starts.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// Runs a program that uses Python workers, and cleans up whatever happens.
///
/// Finds the interpreter, ends what an earlier script left that was killed together with its reaper,
/// makes the runtime, and calls `body`. When that is done, or at Ctrl-C or SIGTERM, everything that
/// was started is stopped: calls that still run fail, and what does not end within
/// [`stop_grace`](PoolConfig::stop_grace) (3 s) is killed. Call it once, at the top of `main`; a `main`
/// that returns the result has exit status 0 or 1.
///
/// ```no_run
/// use std::error::Error;
///
/// use snakehouse_pool::{Args, CallOptions, PoolConfig, WorkerSpec, script};
///
/// fn main() -> Result<(), Box<dyn Error>> {
///     script(async |host| {
///         let spec = WorkerSpec::python("tools", host.python()).module("tools.py");
///         let pool = host.pool(spec, PoolConfig::default()).await?;
///         let sum = pool.call("add", Args::none().arg(2).arg(40), CallOptions::default()).await?;
///         assert_eq!(sum.as_i64(), Some(42));
///         Ok(())
///     })
/// }
/// ```
///
/// # Errors
/// Those of `body`; [`PoolError::Interrupted`] after Ctrl-C or SIGTERM, where `body` is dropped; and
/// the [`PoolError`] of what could not be started.
///
/// # Panics
/// If `body` does, once everything is on its way down; and inside of another runtime.
pub fn script<T, E: From<PoolError>>(
    body: impl AsyncFnOnce(&Host) -> Result<T, E>,
) -> Result<T, E> {
    let python = Interpreter::find(None)?;
    let run = Run::begin(&runs_directory()?)?;
    let outcome = snakehouse_supervise::run(async {
        let mut asked_to_end = AskedToEnd::listen()?;
        let root = Root::new("script");
        let outcome = tokio::select! {
            biased;
            () = asked_to_end.once() => Err(PoolError::Interrupted.into()),
            outcome = within(root.scope(), python, run.token().clone(), body) => outcome,
        };
        root.stop().await;
        outcome
    });
    run.end();
    outcome
}

async fn within<T, E: From<PoolError>>(
    scope: &Scope,
    python: Interpreter,
    run_token: RunToken,
    body: impl AsyncFnOnce(&Host) -> Result<T, E>,
) -> Result<T, E> {
    let config = ReaperConfig { python: python.clone(), run_token, cache: None };
    let reaper = Reaper::start(scope, config).await?;
    body(&Host { scope: scope.clone(), reaper, python }).await
}

/// Where scripts of this user find each other's records: beside the extracted package.
fn runs_directory() -> Result<PathBuf, PoolError> {
    Ok(cache_directory()?.join("runs"))
}

/// Ctrl-C and SIGTERM.
struct AskedToEnd {
    interrupt: Signal,
    terminate: Signal,
}

impl AskedToEnd {
    fn listen() -> Result<Self, PoolError> {
        let one = |kind| signal(kind).map_err(PoolError::os("listen for signals"));
        let interrupt = one(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: one(SignalKind::terminate())? })
    }

    async fn once(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
