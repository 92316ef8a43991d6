//! `pool call`, `pool stream`, `pool ps` and `pool stats`.

use std::collections::BTreeMap;
use std::future::{self, Future};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use snakehouse_base::{Coded, Deadline, Kind};
use snakehouse_pool::{
    Affinity, Args, CallError, CallOptions, Pool, PoolError, SessionOptions, Value, WorkerSpec,
    from_json, to_json,
};
use snakehouse_tinker::ClientError;

use crate::args::{PoolCallArgs, PoolStreamArgs, SessionArgs};
use crate::config::Config;
use crate::error::CliError;
use crate::output::Output;
use crate::own_pool::{OwnPools, whole_path};
use crate::printer::Printer;
use crate::running;
use crate::stop_signal;
use crate::watch::Watch;

/// What `pool call` prints.
#[derive(Debug, Serialize, Deserialize)]
struct Returned {
    value: serde_json::Value,
}

/// Calls one tool, in a pool of its own or in the running `up`.
pub(crate) async fn call(config: &Config, args: PoolCallArgs, out: Output) -> Result<(), CliError> {
    let values = parse_all(&args.args)?;
    let within = seconds(args.timeout)?;
    let Some(file) = &args.tools else {
        let value = call_running(config, &args.tool, values, within, &args.session).await?;
        return out.data(&Returned { value: value.clone() }, || text_of_value(value));
    };
    let mut asked_to_end = pin!(stop_signal::listen()?);
    let printer = Printer::new(out)?;
    let deadline = match args.debug {
        // audit(deadline): somebody sits at the debugger, and ends it with Ctrl-C
        true => Deadline::never(),
        false => CallOptions::within(within).deadline,
    };
    let options = CallOptions { deadline, ..CallOptions::default() };
    let (tool, session, is_debugged) = (args.tool.as_str(), &args.session, args.debug);
    let calling = Calling { file, tool, values, options, session, is_debugged };
    let value = OwnPools::with(config, out, asked_to_end.as_mut(), async |own| match args.reload {
        true => calling.again_and_again(own, &printer, out).await,
        false => calling.once(own, future::pending()).await,
    });
    let Some(value) = value.await? else { return Ok(()) };
    give(value, &printer, asked_to_end).await
}

/// Prints a result, unless its reader is waited for in vain.
async fn give(
    value: serde_json::Value,
    printer: &Printer,
    asked_to_end: impl Future<Output = ()>,
) -> Result<(), CliError> {
    let returned = Returned { value: value.clone() };
    tokio::select! {
        biased;
        () = asked_to_end => Err(PoolError::Interrupted.into()),
        said = printer.data(&returned, || text_of_value(value)) => said,
    }
}

/// One tool with its arguments, in a pool of its own.
struct Calling<'a> {
    file: &'a Path,
    tool: &'a str,
    values: Vec<serde_json::Value>,
    options: CallOptions,
    session: &'a SessionArgs,
    is_debugged: bool,
}

impl Calling<'_> {
    /// Starts the pool, calls, and ends the pool; `None` if the call was given up because of
    /// `unless`.
    async fn once(
        &self,
        own: &OwnPools,
        unless: impl Future<Output = Result<(), CliError>>,
    ) -> Result<Option<serde_json::Value>, CliError> {
        let tools = own.pool(self.file, |spec| self.adapt(spec)).await?;
        let called = tokio::select! {
            called = self.call(tools.pool()) => Ok(Some(called)),
            given_up = unless => given_up.map(|()| None),
        };
        tools.end().await;
        let value = called?.map(|called| called.map_err(call_failed)).transpose()?;
        Ok(value.map(|value| to_json(&value)).transpose()?)
    }

    /// A pool of our own has no lost session to make anew.
    async fn call(&self, pool: &Pool) -> Result<Value, CallError> {
        let args = positional(self.values.clone());
        let SessionArgs { session, affinity, recreate: _ } = self.session;
        let Some(name) = session else { return pool.call(self.tool, args, self.options).await };
        let kind = SessionOptions::default().affinity((*affinity).into());
        pool.named_session(name, kind)?.call(self.tool, args, self.options).await
    }

    fn adapt(&self, spec: WorkerSpec) -> WorkerSpec {
        // A file may be changed twice in the second that a cached one is told apart by.
        let spec = spec.env("PYTHONDONTWRITEBYTECODE", "1");
        match self.is_debugged {
            true => spec.env("SNAKEHOUSE_DEBUG", std::process::id().to_string()).cancel_grace(None),
            false => spec,
        }
    }

    /// Calls, and calls again with new workers whenever the tools change. A change also ends a call.
    async fn again_and_again(
        &self,
        own: &OwnPools,
        printer: &Printer,
        out: Output,
    ) -> Result<Option<serde_json::Value>, CliError> {
        let file = whole_path(self.file)?;
        let mut watch = Watch::below(file.parent().unwrap_or(&file).to_owned())?;
        loop {
            match self.once(own, watch.changed()).await {
                Ok(Some(value)) => {
                    printer
                        .data(&Returned { value: value.clone() }, || text_of_value(value))
                        .await?;
                    watch.changed().await?;
                }
                Ok(None) => {}
                Err(error) => {
                    printer.failure(&error).await?;
                    watch.changed().await?;
                }
            }
            out.note(format!("{} or a file below changed: calling again", self.file.display()));
        }
    }
}

