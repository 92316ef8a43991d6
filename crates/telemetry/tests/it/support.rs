//! A tree, a reaper, a pool of the tools of `tools.py`.

use std::path::Path;
use std::time::Duration;

use snakehouse_base::id::RunToken;
use snakehouse_pool::{
    CallOptions, Interpreter, Pool, PoolConfig, Reaper, ReaperConfig, TelemetryConfig, WorkerSpec,
};
use snakehouse_supervise::Root;
use snakehouse_telemetry::Otlp;

/// Nothing takes this long, however loaded the machine is.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

pub(crate) fn run<F: Future<Output = ()>>(test: F) {
    snakehouse_supervise::run(async {
        tokio::time::timeout(4 * BOUND, test).await.expect("the test did not end");
    });
}

pub(crate) struct Rig {
    pub(crate) root: Root,
    reaper: Reaper,
    _cache: tempfile::TempDir,
}

impl Rig {
    /// `root` may hold what is to be stopped after the pools.
    pub(crate) async fn new(root: Root) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let config = ReaperConfig {
            python: python(),
            run_token: RunToken::fresh(),
            cache: Some(cache.path().join("cache")),
        };
        let reaper = Reaper::start(root.scope(), config).await.unwrap();
        Self { root, reaper, _cache: cache }
    }

    pub(crate) async fn pool(&self, otlp: &Otlp) -> Pool {
        self.pool_of(spec(), otlp).await
    }

    pub(crate) async fn pool_of(&self, spec: WorkerSpec, otlp: &Otlp) -> Pool {
        let telemetry = Some(TelemetryConfig::new(otlp.sink()));
        let config = PoolConfig { telemetry, ..PoolConfig::default() };
        Pool::start(self.root.scope(), self.reaper.clone(), spec, config).await.unwrap()
    }
}

fn python() -> Interpreter {
    Interpreter::find(None).expect("the tests need python3 of version 3.11 or newer on PATH")
}

pub(crate) fn spec() -> WorkerSpec {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tools.py");
    WorkerSpec::python("tools", python()).module(tools.to_str().unwrap())
}

pub(crate) fn soon() -> CallOptions {
    CallOptions::within(BOUND)
}
