//! The command line, as data.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Runs Python ML under Rust supervision.
#[derive(Debug, Parser)]
#[command(name = "snakehouse", version, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Print one JSON document per line on stdout.
    #[arg(long, global = true)]
    pub json: bool,

    /// Directory of all state [default: the platform data directory].
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,

    /// Python interpreter, 3.11 or newer [default: python3 on PATH].
    #[arg(long, global = true, value_name = "FILE")]
    pub python: Option<PathBuf>,

    /// Packages for your tools: a requirements file with exact versions. An environment with them is
    /// made once and kept in the cache.
    #[arg(long, global = true, value_name = "FILE")]
    pub requirements: Option<PathBuf>,

    /// Show what the program does, on stderr. Repeat for more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the training service and keep it running.
    Up(UpArgs),
    /// Fine-tune a small model end to end, killing a worker on the way. Leaves nothing behind.
    Demo(DemoArgs),
    /// Check this machine and say what to do about each problem.
    Doctor,
    /// Look at and add base models.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Call Python tools and look at workers.
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Make a directory to start from.
    #[command(subcommand)]
    Init(InitCommand),
    /// Check programs that are workers, and let a worker serve in a pool elsewhere.
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// Print the directory that makes `import snakehouse` work, for PYTHONPATH.
    PythonPath,
    /// Measure, beside a limit or a peer in the same run.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Show the configuration and where each value comes from.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The embedded engine; started by the pool, never by hand.
    #[command(hide = true)]
    EngineWorker(EngineWorkerArgs),
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Port on 127.0.0.1; 0 takes a free one [default: 8400].
    #[arg(long)]
    pub port: Option<u16>,

    /// Serve a base model beside `tiny`, as NAME=DIR. May be repeated.
    #[arg(long = "model", value_name = "NAME=DIR")]
    pub models: Vec<String>,

    /// Offer the tools of this Python file to `pool call`.
    #[arg(long, value_name = "FILE")]
    pub tools: Option<PathBuf>,

    #[command(flatten)]
    pub watch: WatchArgs,

    /// Test instrument: die at a named point, as POINT:COUNT.
    #[arg(long, hide = true, value_name = "POINT:COUNT")]
    pub fault: Option<String>,

    /// Test instrument: let the engine die at a named point, as POINT:COUNT.
    #[arg(long, hide = true, value_name = "POINT:COUNT")]
    pub engine_fault: Option<String>,
}

/// Who watches the pool of tools.
#[derive(Debug, Default, Args)]
pub(crate) struct WatchArgs {
    /// Send what the tools' pool does to this collector, by OTLP: http://127.0.0.1:4318.
    #[arg(long, value_name = "URL", requires = "tools")]
    pub otlp: Option<String>,

