//! `up`: the training service, until it is told to stop.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use snakehouse_base::Kind;
use snakehouse_pool::{Ended, Interpreter, Reaper, ReaperConfig, Run, WorkerSpec};
use snakehouse_service::core::{CoreConfig, Fault, FaultPoint, ModelSource, PoolEngine, Victim};
use snakehouse_service::http::Workers;
use snakehouse_service::{Service, ServiceConfig};
use snakehouse_supervise::{Lane, Root, Scope};

use crate::args::{EngineWorkerArgs, UpArgs};
use crate::config::Config;
use crate::error::CliError;
use crate::home::Home;
use crate::model;
use crate::output::Output;
use crate::own_pool;
use crate::stop_signal;
use crate::telemetry::Watch;

/// The line that says that the service serves.
#[derive(Debug, Serialize)]
struct Ready {
    event: &'static str,
    url: String,
    pid: u32,
    home: PathBuf,
    run_token: String,
    models: Vec<String>,
    tools: Option<Vec<String>>,
    /// Where the numbers of the tools' pool are.
    metrics: Option<String>,
    /// Processes of an earlier run that this start ended.
    ended: Vec<String>,
}

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn run(config: &Config, args: UpArgs, out: Output) -> Result<(), CliError> {
    raise_descriptors();
    let stop = stop_signal::listen()?;
    let root = Root::new("up");
    let prepared = prepare(root.scope(), config, &args).await;
    let served = match &prepared {
        Ok(start) => tokio::select! {
            served = serve(root.scope(), config, start, &args, out) => served,
            () = stop => Ok(()),
        },
        Err(_) => Ok(()),
    };
    root.stop().await;
    prepared?.run.end();
    served
}

/// Takes as many descriptors as this user may have: the usual 1024 are fewer than the connections
/// that a service holds. Where that is refused, the service holds fewer.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// What is known before anything is started.
struct Start {
    home: Home,
    run: Run,
    python: Interpreter,
    models: Vec<ModelSource>,
}

/// Everything that touches files and other processes, off the async threads.
async fn prepare(scope: &Scope, config: &Config, args: &UpArgs) -> Result<Start, CliError> {
    let lane = Lane::new(scope, "start", 1, 1);
    let (config, flags) = (config.clone(), args.models.clone());
    lane.run(move || {
        let home = Home::open(&config.home.value)?;
        let models = models(&config, &home, &flags)?;
        let python = Interpreter::find(config.python.value.as_deref())?;
        let run = Run::begin(&home.runs())?;
        Ok(Start { home, run, python, models })
    })
    .await?
}

async fn serve(
    scope: &Scope,
    config: &Config,
    start: &Start,
    args: &UpArgs,
    out: Output,
) -> Result<(), CliError> {
    let reaper = ReaperConfig {
        python: start.python.clone(),
        run_token: start.run.token().clone(),
        cache: None,
    };
    let reaper = Reaper::start(scope, reaper).await?;

    let engine_fault = args.engine_fault.as_deref();
    let mut core = core_config(&reaper, &start.home.state(), start.models.clone(), engine_fault)?;
    core.fault = args.fault.as_deref().map(fault).transpose()?;
    let mut service = ServiceConfig::new(address(config.port.value), core);
    let tools_scope = scope.open("tools");
    let mut metrics = None;
    let tools = match &args.tools {
        Some(file) => {
            let base = start.python.clone();
            let python = own_pool::with_packages(&tools_scope, &reaper, base, config, out).await?;
            let watch = Watch::start(&tools_scope, config)?;
            let (reaper, watched) = (reaper.clone(), watch.pool_config());
            let pool = own_pool::tool_pool(&tools_scope, reaper, python, file, watched).await?;
            metrics = watch.serve(&tools_scope, &pool).await?;
            Some(pool)
        }
        None => None,
    };
    let tool_names =
        tools.as_ref().map(|pool| pool.tools().iter().map(|tool| tool.name.clone()).collect());
    service.workers = Some(Workers { reaper, tools });
    let service = Service::start(scope, service).await?;
    service.wait_ready().await?;

    let ready = Ready {
        event: "ready",
        url: format!("http://{}", service.local_addr()),
        pid: std::process::id(),
        home: config.home.value.clone(),
        run_token: start.run.token().to_string(),
        models: start.models.iter().map(|model| model.name.clone()).collect(),
        tools: tool_names,
        metrics,
        ended: start.run.found().iter().map(named).collect(),
    };
    out.data(&ready, || ready.text())?;
    let failure = scope.failed().await;
    Err(CliError::new(Kind::Internal, "service_failed", format!("the service failed: {failure}"))
        .with_hint("start it again; nothing that was accepted is lost"))
}

