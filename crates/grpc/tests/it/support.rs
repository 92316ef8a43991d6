//! What every test here needs: a pool, a server, clients and agents.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use snakehouse_base::Secret;
use snakehouse_base::id::RunToken;
use snakehouse_grpc::proto::pool_client::PoolClient;
use snakehouse_grpc::proto::value::Encoding;
use snakehouse_grpc::proto::worker_client::WorkerClient;
use snakehouse_grpc::proto::{CallRequest, Error, Value as Told};
use snakehouse_grpc::{
    Agent, AgentConfig, Channel, Dial, GrpcError, Server, ServerConfig, Services, error_of,
};
use snakehouse_pool::{
    Attachments, Interpreter, Pool, PoolConfig, Reaper, ReaperConfig, Value, WorkerSpec,
};
use snakehouse_supervise::{Root, Scope, Task};
use tokio::sync::mpsc;
use tonic::Status;

/// Nothing takes this long, however loaded the machine is.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

pub(crate) const TOKEN: &str = "a-token-of-the-tests";

pub(crate) const WORKER_TOKEN: &str = "a-token-of-the-workers";

/// The pool's host is this address of the loopback device, the other one is 127.0.0.1.
pub(crate) const POOL_HOST: &str = "127.0.0.2:0";

pub(crate) struct Rig {
    pub(crate) root: Root,
    pub(crate) reaper: Reaper,
    token: RunToken,
    _cache: tempfile::TempDir,
}

pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    snakehouse_supervise::run(async {
        tokio::time::timeout(4 * BOUND, test).await.expect("the test did not end")
    })
}

pub(crate) fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tools.py")
}

fn python() -> Interpreter {
    Interpreter::find(None).expect("the tests need python3 of version 3.11 or newer on PATH")
}

pub(crate) fn spec() -> WorkerSpec {
    WorkerSpec::python("tools", python()).module(tools().to_str().unwrap())
}

/// A server's configuration on the pool's host.
pub(crate) fn config() -> ServerConfig {
    let mut config = ServerConfig::new(POOL_HOST.parse().unwrap());
    config.token = Some(Secret::new(TOKEN));
    config.worker_token = Some(Secret::new(WORKER_TOKEN));
    config
}

pub(crate) fn dial(server: SocketAddr) -> Dial {
    Dial { token: Some(Secret::new(TOKEN)), ..Dial::new(format!("http://{server}")) }
}

/// The same for an agent.
pub(crate) fn agents(server: SocketAddr) -> Dial {
    Dial { token: Some(Secret::new(WORKER_TOKEN)), ..dial(server) }
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let cache = tempfile::tempdir().unwrap();
        let (root, token) = (Root::new("test"), RunToken::fresh());
        let config = ReaperConfig {
            python: python(),
            run_token: token.clone(),
            cache: Some(cache.path().join("cache")),
        };
        let reaper = Reaper::start(root.scope(), config).await.unwrap();
        Self { root, reaper, token, _cache: cache }
    }

    pub(crate) fn scope(&self) -> &Scope {
        self.root.scope()
    }

    pub(crate) async fn pool(&self) -> Pool {
        let config = PoolConfig::default();
        Pool::start(self.scope(), self.reaper.clone(), spec(), config).await.unwrap()
    }

    /// A pool that takes in whoever comes.
    pub(crate) async fn open_pool(&self, workers: usize) -> (Pool, Attachments) {
        let config = PoolConfig { workers, ..PoolConfig::default() };
        self.open_pool_of(config, |spec| spec).await
    }

    /// The same, with another configuration.
    pub(crate) async fn open_pool_of(
        &self,
        config: PoolConfig,
        adapt: impl FnOnce(WorkerSpec) -> WorkerSpec,
    ) -> (Pool, Attachments) {
        let attachments = Attachments::new(config.workers);
        let spec = adapt(WorkerSpec::attached("elsewhere", &attachments));
        let pool = Pool::start(self.scope(), self.reaper.clone(), spec, config).await.unwrap();
        (pool, attachments)
    }

    /// A server of both, in a scope that can be stopped by itself.
    pub(crate) async fn serve(
        &self,
        config: ServerConfig,
        front_door: Option<&Pool>,
        workers: Option<&Attachments>,
    ) -> (Server, Scope) {
        let scope = self.scope().open("server");
        let services = Services { front_door: front_door.cloned(), workers: workers.cloned() };
        (Server::start(&scope, config, services).await.unwrap(), scope)
    }

    pub(crate) async fn client(&self, dial: &Dial) -> PoolClient<Channel> {
        PoolClient::new(Channel::connect(self.scope(), dial).await.unwrap().0)
    }

    pub(crate) async fn worker_client(&self, dial: &Dial) -> WorkerClient<Channel> {
        WorkerClient::new(Channel::connect(self.scope(), dial).await.unwrap().0)
    }

    pub(crate) fn agent(&self, dial: Dial) -> Running {
        self.agent_of(dial, spec())
    }

    pub(crate) fn agent_of(&self, dial: Dial, worker: WorkerSpec) -> Running {
        let config = AgentConfig { dial, worker, host: "there".to_owned(), start_within: BOUND };
        let (agent, scope) = (Agent::new(config, self.reaper.clone()), self.scope().open("agent"));
        let (told, pids) = mpsc::channel(16);
        let inner = scope.clone();
        let task = scope.task("agent", async move {
            let stop = inner.cancelled();
            tokio::select! {
                error = agent.run(&inner, |pid| told.try_send(pid).unwrap()) => Some(error),
                () = stop.cancelled() => None,
            }
        });
        Running { task, pids, scope }
    }

    /// Stops everything and checks that nothing is left.
    pub(crate) async fn end(self) {
        let reaper = self.reaper.clone();
        let report = self.root.stop().await;
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(reaper.swept(), 0, "a clean end left something to sweep");
        assert_eq!(snakehouse_pool::sweep(&self.token), [], "left behind");
    }
}