    /// Show the numbers of the tools' pool at http://ADDR/metrics, for Prometheus; a loopback address.
    #[arg(long, value_name = "ADDR", requires = "tools")]
    pub metrics: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Optimizer steps [default: enough to learn the shipped text].
    #[arg(long)]
    pub steps: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct EngineWorkerArgs {
    /// Test instrument: die at a named point, as POINT:COUNT.
    #[arg(long)]
    pub fault: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// List base models.
    Ls,
    /// Add a Hugging Face directory under a name, after checking it.
    Add {
        /// The name clients will use.
        name: String,
        /// The directory.
        dir: PathBuf,
    },
    /// Check that a directory holds a model the engine can run.
    Check {
        /// The directory.
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// List the workers of the running `up`.
    Ps,
    /// Show what the pools of the running `up` did: calls by outcome, deaths by cause, latencies.
    Stats,
    /// Call a Python tool.
    Call(PoolCallArgs),
    /// Print what a Python tool yields, as it yields it.
    Stream(PoolStreamArgs),
    /// Serve a pool over gRPC, to programs in any language and to workers of other machines.
    Serve(PoolServeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PoolServeArgs {
    /// Serve the tools of this Python file, with workers of this machine.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "attached",
        conflicts_with = "attached"
    )]
    pub tools: Option<PathBuf>,

    /// Take in so many workers of other machines, each by a `worker attach` there.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub attached: Option<u16>,

    /// Workers of this machine.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: u16,

    /// Where to listen; port 0 takes a free one. Beyond loopback it needs a token and TLS.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8401")]
    pub listen: SocketAddr,

    /// A file with the token that clients must present, 16 or more characters.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// A file with the token that workers of other machines must present, another one than the
    /// clients'. Needed beyond loopback, and where clients need one.
    #[arg(long, value_name = "FILE", requires = "attached")]
    pub worker_token_file: Option<PathBuf>,

    /// The server's certificate with its chain, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The certificate's key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Ask clients for a certificate that one of these vouches for, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub client_ca: Option<PathBuf>,

    /// Listen beyond loopback without TLS, where something else encrypts.
    #[arg(long, conflicts_with = "tls_cert")]
    pub plaintext: bool,

    /// Send what the pool does to this collector, by OTLP: http://127.0.0.1:4318.
    #[arg(long, value_name = "URL")]
    pub otlp: Option<String>,

    /// Show the numbers of the pool at http://ADDR/metrics, for Prometheus; a loopback address.
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerAttachArgs {
    /// The pool's server: http://HOST:PORT or https://HOST:PORT.
    pub url: String,

    /// The Python file with the tools.
    #[arg(long, value_name = "FILE")]
    pub tools: PathBuf,

    /// A file with the token that the server asks for.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// The certificates that vouch for the server's, PEM. Needed for https.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// A certificate of our own, if the server asks for one, PEM.
    #[arg(long, value_name = "FILE", requires_all = ["key", "ca"])]
    pub cert: Option<PathBuf>,

    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,

    /// What the pool calls this machine, for people [default: its host name].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Send the token beyond loopback without TLS, where something else encrypts.
    #[arg(long, conflicts_with = "ca")]
    pub plaintext: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PoolStreamArgs {
    /// The tool: a generator, or one that reads what is sent.
    pub tool: String,

    /// Its positional arguments, each a JSON value.
    pub args: Vec<String>,

    /// Run the tool from this Python file in a pool of its own.
    #[arg(long, value_name = "FILE")]
    pub tools: PathBuf,

    #[command(flatten)]
    pub watch: WatchArgs,

    /// Send this JSON value as an item. May be repeated.
    #[arg(long, value_name = "VALUE")]
    pub send: Vec<String>,

    /// Give up after this many seconds, queueing included.
    #[arg(long, value_name = "SECONDS", default_value_t = 900.0)]
    pub timeout: f64,
}

#[derive(Debug, Args)]
pub(crate) struct PoolCallArgs {
    /// The tool.
    pub tool: String,

    /// Its positional arguments, each a JSON value.
    pub args: Vec<String>,

    /// Run the tool from this Python file in a pool of its own; without it, the running `up` is
    /// asked.
    #[arg(long, value_name = "FILE")]
    pub tools: Option<PathBuf>,

    #[command(flatten)]
    pub watch: WatchArgs,

    /// Give up after this many seconds, queueing included.
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0)]
    pub timeout: f64,

    #[command(flatten)]
    pub session: SessionArgs,

    /// Call again whenever a Python file beside the tools or below changes, until Ctrl-C.
    #[arg(long, requires = "tools")]
    pub reload: bool,

    /// Let `breakpoint()` use this terminal. The call has no time limit then.
    #[arg(long, requires = "tools", conflicts_with = "timeout")]
    pub debug: bool,
}

/// The session that a call belongs to.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SessionArgs {
    /// Make the call in the session of this name: what its calls leave in their worker is there for the
    /// next one. A session of the running `up` lives until an hour after its last call.
    #[arg(long, value_name = "NAME")]
    pub session: Option<String>,

    /// What the session's calls do when its worker is busy; all of them must say the same.
    #[arg(long, value_name = "WHAT", requires = "session", default_value = "queue")]
    pub affinity: AffinityArg,

    /// If the session is lost with its worker, make a new one of the same name.
    #[arg(long, requires = "session")]
    pub recreate: bool,
}

/// An [`Affinity`](snakehouse_pool::Affinity).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AffinityArg {
    /// They wait for it.
    #[default]
    Queue,
    /// They fail at once.
    FailFast,
    /// They go to another one, without what they left.
    Hint,
}

