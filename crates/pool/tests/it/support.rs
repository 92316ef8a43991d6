//! What every test here needs: a tree, a reaper, a pool of the tools of `tools.py`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use snakehouse_base::id::RunToken;
use snakehouse_pool::{
    Args, CallError, CallOptions, Interpreter, Pool, PoolConfig, Reaper, ReaperConfig, Value,
    WorkerSpec,
};
use snakehouse_supervise::Root;

/// Nothing takes this long, however loaded the machine is.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

pub(crate) struct Rig {
    pub(crate) root: Root,
    pub(crate) reaper: Reaper,
    pub(crate) token: RunToken,
    pub(crate) cache: tempfile::TempDir,
}

pub(crate) fn python() -> Interpreter {
    Interpreter::find(None).expect("the tests need python3 of version 3.11 or newer on PATH")
}

pub(crate) fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tools.py")
}

pub(crate) fn spec() -> WorkerSpec {
    WorkerSpec::python("tools", python()).module(tools().to_str().unwrap())
}

pub(crate) fn workers(workers: usize) -> PoolConfig {
    PoolConfig { workers, ..PoolConfig::default() }
}

pub(crate) fn soon() -> CallOptions {
    CallOptions::within(BOUND)
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with_token(RunToken::fresh()).await
    }

    pub(crate) async fn with_token(token: RunToken) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let root = Root::new("test");
        let config = ReaperConfig {
            python: python(),
            run_token: token.clone(),
            cache: Some(cache.path().join("cache")),
        };
        let reaper = Reaper::start(root.scope(), config).await.unwrap();
        Self { root, reaper, token, cache }
    }

    pub(crate) async fn pool(&self, config: PoolConfig) -> Pool {
        self.pool_of(spec(), config).await
    }

    pub(crate) async fn pool_of(&self, spec: WorkerSpec, config: PoolConfig) -> Pool {
        Pool::start(self.root.scope(), self.reaper.clone(), spec, config).await.unwrap()
    }

    /// Stops everything and checks that nothing is left.
    pub(crate) async fn end(self) {
        let reaper = self.reaper.pid().map(Watched::new);
        let handle = self.reaper.clone();
        // One that was killed this moment is not up, and not restarted yet either.
        let was_killed = handle.restarts() > 0 || handle.pid().is_none();
        let report = self.root.stop().await;
        assert!(report.is_clean(), "{report:?}");
        assert!(was_killed || handle.swept() == 0, "a clean end left something to sweep");
        if let Some(reaper) = reaper {
            reaper.gone();
        }
        assert_eq!(snakehouse_pool::sweep(&self.token), [], "left behind");
    }
}

/// Runs a test in a runtime of its own. In a soak it may take two hours.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let rounds = if std::env::var_os("SNAKEHOUSE_SOAK").is_some() { 240 } else { 4 };
    snakehouse_supervise::run(async {
        tokio::time::timeout(rounds * BOUND, test).await.expect("the test did not end")
    })
}

/// Calls a tool of `tools.py`.
pub(crate) async fn call(pool: &Pool, tool: &str, args: Args) -> Result<Value, CallError> {
    pool.call(tool, args, soon()).await
}

pub(crate) async fn call_pid(pool: &Pool) -> u32 {
    as_pid(&call(pool, "pid", Args::none()).await.unwrap())
}

pub(crate) fn as_pid(value: &Value) -> u32 {
    value.as_i64().unwrap().try_into().unwrap()
}

/// Looks again after every turn of the runtime until the condition holds.
pub(crate) async fn wait_until(pool: &Pool, mut holds: impl FnMut(&Pool) -> bool) {
    let looking = async {
        while !holds(pool) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, looking).await.expect("the condition never held");
}

/// Short calls, of a tool that takes a number, until the only worker may have three at once.
pub(crate) async fn open_the_window(pool: &Pool, tool: &str) {
    let calling = async {
        while pool.workers()[0].window < 3 {
            call(pool, tool, Args::none().arg(0)).await.unwrap();
            // Only then is that call reckoned with.
            wait_until(pool, |pool| pool.workers()[0].in_flight == 0).await;
        }
    };
    tokio::time::timeout(BOUND, calling).await.expect("calls are never short");
}

/// A file that calls of `append` leave a line in as they start.
pub(crate) struct Trace(tempfile::NamedTempFile);

impl Trace {
    pub(crate) fn new() -> Self {
        Self(tempfile::NamedTempFile::new().unwrap())
    }

    /// The first arguments of `append`.
    pub(crate) fn args(&self, line: &str) -> Args {
        Args::none().arg(self.0.path().to_str().unwrap()).arg(line)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    pub(crate) fn write(&self, text: &str) {
        std::fs::write(self.0.path(), text).unwrap();
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.0.path()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) async fn wait_for(&self, line: &str) {
        let looking = async {
            while !self.lines().iter().any(|found| found == line) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(BOUND, looking).await.expect("the call never started");
    }
}

/// A process that cannot be confused with another.
pub(crate) struct Watched {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
}

impl Watched {
    pub(crate) fn new(pid: u32) -> Self {
        Self::open(pid).unwrap()
    }

    /// `None` if there is no such process any more.
    pub(crate) fn open(pid: u32) -> Option<Self> {
        let name = Pid::from_raw(pid.try_into().unwrap()).unwrap();
        let pidfd = rustix::process::pidfd_open(name, PidfdFlags::empty()).ok()?;
        Some(Self { pid, pidfd })
    }

    /// The same, if the process is still there.
    pub(crate) fn find(pid: u32) -> Option<Self> {
        let name = Pid::from_raw(pid.try_into().unwrap()).unwrap();
        let pidfd = rustix::process::pidfd_open(name, PidfdFlags::empty()).ok()?;
        Some(Self { pid, pidfd })
    }

    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Stops it; it stays as it is until [`go_on`](Self::go_on).
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        rustix::process::pidfd_send_signal(&self.pidfd, signal).unwrap();
    }

    /// Blocks until it is dead.
    pub(crate) fn gone(&self) {
        let bound = Timespec { tv_sec: BOUND.as_secs().try_into().unwrap(), tv_nsec: 0 };
        let mut poll = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let dead = rustix::event::poll(&mut poll, Some(&bound)).unwrap();
        assert_eq!(dead, 1, "process {} is still alive", self.pid);
    }

    pub(crate) fn is_alive(&self) -> bool {
        let mut poll = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut poll, Some(&now)).unwrap() == 0
    }
}

/// The processes that `litter` started.
pub(crate) fn watched(pids: &Value) -> Vec<Watched> {
    pids.as_slice().unwrap().iter().map(|pid| Watched::new(as_pid(pid))).collect()
}