impl Ready {
    fn text(&self) -> String {
        let mut text =
            format!("Serving {} at {} (Ctrl-C stops)\n", self.models.join(", "), self.url);
        text.push_str(&format!(
            "\n  export TINKER_BASE_URL={} TINKER_API_KEY=tml-local\n",
            self.url
        ));
        if let Some(metrics) = &self.metrics {
            text.push_str(&format!("\nNumbers of the tools' pool: {metrics}\n"));
        }
        for process in &self.ended {
            text.push_str(&format!("\nEnded a process that an earlier run left: {process}\n"));
        }
        text
    }
}

fn named(process: &Ended) -> String {
    format!("{} ({})", process.pid, process.command)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Starts a service with the embedded engine, and waits until it serves.
///
/// The scope owns it. Nothing of it outlives an error.
pub(crate) async fn service(
    scope: &Scope,
    reaper: Reaper,
    state: &Path,
    models: Vec<(String, PathBuf)>,
    addr: SocketAddr,
) -> Result<Service, CliError> {
    let models = models.into_iter().map(|(name, dir)| ModelSource { name, dir }).collect();
    let core = core_config(&reaper, state, models, None)?;
    let service = Service::start(scope, ServiceConfig::new(addr, core)).await?;
    service.wait_ready().await?;
    Ok(service)
}

fn core_config(
    reaper: &Reaper,
    state: &Path,
    models: Vec<ModelSource>,
    engine_fault: Option<&str>,
) -> Result<CoreConfig, CliError> {
    let program = std::env::current_exe().map_err(|error| {
        CliError::new(
            Kind::Environment,
            "no_own_path",
            format!("cannot find the program's own file: {error}"),
        )
    })?;
    let mut arguments = vec!["engine-worker".to_owned()];
    arguments.extend(engine_fault.map(|fault| format!("--fault={fault}")));
    let engine = WorkerSpec::program("engine", program, arguments);
    Ok(CoreConfig::new(state, Arc::new(PoolEngine::new(engine, reaper.clone())), models))
}

/// The models to serve: `tiny`, those of the state directory, of the file, and of the flags.
fn models(config: &Config, home: &Home, flags: &[String]) -> Result<Vec<ModelSource>, CliError> {
    let mut found: BTreeMap<String, PathBuf> = model::installed(home)?;
    found.extend(config.models.value.clone());
    for flag in flags {
        let (name, dir) = flag.split_once('=').ok_or_else(|| {
            CliError::new(
                Kind::InvalidInput,
                "bad_argument",
                format!("--model {flag:?} is not NAME=DIR"),
            )
        })?;
        model::check_name(name)?;
        found.insert(name.to_owned(), PathBuf::from(dir));
    }
    Ok(found.into_iter().map(|(name, dir)| ModelSource { name, dir }).collect())
}

/// Reads `POINT:COUNT`: the service kills itself the COUNTth time it reaches POINT.
fn fault(text: &str) -> Result<Fault, CliError> {
    text.split_once(':')
        .and_then(|(point, count)| {
            Some(Fault::new(FaultPoint::parse(point)?, count.parse().ok()?, Victim::Service))
        })
        .ok_or_else(|| {
            let points = FaultPoint::ALL.map(FaultPoint::as_str).join(", ");
            CliError::new(
                Kind::InvalidInput,
                "bad_argument",
                format!("--fault {text:?} is not POINT:COUNT with one of the points {points}"),
            )
        })
}

/// The body of the engine process.
pub(crate) fn engine_worker(args: &EngineWorkerArgs, out: Output) -> ExitCode {
    let fault = match args.fault.as_deref().map(str::parse).transpose() {
        Ok(fault) => fault,
        Err(error) => {
            let error: snakehouse_engine::BadFault = error;
            let error = CliError::new(Kind::InvalidInput, "bad_argument", error.to_string());
            out.failure(&error);
            return ExitCode::from(error.exit_code());
        }
    };
    let config = snakehouse_engine::EngineConfig { fault, ..Default::default() };
    match snakehouse_engine::worker_main(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let status = error.exit_status();
            out.failure(&error.into());
            ExitCode::from(status)
        }
    }
}
