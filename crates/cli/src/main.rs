//! The `snakehouse` command: reads arguments, merges configuration, wires the rooms, prints.
//!
//! No logic lives here. A command that fails prints what happened and what to do, and exits with
//! the code of the error's kind (`snakehouse_base::Kind::exit_code`).

mod args;
mod config;
mod error;
mod output;
mod own_pool;

mod bench_pool;
mod bench_recovery;
mod bench_rig;
mod bench_startup;
mod config_show;
mod demo;
mod doctor;
mod home;
mod model;
mod pool;
mod printer;
mod remote;
mod running;
mod stop_signal;
mod telemetry;
mod up;
mod watch;
mod worker;
mod worker_lines;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::args::{
    BenchCommand, Cli, Command, ConfigCommand, InitCommand, ModelCommand, PoolCommand, WatchArgs,
    WorkerCommand,
};
use crate::config::{Config, Flags};
use crate::error::CliError;
use crate::output::Output;
use crate::worker_lines::WorkerLines;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let out = Output::new(cli.json);
    if let Command::EngineWorker(args) = &cli.command {
        // A process of its own kind: no runtime, no configuration.
        return up::engine_worker(args, out);
    }
    // A service tells its operator what it survived; a command that ends tells its outcome.
    let goes_on = matches!(
        cli.command,
        Command::Up(_) | Command::Pool(PoolCommand::Serve(_)) | Command::Worker(_)
    );
    let quiet = if goes_on { "warn" } else { "error" };
    let shows_workers =
        matches!(cli.command, Command::Pool(PoolCommand::Call(_) | PoolCommand::Stream(_)));
    log_to_stderr(quiet, cli.verbose, shows_workers);
    match snakehouse_supervise::run(dispatch(cli, out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out.failure(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

async fn dispatch(cli: Cli, out: Output) -> Result<(), CliError> {
    let port = if let Command::Up(args) = &cli.command { args.port } else { None };
    let watched = |watch: &WatchArgs| (watch.otlp.clone(), watch.metrics);
    let (otlp, metrics) = match &cli.command {
        Command::Up(args) => watched(&args.watch),
        Command::Pool(PoolCommand::Call(args)) => watched(&args.watch),
        Command::Pool(PoolCommand::Stream(args)) => watched(&args.watch),
        Command::Pool(PoolCommand::Serve(args)) => (args.otlp.clone(), args.metrics),
        _ => (None, None),
    };
    let flags = Flags {
        home: cli.home,
        port,
        python: cli.python,
        requirements: cli.requirements,
        otlp,
        metrics,
    };
    let config = Config::load(flags, &|name| std::env::var(name).ok())?;
    match cli.command {
        Command::Up(args) => up::run(&config, args, out).await,
        Command::Demo(args) => demo::run(&config, args, out).await,
        Command::Doctor => doctor::run(&config, out).await,
        Command::Model(ModelCommand::Ls) => model::list(&config, out),
        Command::Model(ModelCommand::Add { name, dir }) => model::add(&config, &name, &dir, out),
        Command::Model(ModelCommand::Check { dir }) => model::check(&dir, out),
        Command::Pool(PoolCommand::Ps) => pool::ps(&config, out).await,
        Command::Pool(PoolCommand::Stats) => pool::stats(&config, out).await,
        Command::Pool(PoolCommand::Call(args)) => pool::call(&config, args, out).await,
        Command::Pool(PoolCommand::Stream(args)) => pool::stream(&config, args, out).await,
        Command::Init(InitCommand::Worker { dir }) => worker::init(&dir, out),
        Command::Worker(WorkerCommand::Check(args)) => worker::check(&config, args, out),
        Command::PythonPath => worker::python_path(out),
        Command::Pool(PoolCommand::Serve(args)) => remote::serve(&config, args, out).await,
        Command::Worker(WorkerCommand::Attach(args)) => remote::attach(&config, args, out).await,
        Command::Bench(BenchCommand::Pool(args)) => bench_pool::run(&config, args, out).await,
        Command::Bench(BenchCommand::Startup(args)) => bench_startup::run(&config, args, out).await,
        Command::Bench(BenchCommand::Recovery(args)) => {
            bench_recovery::run(&config, args, out).await
        }
        Command::Config(ConfigCommand::Show) => config_show::run(&config, out),
        Command::EngineWorker(args) => {
            unreachable!("handled before the runtime starts: {args:?}")
        }
    }
}

/// From `quiet` on; `-v` and `-vv` show more. `RUST_LOG` wins. With `shows_workers`, what workers
/// print is shown as it is, and not in the log.
fn log_to_stderr(quiet: &str, verbose: u8, shows_workers: bool) {
    let default = match verbose {
        0 => quiet,
        1 => "info",
        _ => "debug",
    };
    let default = match shows_workers {
        true => format!("{default},{}=off", worker_lines::TARGET),
        false => default.to_owned(),
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_filter(filter);
    let lines = shows_workers.then(|| {
        let are_lines = filter_fn(|about| about.target() == worker_lines::TARGET);
        WorkerLines.with_filter(are_lines)
    });
    tracing_subscriber::registry().with(log).with(lines).init();
}
