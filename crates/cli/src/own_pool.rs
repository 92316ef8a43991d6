//! Pools of Python tools: those of a command's own, and what is common to all.

use std::future::Future;
use std::path::{Path, PathBuf};

use snakehouse_base::Kind;
use snakehouse_pool::{
    CallOptions, Interpreter, Pool, PoolConfig, PoolError, Reaper, ReaperConfig, Run, WorkerSpec,
};
use snakehouse_supervise::{Lane, Root, Scope};

use crate::config::Config;
use crate::error::CliError;
use crate::home::Home;
use crate::output::Output;
use crate::telemetry::Watch;

/// What a command starts pools with that are its own.
pub(crate) struct OwnPools {
    scope: Scope,
    reaper: Reaper,
    python: Interpreter,
    config: Config,
}

impl OwnPools {
    /// Does something with pools. Returns when nothing of them is left: after `body`, or after
    /// `asked_to_end`, which drops it.
    pub(crate) async fn with<T>(
        config: &Config,
        out: Output,
        asked_to_end: impl Future<Output = ()>,
        body: impl AsyncFnOnce(&Self) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        let root = Root::new("pool");
        let lane = Lane::new(root.scope(), "start", 1, 1);
        let place = config.clone();
        let (python, run) = lane
            .run(move || {
                let python = Interpreter::find(place.python.value.as_deref())?;
                let run = Run::begin(&Home::open(&place.home.value)?.runs())?;
                Ok::<_, CliError>((python, run))
            })
            .await??;
        let work = async {
            let scope = root.scope().clone();
            let run_token = run.token().clone();
            let reaper = ReaperConfig { python: python.clone(), run_token, cache: None };
            let reaper = Reaper::start(&scope, reaper).await?;
            let python = with_packages(&scope, &reaper, python, config, out).await?;
            body(&Self { scope, reaper, python, config: config.clone() }).await
        };
        let outcome = tokio::select! {
            biased;
            () = asked_to_end => Err(PoolError::Interrupted.into()),
            outcome = work => outcome,
        };
        root.stop().await;
        run.end();
        outcome
    }

    /// Starts a pool that serves one Python file; `adapt` may change how its worker is started.
    pub(crate) async fn pool(
        &self,
        file: &Path,
        adapt: impl FnOnce(WorkerSpec) -> WorkerSpec,
    ) -> Result<OwnPool, CliError> {
        let scope = self.scope.open("tools");
        match self.pool_in(&scope, file, adapt).await {
            Ok(pool) => Ok(OwnPool { scope, pool }),
            Err(error) => {
                scope.stop().await;
                Err(error)
            }
        }
    }

    async fn pool_in(
        &self,
        scope: &Scope,
        file: &Path,
        adapt: impl FnOnce(WorkerSpec) -> WorkerSpec,
    ) -> Result<Pool, CliError> {
        let watch = Watch::start(scope, &self.config)?.of_a_command(&self.config);
        let spec = adapt(tool_spec(self.python.clone(), file)?);
        let pool = Pool::start(scope, self.reaper.clone(), spec, watch.pool_config()).await?;
        if let Some(url) = watch.serve(scope, &pool).await? {
            tracing::info!(url, "numbers are shown");
        }
        Ok(pool)
    }
}

/// A pool of a command's own, and who watches it.
pub(crate) struct OwnPool {
    scope: Scope,
    pool: Pool,
}

impl OwnPool {
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Returns when nothing of it is left.
    pub(crate) async fn end(self) {
        self.scope.stop().await;
    }
}

/// The interpreter for tools: that with the configured packages, if there are any.
pub(crate) async fn with_packages(
    scope: &Scope,
    reaper: &Reaper,
    base: Interpreter,
    config: &Config,
    out: Output,
) -> Result<Interpreter, CliError> {
    let Some(lock) = &config.requirements.value else { return Ok(base) };
    let deadline = CallOptions::default().deadline;
    let said = |line: &str| out.note(line);
    Ok(Interpreter::with_packages(scope, reaper, base, lock, deadline, said).await?)
}

/// Starts a pool that serves the `@tool` functions of a Python file.
pub(crate) async fn tool_pool(
    scope: &Scope,
    reaper: Reaper,
    python: Interpreter,
    file: &Path,
    config: PoolConfig,
) -> Result<Pool, CliError> {
    Ok(Pool::start(scope, reaper, tool_spec(python, file)?, config).await?)
}

/// A worker with the `@tool` functions of a Python file.
pub(crate) fn tool_spec(python: Interpreter, file: &Path) -> Result<WorkerSpec, CliError> {
    let file = whole_path(file)?;
    Ok(WorkerSpec::python("tools", python).module(file.display().to_string()))
}

/// Where a file with tools is.
pub(crate) fn whole_path(file: &Path) -> Result<PathBuf, CliError> {
    std::fs::canonicalize(file).map_err(|error| {
        CliError::new(
            Kind::NotFound,
            "tools_missing",
            format!("cannot read {}: {error}", file.display()),
        )
        .with_hint("name a Python file with `@tool` functions")
    })
}
