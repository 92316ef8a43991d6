//! `pool call`, `pool ps` and `pool stats`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use snakehouse_base::id::RunToken;
use snakehouse_base::{Coded, Deadline, Kind};
use snakehouse_pool::{
    Args, CallError, CallOptions, Interpreter, Pool, PoolConfig, Reaper, ReaperConfig, Run,
    WorkerSpec, from_json, to_json,
};
use snakehouse_supervise::{Lane, Root, Scope};
use snakehouse_tinker::ClientError;

use crate::args::PoolCallArgs;
use crate::config::Config;
use crate::error::CliError;
use crate::home::Home;
use crate::output::Output;
use crate::running;

/// What `pool call` prints.
#[derive(Debug, Serialize, Deserialize)]
struct Returned {
    value: serde_json::Value,
}

/// Calls one tool, in a pool of its own or in the running `up`.
pub(crate) async fn call(config: &Config, args: PoolCallArgs, out: Output) -> Result<(), CliError> {
    let values = args.args.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()?;
    let within = Duration::try_from_secs_f64(args.timeout).map_err(|_| {
        CliError::new(Kind::InvalidInput, "bad_argument", "--timeout is not a number of seconds")
    })?;
    let value = match &args.tools {
        Some(file) => {
            let root = Root::new("pool-call");
            let lane = Lane::new(root.scope(), "start", 1, 1);
            let place = config.clone();
            let (python, run) = lane
                .run(move || {
                    let python = Interpreter::find(place.python.value.as_deref())?;
                    let run = Run::begin(&Home::open(&place.home.value)?.runs())?;
                    Ok::<_, CliError>((python, run))
                })
                .await??;
            let token = run.token().clone();
            let called = call_here(
                root.scope(),
                (config, out),
                python,
                token,
                (file, &args.tool),
                values,
                within,
            )
            .await;
            root.stop().await;
            run.end();
            called?
        }
        None => call_running(config, &args.tool, values, within).await?,
    };
    out.data(&Returned { value: value.clone() }, || match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    })
}

fn parse(text: &str) -> Result<serde_json::Value, CliError> {
    serde_json::from_str(text).map_err(|error| {
        CliError::new(Kind::InvalidInput, "bad_argument", format!("{text:?} is not JSON: {error}"))
            .with_hint("quote text twice, once for the shell and once for JSON: '\"text\"'")
    })
}

async fn call_here(
    scope: &Scope,
    (config, out): (&Config, Output),
    python: Interpreter,
    run_token: RunToken,
    (file, tool): (&Path, &str),
    values: Vec<serde_json::Value>,
    within: Duration,
) -> Result<serde_json::Value, CliError> {
    let options = CallOptions::within(within);
    let reaper =
        Reaper::start(scope, ReaperConfig { python: python.clone(), run_token, cache: None })
            .await?;
    let python = with_packages(scope, &reaper, python, config, out).await?;
    let pool = tool_pool(scope, reaper, python, file).await?;
    let args = Args { args: values.into_iter().map(from_json).collect(), kwargs: Vec::new() };
    let value = pool.call(tool, args, options).await.map_err(call_failed)?;
    Ok(to_json(&value)?)
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
) -> Result<Pool, CliError> {
    let file: PathBuf = std::fs::canonicalize(file).map_err(|error| {
        CliError::new(
            Kind::NotFound,
            "tools_missing",
            format!("cannot read {}: {error}", file.display()),
        )
        .with_hint("name a Python file with `@tool` functions")
    })?;
    let spec = WorkerSpec::python("tools", python).module(file.display().to_string());
    Ok(Pool::start(scope, reaper, spec, PoolConfig::default()).await?)
}

/// A failed call: a tool's failure speaks for itself.
fn call_failed(error: CallError) -> CliError {
    match &error {
        CallError::Tool { failure, .. } => {
            let code = failure.code.clone();
            let failed =
                CliError::new(error.kind(), "tool_failed", error.to_string()).with_code(code);
            match error.hint() {
                Some(hint) => failed.with_hint(hint),
                None => failed,
            }
        }
        _ => error.into(),
    }
}

