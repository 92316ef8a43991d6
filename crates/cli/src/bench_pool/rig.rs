//! What every measurement needs: an interpreter, a reaper, pools and limit programs.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use snakehouse_base::id::RunToken;
use snakehouse_base::{Clock, Kind, SystemClock};
use snakehouse_pool::{CallError, Interpreter, Pool, PoolConfig, Reaper, ReaperConfig, WorkerSpec};
use snakehouse_supervise::{Lane, Scope};
use tempfile::TempDir;

use super::cpu::{self, Pinned};
use super::limit::Limit;
use super::payload::Payload;
use super::sample::Sample;
use crate::error::CliError;

const LIMIT_WORKER: &str = include_str!("../../../../bench/limit/worker.py");
const TOOLS: &str = include_str!("../../../../bench/limit/tools.py");

/// Everything that outlives one pool.
pub(crate) struct Rig {
    scope: Scope,
    /// Where the limit's client blocks.
    lane: Lane,
    python: Interpreter,
    reaper: Reaper,
    /// Holds the programs.
    _dir: TempDir,
    limit: PathBuf,
    tools: PathBuf,
    /// How long each measurement takes.
    pub(crate) during: Duration,
    rounds: u8,
}

impl Rig {
    pub(crate) async fn start(
        scope: &Scope,
        python: Option<&Path>,
        during: Duration,
        rounds: u8,
    ) -> Result<Self, CliError> {
        let lane = Lane::new(scope, "limit", 1, 1);
        let named = python.map(Path::to_owned);
        let python = lane.run(move || interpreter(named.as_deref())).await??;
        let dir = tempfile::tempdir().map_err(|error| cannot("make a directory", &error))?;
        let config = ReaperConfig {
            python: python.clone(),
            run_token: RunToken::fresh(),
            cache: Some(dir.path().join("cache")),
        };
        let reaper = Reaper::start(scope, config).await?;
        let limit = written(dir.path(), "limit_worker.py", LIMIT_WORKER)?;
        let tools = written(dir.path(), "bench_tools.py", TOOLS)?;
        Ok(Self {
            scope: scope.clone(),
            lane,
            python,
            reaper,
            _dir: dir,
            limit,
            tools,
            during,
            rounds,
        })
    }

    /// A pool whose workers all serve.
    pub(crate) async fn pool(&self, scope: &Scope, workers: u16) -> Result<Pool, CliError> {
        self.pool_with(scope, workers, PoolConfig::default()).await
    }

    /// The same with other settings.
    pub(crate) async fn pool_with(
        &self,
        scope: &Scope,
        workers: u16,
        config: PoolConfig,
    ) -> Result<Pool, CliError> {
        let module = self.tools.display().to_string();
        let spec = WorkerSpec::python("bench", self.python.clone()).module(module);
        let spec = spec.host_tool(super::callback::echo());
        let config = PoolConfig { workers: usize::from(workers), ..config };
        Ok(Pool::start(scope, self.reaper.clone(), spec, config).await?)
    }

    /// One limit program per worker.
    pub(crate) async fn limits(
        &self,
        workers: u16,
        payload: &Payload,
    ) -> Result<Vec<Limit>, CliError> {
        let (python, script) = (self.python.path().to_owned(), self.limit.clone());
        let size = payload.encoded.len();
        let start = move || (0..workers).map(|_| Limit::start(&python, &script, size)).collect();
        let started: io::Result<Vec<Limit>> = self.lane.run(start).await?;
        started.map_err(|error| cannot("start the limit program", &error))
    }

    /// One measurement of the limit programs, which are given back.
    pub(crate) async fn limit_sample(
        &self,
        mut limits: Vec<Limit>,
        payload: &Payload,
        in_flight: u32,
    ) -> Result<(Vec<Limit>, Sample), CliError> {
        let (encoded, during) = (payload.encoded.clone(), self.during);
        let measure = move || {
            let sample = Limit::measure_all(&mut limits, &encoded, in_flight, during);
            (limits, sample)
        };
        let (limits, sample) = self.lane.run(measure).await?;
        Ok((limits, sample.map_err(|error| cannot("measure the limit", &error))?))
    }

    /// One measurement of the pool: runs `work` in a task, and takes the CPU times around it.
    pub(crate) async fn sample<T, F>(
        &self,
        pool: &Pool,
        work: F,
        sum_up: impl FnOnce(T, Duration, Duration, Duration) -> Sample,
    ) -> Result<Sample, CliError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        let pids = worker_pids(pool);
        let cpu = |pids: &[u32]| -> Result<Duration, CliError> {
            let used = pids.iter().map(|&pid| cpu::used(pid)).sum::<io::Result<Duration>>();
            used.map_err(|error| cannot("read CPU times", &error))
        };
        let us = [std::process::id()];
        let (worker, host, began) = (cpu(&pids)?, cpu(&us)?, SystemClock.now());
        let done = self.scope.task("callers", work).await;
        let done =
            done.map_err(|error| CliError::new(Kind::Internal, "bench_task", error.to_string()))??;
        let elapsed = SystemClock.now() - began;
        Ok(sum_up(done, elapsed, cpu(&pids)? - worker, cpu(&us)? - host))
    }

    /// The rounds, the one that warms up included.
    pub(crate) fn rounds(&self) -> impl Iterator<Item = Round> + use<> {
        (0..=self.rounds).map(|n| Round { counts: n > 0 })
    }
}

/// One round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Whether it is more than a warm-up.
    pub(crate) counts: bool,
}

/// Keeps both ends on one core until dropped.
pub(crate) fn pin(limits: &[Limit], pool: &Pool) -> Result<Pinned, CliError> {
    let mut processes = vec![std::process::id()];
    processes.extend(limits.iter().map(Limit::pid));
    processes.extend(worker_pids(pool));
    Pinned::to_one_core(&processes).map_err(|error| cannot("pin to one core", &error))
}

fn worker_pids(pool: &Pool) -> Vec<u32> {
    pool.workers().iter().filter_map(|worker| worker.pid).collect()
}

/// Finds an interpreter with the package of the limit program.
fn interpreter(named: Option<&Path>) -> Result<Interpreter, CliError> {
    let python = Interpreter::find(named)?;
    let has_package = Command::new(python.path())
        .args(["-c", "from msgpack import _cmsgpack"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if has_package {
        return Ok(python);
    }
    let path = python.path().display();
    let message =
        format!("{path} has no package msgpack with its C part, which the limit program needs");
    Err(CliError::new(Kind::Environment, "msgpack_missing", message).with_hint(
        "python3 -m venv /tmp/bench && /tmp/bench/bin/pip install msgpack, then add \
         --python /tmp/bench/bin/python",
    ))
}

fn written(dir: &Path, name: &str, text: &str) -> Result<PathBuf, CliError> {
    let path = dir.join(name);
    std::fs::write(&path, text).map_err(|error| cannot("write a program", &error))?;
    Ok(path)
}

fn cannot(what: &str, error: &io::Error) -> CliError {
    CliError::new(Kind::Environment, "bench_failed", format!("cannot {what}: {error}"))
}