/// One item of `pool stream`.
#[derive(Debug, Serialize)]
struct Item {
    item: serde_json::Value,
}

/// Prints what a tool yields as it yields it, and what it returns.
pub(crate) async fn stream(
    config: &Config,
    args: PoolStreamArgs,
    out: Output,
) -> Result<(), CliError> {
    let (values, items) = (parse_all(&args.args)?, parse_all(&args.send)?);
    let options = CallOptions::within(seconds(args.timeout)?);
    let mut asked_to_end = pin!(stop_signal::listen()?);
    let printer = Printer::new(out)?;
    let value = OwnPools::with(config, out, asked_to_end.as_mut(), async |own| {
        let tools = own.pool(&args.tools, |spec| spec).await?;
        stream_of(tools.pool(), &args.tool, values, items, options, &printer).await
    });
    let value = value.await?;
    if !out.is_json() && value.is_null() {
        return Ok(());
    }
    give(value, &printer, asked_to_end).await
}

async fn stream_of(
    pool: &Pool,
    tool: &str,
    values: Vec<serde_json::Value>,
    items: Vec<serde_json::Value>,
    options: CallOptions,
    printer: &Printer,
) -> Result<serde_json::Value, CliError> {
    let stream = pool.stream(tool, positional(values), options).await.map_err(call_failed)?;
    let sending = async {
        for item in items {
            // A tool may end before it has taken everything; why it did is the stream's outcome.
            if stream.send(from_json(item)).await.is_err() {
                break;
            }
        }
        stream.finish_sending();
        Ok(())
    };
    let taking = async {
        while let Some(item) = stream.next().await {
            let item = to_json(&item.map_err(call_failed)?)?;
            printer.data(&Item { item: item.clone() }, || text_of_value(item)).await?;
        }
        Ok::<_, CliError>(())
    };
    tokio::try_join!(sending, taking)?;
    Ok(to_json(&stream.result().await.map_err(call_failed)?)?)
}

fn seconds(count: f64) -> Result<Duration, CliError> {
    Duration::try_from_secs_f64(count).map_err(|_| {
        CliError::new(Kind::InvalidInput, "bad_argument", "--timeout is not a number of seconds")
    })
}

fn positional(values: Vec<serde_json::Value>) -> Args {
    Args { args: values.into_iter().map(from_json).collect(), kwargs: Vec::new() }
}

fn text_of_value(value: serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    }
}

fn parse_all(texts: &[String]) -> Result<Vec<serde_json::Value>, CliError> {
    texts.iter().map(|text| parse(text)).collect()
}

fn parse(text: &str) -> Result<serde_json::Value, CliError> {
    serde_json::from_str(text).map_err(|error| {
        CliError::new(Kind::InvalidInput, "bad_argument", format!("{text:?} is not JSON: {error}"))
            .with_hint("quote text twice, once for the shell and once for JSON: '\"text\"'")
    })
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
    session: &SessionArgs,
) -> Result<serde_json::Value, CliError> {
    #[derive(Serialize)]
    struct Arguments<'a> {
        args: Vec<serde_json::Value>,
        timeout_s: f64,
        session: Option<&'a str>,
        affinity: Affinity,
        recreate: bool,
    }
    let running = running::find(config).await?;
    let arguments = Arguments {
        args: values,
        timeout_s: within.as_secs_f64(),
        session: session.session.as_deref(),
        affinity: session.affinity.into(),
        recreate: session.recreate,
    };
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