async fn call_running(
    config: &Config,
    tool: &str,
    values: Vec<serde_json::Value>,
    within: Duration,
) -> Result<serde_json::Value, CliError> {
    #[derive(Serialize)]
    struct Arguments {
        args: Vec<serde_json::Value>,
        timeout_s: f64,
    }
    let running = running::find(config).await?;
    let arguments = Arguments { args: values, timeout_s: within.as_secs_f64() };
    // The service answers at the tool's deadline; a little more is for the way back.
    let deadline =
        Deadline::after(tokio::time::Instant::now().into_std(), within + Duration::from_secs(5));
    let called = running.service().call_tool(tool, &arguments, deadline).await;
    let returned: Returned = called.map_err(call_refused)?;
    Ok(returned.value)
}

/// A failed call in the running `up` reads like one in a pool of our own.
fn call_refused(error: ClientError) -> CliError {
    match error {
        ClientError::Refused { code: Some(code), kind: Some(kind), detail, hint, .. } => {
            let failed = CliError::new(kind, "tool_failed", detail).with_code(code);
            match hint {
                Some(hint) => failed.with_hint(hint),
                None => failed,
            }
        }
        other => other.into(),
    }
}

/// One row of `pool ps`.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    pool: String,
    id: u64,
    incarnation: u64,
    state: String,
    pid: Option<u32>,
    calls: u64,
    in_flight: u64,
    restarts: u64,
    rss_bytes: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Workers {
    workers: Vec<Row>,
}

/// Lists the workers of the running `up`.
pub(crate) async fn ps(config: &Config, out: Output) -> Result<(), CliError> {
    let running = running::find(config).await?;
    let workers: Workers = running.service().status(CallOptions::default().deadline).await?;
    out.data(&workers, || {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["POOL", "WORKER", "LIFE", "STATE", "PID", "CALLS", "NOW", "RSS"]);
        for row in &workers.workers {
            let rss = row.rss_bytes.map(|n| snakehouse_base::ByteSize(n).to_string());
            table.add_row([
                row.pool.clone(),
                row.id.to_string(),
                row.incarnation.to_string(),
                row.state.clone(),
                row.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                row.calls.to_string(),
                row.in_flight.to_string(),
                rss.unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        table.to_string()
    })
}

/// What `pool stats` reads of a pool; `--json` gives all that the running `up` says.
#[derive(Debug, Deserialize)]
struct PoolRow {
    pool: String,
    workers: u64,
    in_flight: u64,
    waiting: u64,
    outcomes: BTreeMap<String, u64>,
    deaths: BTreeMap<String, u64>,
    latency: LatencyRow,
}

#[derive(Debug, Deserialize)]
struct LatencyRow {
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stats {
    /// Processes that outlived a reaper and were ended.
    swept: u64,
    pools: Vec<serde_json::Value>,
}

/// Shows what the pools of the running `up` did.
pub(crate) async fn stats(config: &Config, out: Output) -> Result<(), CliError> {
    let running = running::find(config).await?;
    let stats: Stats = running.service().status(CallOptions::default().deadline).await?;
    let rows: Vec<PoolRow> =
        stats.pools.iter().map(PoolRow::deserialize).collect::<Result<_, _>>().map_err(
            |error| {
                CliError::new(Kind::Corrupt, "status_not_understood", error.to_string())
                    .with_hint("the running `up` is of another version: restart it")
            },
        )?;
    out.data(&stats, || text_of(&stats, &rows))
}

fn text_of(stats: &Stats, rows: &[PoolRow]) -> String {
    let mut text = String::new();
    if rows.is_empty() {
        text.push_str("no pool of tools: start `up` with --tools\n");
    }
    let counts = |counts: &BTreeMap<String, u64>| {
        let some = counts.iter().filter(|(_, count)| **count > 0);
        let some: Vec<_> = some.map(|(name, count)| format!("{count} {name}")).collect();
        if some.is_empty() { "none".to_owned() } else { some.join(", ") }
    };
    for row in rows {
        let PoolRow { pool, workers, in_flight, waiting, outcomes, deaths, latency } = row;
        text.push_str(&format!(
            "{pool}: {workers} workers, {in_flight} calls with them, {waiting} waiting\n"
        ));
        text.push_str(&format!("  calls    {}\n", counts(outcomes)));
        text.push_str(&format!("  deaths   {}\n", counts(deaths)));
        let ms = |micros: u64| format!("{}.{:03} ms", micros / 1000, micros % 1000);
        text.push_str(&format!(
            "  answers  half within {}, 99 of 100 within {}, the longest {}\n",
            ms(latency.p50_us),
            ms(latency.p99_us),
            ms(latency.max_us)
        ));
    }
    if stats.swept > 0 {
        text.push_str(&format!("{} processes outlived a reaper and were ended\n", stats.swept));
    }
    text
}