/// An agent at work.
pub(crate) struct Running {
    task: Task<Option<GrpcError>>,
    pids: mpsc::Receiver<u32>,
    pub(crate) scope: Scope,
}

impl Running {
    /// The process of the next worker that was let in.
    pub(crate) async fn next_pid(&mut self) -> u32 {
        tokio::time::timeout(BOUND, self.pids.recv()).await.expect("no worker").unwrap()
    }

    /// Why it gave up.
    pub(crate) async fn gave_up(self) -> GrpcError {
        let ended = tokio::time::timeout(BOUND, self.task).await.expect("it goes on");
        ended.unwrap().expect("it was stopped")
    }
}

pub(crate) fn msgpack(value: impl Into<Value>) -> Option<Told> {
    Some(Told { encoding: Some(Encoding::Msgpack(value.into().encode().unwrap())) })
}

pub(crate) fn json(text: &str) -> Option<Told> {
    Some(Told { encoding: Some(Encoding::Json(text.to_owned())) })
}

/// The arguments of a call, by position.
pub(crate) fn args(args: Vec<Value>) -> Option<Told> {
    msgpack(Value::List(vec![Value::List(args), Value::Dict(Vec::new())]))
}

pub(crate) fn request(tool: &str, arguments: Option<Told>) -> CallRequest {
    CallRequest { tool: tool.to_owned(), arguments, ..CallRequest::default() }
}

/// A value that came as MessagePack.
pub(crate) fn value(told: Option<Told>) -> Value {
    match told.unwrap().encoding.unwrap() {
        Encoding::Msgpack(bytes) => {
            assert!(!snakehouse_wire::buffer::is_carried(&bytes), "this is no MessagePack");
            Value::decode(&bytes).unwrap()
        }
        Encoding::Json(text) => panic!("JSON: {text}"),
    }
}

/// What a refused request was told.
pub(crate) fn told(status: &Status) -> Error {
    error_of(status).unwrap_or_else(|| panic!("no error with {status:?}"))
}

/// Looks again after every turn of the runtime until the condition holds.
pub(crate) async fn wait_until(mut holds: impl FnMut() -> bool) {
    let looking = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, looking).await.expect("the condition never held");
}

/// A file that tools leave lines in.
pub(crate) struct Trace(tempfile::NamedTempFile);

impl Trace {
    pub(crate) fn new() -> Self {
        Self(tempfile::NamedTempFile::new().unwrap())
    }

    pub(crate) fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    pub(crate) async fn wait_for(&self, line: &str) {
        wait_until(|| {
            let text = std::fs::read_to_string(self.0.path()).unwrap();
            text.lines().any(|found| found == line)
        })
        .await;
    }
}

/// Whether there is a process of this number that is not a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}
