//! `bench startup`: how long workers with a heavy library take to be ready, and what they weigh.
//!
//! One round is one cold import in a process of its own, then one pool whose workers a fresh zygote
//! forks; the medians of the rounds are compared. Memory is the sum of PSS after a full collection
//! in each worker: reaper, zygote and workers on one side, as many workers that were started by
//! themselves on the other.

use std::fs;
use std::process::{Command, Stdio};

use serde::Serialize;
use snakehouse_base::{Clock, Kind, SystemClock};
use snakehouse_pool::{Args, Birth, CallOptions, Interpreter, Pool, PoolConfig, WorkerSpec};

use crate::args::BenchStartupArgs;
use crate::bench_rig::{Rig, cannot};
use crate::config::Config;
use crate::error::CliError;
use crate::output::Output;

/// What is imported when nothing else is named and the interpreter has none of the others.
const PLAIN: &str = "asyncio,concurrent.futures,ctypes,decimal,email.message,http.client,\
                     logging.handlers,multiprocessing,sqlite3,ssl,unittest,urllib.request,\
                     xml.dom.minidom";

/// One document, as it is printed.
#[derive(Debug, Serialize)]
struct Startup {
    workers: u16,
    preload: Vec<String>,
    rounds: u8,
    python: String,
    /// Whether a zygote forked the workers, and else why not.
    forked: bool,
    why_not: Option<String>,
    cold_import_ms: f64,
    ready_ms: f64,
    ratio_to_import: f64,
    separate_ready_ms: f64,
    pss_reaper_mib: f64,
    pss_zygote_mib: f64,
    pss_workers_mib: f64,
    pss_total_mib: f64,
    pss_separate_mib: f64,
    pss_ratio: f64,
}

/// What one pool took and weighs.
struct Measured {
    ready_ms: f64,
    births: Vec<Option<Birth>>,
    reaper: f64,
    zygote: f64,
    workers: f64,
}

/// Prints one document.
pub(crate) async fn run(
    config: &Config,
    args: BenchStartupArgs,
    out: Output,
) -> Result<(), CliError> {
    Rig::with(config, async |rig| measure(rig, args, out).await).await
}

async fn measure(rig: &Rig, args: BenchStartupArgs, out: Output) -> Result<(), CliError> {
    let preload = match args.preload.is_empty() {
        false => args.preload.clone(),
        true => {
            let python = rig.python.clone();
            rig.lane.run(move || heaviest(&python)).await?
        }
    };
    let mut imports = Vec::new();
    let mut forked = Vec::new();
    let mut separate = Vec::new();
    for round in 0..args.rounds {
        let (interpreter, names) = (rig.python.clone(), preload.clone());
        imports.push(rig.lane.run(move || cold_import(&interpreter, &names)).await??);
        let spec = || rig.spec("startup", &preload);
        forked.push(start(rig, spec(), args.workers).await?);
        separate.push(start(rig, spec().spawn(), args.workers).await?);
        out.note(format!("round {} of {}", round + 1, args.rounds));
    }
    let cold_import_ms = median(imports);
    let of =
        |all: &[Measured], number: fn(&Measured) -> f64| median(all.iter().map(number).collect());
    let ready_ms = of(&forked, |one| one.ready_ms);
    let total = of(&forked, |one| one.reaper + one.zygote + one.workers);
    let alone = of(&separate, |one| one.workers);
    let births = forked.iter().flat_map(|one| &one.births);
    let why_not = births.clone().find_map(|birth| match birth {
        Some(Birth::Executed { why }) => why.clone(),
        _ => None,
    });
    let result = Startup {
        workers: args.workers,
        rounds: args.rounds,
        python: rig.python.version().to_string(),
        forked: births.clone().all(|birth| matches!(birth, Some(Birth::Forked { .. }))),
        why_not,
        cold_import_ms,
        ready_ms,
        ratio_to_import: ready_ms / cold_import_ms,
        separate_ready_ms: of(&separate, |one| one.ready_ms),
        pss_reaper_mib: of(&forked, |one| one.reaper),
        pss_zygote_mib: of(&forked, |one| one.zygote),
        pss_workers_mib: of(&forked, |one| one.workers),
        pss_total_mib: total,
        pss_separate_mib: alone,
        pss_ratio: total / alone,
        preload,
    };
    out.data(&result, || text(&result))
}