impl From<AffinityArg> for snakehouse_pool::Affinity {
    fn from(affinity: AffinityArg) -> Self {
        match affinity {
            AffinityArg::Queue => Self::Queue,
            AffinityArg::FailFast => Self::FailFast,
            AffinityArg::Hint => Self::Hint,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum InitCommand {
    /// Python tools with their tests, and a page that says how to use them.
    Worker {
        /// The directory; made if need be. Files that are there are never changed.
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// Check that a program keeps to the worker protocol, or that Python tools let it. A line for each
    /// check; exit status 1 if one failed.
    Check(WorkerCheckArgs),
    /// Start a worker and keep it attached to a pool elsewhere, until told to stop.
    Attach(WorkerAttachArgs),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct WorkerCheckArgs {
    /// Check the Python worker with the tools of this file.
    #[arg(long, value_name = "FILE")]
    pub tools: Option<PathBuf>,

    /// The program and its arguments.
    #[arg(last = true, value_name = "PROGRAM")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Calls per second and latency of workers, beside a fixed limit program.
    Pool(BenchPoolArgs),
    /// Time and memory of workers that import a heavy library, beside one cold import.
    Startup(BenchStartupArgs),
    /// What the kill of a worker costs: the error, the replacement, other calls.
    Recovery(BenchRecoveryArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BenchStartupArgs {
    /// Workers of the pool.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,

    /// Modules to import [default: dspy, torch or numpy, the first that the interpreter has, else
    /// some of the standard library].
    #[arg(long, value_name = "MODULE", value_delimiter = ',')]
    pub preload: Vec<String>,

    /// Measurements of each kind; the medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=99))]
    pub rounds: u8,
}

#[derive(Debug, Args)]
pub(crate) struct BenchRecoveryArgs {
    /// How often the worker is killed.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub kills: u16,

    /// Modules that the worker's zygote imports.
    #[arg(long, value_name = "MODULE", value_delimiter = ',')]
    pub preload: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchPoolArgs {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,

    /// Measurements of each side per cell, after one that warms up; the medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=99))]
    pub rounds: u8,

    /// Payload sizes in bytes; 100 is a record of everyday values, others are plain bytes.
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_value = "100,65536,8388608")]
    pub payload: Vec<u32>,

    /// Numbers of workers.
    #[arg(long, value_delimiter = ',', default_value = "1,4", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: Vec<u16>,

    /// Numbers of calls in flight, over all workers.
    #[arg(long, value_delimiter = ',', default_value = "1,64", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub in_flight: Vec<u32>,

    /// What to measure.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "call,stream,buffer,callback,session,telemetry"
    )]
    pub rows: Vec<BenchRow>,

    /// With one call in flight, leave both ends on the cores that the system chooses.
    #[arg(long)]
    pub unpinned: bool,
}

/// A kind of row of `bench pool`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BenchRow {
    /// Calls, beside the limit program.
    Call,
    /// Small chunks of streams, and how soon the first one is there.
    Stream,
    /// 8 MiB by reference and through a reused slot.
    Buffer,
    /// A tool that asks the host, beside a call.
    Callback,
    /// Calls of a session beside plain ones, with other sessions there and without, and look-ups.
    Session,
    /// 10,000 calls a second with spans exported and numbers scraped, beside as many without.
    Telemetry,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every value and its origin.
    Show,
}
