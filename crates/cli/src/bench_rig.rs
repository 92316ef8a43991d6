//! What measurements of workers begin with: a directory with the tools that they call, the
//! interpreter, and what starts a reaper.
//!
//! The directory goes with the rig, and the reaper's cache with it. What cannot be had is a
//! `bench_failed`, or the pool's own error. Tested with the commands that use it.

use std::fs;
use std::path::Path;

use snakehouse_base::Kind;
use snakehouse_base::id::RunToken;
use snakehouse_pool::{Interpreter, Reaper, ReaperConfig, WorkerSpec};
use snakehouse_supervise::{Lane, Root, Scope};

use crate::config::Config;
use crate::error::CliError;

const TOOLS: &str = include_str!("../../../bench/startup/tools.py");

/// A place to measure in.
pub(crate) struct Rig {
    pub(crate) scope: Scope,
    /// For what blocks.
    pub(crate) lane: Lane,
    pub(crate) python: Interpreter,
    tools: String,
    dir: tempfile::TempDir,
}

impl Rig {
    /// Measures below a root of its own, which is stopped whatever comes of it.
    pub(crate) async fn with(
        config: &Config,
        measure: impl AsyncFnOnce(&Self) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let root = Root::new("bench");
        let result = match Self::below(root.scope(), config).await {
            Ok(rig) => measure(&rig).await,
            Err(error) => Err(error),
        };
        root.stop().await;
        result
    }

    /// With the configured interpreter, or the one that is found.
    async fn below(scope: &Scope, config: &Config) -> Result<Self, CliError> {
        let lane = Lane::new(scope, "look", 1, 1);
        let dir = tempfile::tempdir().map_err(|error| cannot("make a directory", &error))?;
        let tools = dir.path().join("measured_tools.py");
        fs::write(&tools, TOOLS).map_err(|error| cannot("write a program", &error))?;
        let named = config.python.value.clone();
        let python = lane.run(move || Interpreter::find(named.as_deref())).await??;
        let (scope, tools) = (scope.clone(), tools.display().to_string());
        Ok(Self { scope, lane, python, tools, dir })
    }

    /// Where files may be left.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A worker with the tools, which is forked with these modules imported.
    pub(crate) fn spec(&self, name: &str, preload: &[String]) -> WorkerSpec {
        let names = preload.iter().cloned().chain([self.tools.clone()]);
        WorkerSpec::python(name, self.python.clone()).module(&self.tools).preload(names)
    }

    /// A reaper of its own, which ends with `scope`.
    pub(crate) async fn reaper(&self, scope: &Scope) -> Result<Reaper, CliError> {
        let config = ReaperConfig {
            python: self.python.clone(),
            run_token: RunToken::fresh(),
            cache: Some(self.dir().join("cache")),
        };
        Ok(Reaper::start(scope, config).await?)
    }
}

/// What the system refused.
pub(crate) fn cannot(what: &str, error: &std::io::Error) -> CliError {
    CliError::new(Kind::Environment, "bench_failed", format!("cannot {what}: {error}"))
}