/// Starts a pool below a reaper of its own, weighs everything, and ends it.
async fn start(rig: &Rig, spec: WorkerSpec, workers: u16) -> Result<Measured, CliError> {
    let inner = rig.scope.open("round");
    let reaper = rig.reaper(&inner).await?;
    let began = SystemClock.now();
    let config = PoolConfig { workers: workers.into(), ..PoolConfig::default() };
    let pool = Pool::start(&inner, reaper.clone(), spec, config).await?;
    let ready_ms = (SystemClock.now() - began).as_secs_f64() * 1e3;
    let mut sessions = Vec::new();
    for _ in 0..workers {
        let session = pool.session(CallOptions::default().deadline).await?;
        session.call("collect", Args::none(), CallOptions::default()).await?;
        sessions.push(session);
    }
    let infos = pool.workers();
    let pids: Vec<u32> = infos.iter().filter_map(|worker| worker.pid).collect();
    let reaper_pid = reaper.pid().unwrap_or_default();
    let others = children(reaper_pid).into_iter().filter(|pid| !pids.contains(pid));
    // With all that they have forked in advance.
    let mut zygotes: Vec<u32> = others.collect();
    let mut looked = 0;
    while let Some(pid) = zygotes.get(looked) {
        zygotes.extend(children(*pid));
        looked += 1;
    }
    let sum = |pids: &[u32]| pids.iter().map(|pid| pss_mib(*pid)).sum();
    let measured = Measured {
        ready_ms,
        births: infos.into_iter().map(|worker| worker.birth).collect(),
        reaper: pss_mib(reaper_pid),
        zygote: sum(&zygotes),
        workers: sum(&pids),
    };
    drop(sessions);
    inner.stop().await;
    Ok(measured)
}

/// The heaviest of what the interpreter has.
fn heaviest(python: &Interpreter) -> Vec<String> {
    let has = |name: &str| {
        Command::new(python.path())
            .args(["-P", "-c", "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)", name])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let found = ["dspy", "torch", "numpy"].into_iter().find(|name| has(name));
    found.unwrap_or(PLAIN).split(',').map(str::to_owned).collect()
}

/// How long a process of its own takes from its start to its end when it imports these, in
/// milliseconds.
fn cold_import(python: &Interpreter, names: &[String]) -> Result<f64, CliError> {
    let began = SystemClock.now();
    let status = Command::new(python.path())
        .args(["-P", "-c", &format!("import {}\nimport os\nos._exit(0)", names.join(", "))])
        .envs(
            ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"].map(|name| (name, "1")),
        )
        .stdin(Stdio::null())
        .status()
        .map_err(|error| cannot("start the interpreter", &error))?;
    if !status.success() {
        let message = format!("cannot import {}: {status}", names.join(", "));
        return Err(CliError::new(Kind::Environment, "bench_failed", message));
    }
    Ok((SystemClock.now() - began).as_secs_f64() * 1e3)
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn pss_mib(pid: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
    let kib = line.split_ascii_whitespace().next().and_then(|kib| kib.parse::<u32>().ok());
    f64::from(kib.unwrap_or_default()) / 1024.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn text(result: &Startup) -> String {
    let way = match (&result.why_not, result.forked) {
        (_, true) => "forked".to_owned(),
        (Some(why), _) => format!("executed, because {why}"),
        (None, _) => "executed".to_owned(),
    };
    format!(
        "{} workers that import {}, {way}\n\
         ready         {:8.1} ms  {:.2} of one cold import ({:.1} ms); started separately {:.1} ms\n\
         memory (PSS)  {:8.1} MiB {:.2} of separate processes ({:.1} MiB): reaper {:.1}, zygote {:.1}, workers {:.1}",
        result.workers,
        result.preload.join(", "),
        result.ready_ms,
        result.ratio_to_import,
        result.cold_import_ms,
        result.separate_ready_ms,
        result.pss_total_mib,
        result.pss_ratio,
        result.pss_separate_mib,
        result.pss_reaper_mib,
        result.pss_zygote_mib,
        result.pss_workers_mib,
    )
}
