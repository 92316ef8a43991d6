//! Pools of Python tools: one of a command's own, and what is common to all.

use std::path::{Path, PathBuf};

use snakehouse_base::Kind;
use snakehouse_pool::{
    CallOptions, Interpreter, Pool, PoolConfig, Reaper, ReaperConfig, Run, WorkerSpec,
};
use snakehouse_supervise::{Lane, Root, Scope};

use crate::config::Config;
use crate::error::CliError;
use crate::home::Home;
use crate::output::Output;
use crate::telemetry::Watch;

/// A pool that serves one Python file for one command.
pub(crate) struct OwnPool {
    root: Root,
    run: Run,
    pool: Pool,
}

impl OwnPool {
    /// Starts it; nothing is left if that fails.
    pub(crate) async fn start(config: &Config, file: &Path, out: Output) -> Result<Self, CliError> {
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
        match Self::pool_of(root.scope(), config, &run, python, file, out).await {
            Ok(pool) => Ok(Self { root, run, pool }),
            Err(error) => {
                root.stop().await;
                run.end();
                Err(error)
            }
        }
    }

    async fn pool_of(
        scope: &Scope,
        config: &Config,
        run: &Run,
        python: Interpreter,
        file: &Path,
        out: Output,
    ) -> Result<Pool, CliError> {
        let watch = Watch::start(scope, config)?;
        let run_token = run.token().clone();
        let reaper = ReaperConfig { python: python.clone(), run_token, cache: None };
        let reaper = Reaper::start(scope, reaper).await?;
        let python = with_packages(scope, &reaper, python, config, out).await?;
        let pool = tool_pool(scope, reaper, python, file, watch.pool_config()).await?;
        if let Some(url) = watch.serve(scope, &pool).await? {
            tracing::info!(url, "numbers are shown");
        }
        Ok(pool)
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Returns when nothing of it is left.
    pub(crate) async fn end(self) {
        self.root.stop().await;
        self.run.end();
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
    let file: PathBuf = std::fs::canonicalize(file).map_err(|error| {
        CliError::new(
            Kind::NotFound,
            "tools_missing",
            format!("cannot read {}: {error}", file.display()),
        )
        .with_hint("name a Python file with `@tool` functions")
    })?;
    Ok(WorkerSpec::python("tools", python).module(file.display().to_string()))
}
