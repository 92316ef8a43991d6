//! `bench pool`: calls, streams, large buffers, callbacks, sessions and telemetry of one worker or several,
//! beside the fixed limit program or each other, in one run.
//!
//! What is measured and how stands in `bench/limit/README.md`.

mod buffer;
mod callback;
mod calls;
mod cpu;
mod limit;
mod payload;
mod rig;
mod row;
mod sample;
mod session;
mod stream;
mod telemetry;
mod watcher;

use std::time::Duration;

use snakehouse_base::Kind;
use snakehouse_supervise::{Root, Scope};

use crate::args::{BenchPoolArgs, BenchRow};
use crate::config::Config;
use crate::error::CliError;
use crate::output::Output;
use rig::Rig;

/// Prints one row per cell.
pub(crate) async fn run(config: &Config, args: BenchPoolArgs, out: Output) -> Result<(), CliError> {
    let during = Duration::try_from_secs_f64(args.seconds)
        .ok()
        .filter(|time| (0.01..=60.0).contains(&time.as_secs_f64()))
        .ok_or_else(|| {
            let message = format!("{} s is no time for a measurement", args.seconds);
            CliError::new(Kind::InvalidInput, "bad_seconds", message)
                .with_hint("choose between 0.01 and 60 seconds")
        })?;
    let root = Root::new("bench");
    let result = measure(config, during, &args, root.scope(), out).await;
    root.stop().await;
    result
}

async fn measure(
    config: &Config,
    during: Duration,
    args: &BenchPoolArgs,
    scope: &Scope,
    out: Output,
) -> Result<(), CliError> {
    let rig = Rig::start(scope, config.python.value.as_deref(), during, args.rounds).await?;
    let (mut calls, mut streams, mut buffers) = (Vec::new(), Vec::new(), Vec::new());
    let mut callbacks = Vec::new();
    let (mut sessions, mut watched) = (Vec::new(), Vec::new());
    for &workers in &args.workers {
        let inner = scope.open("pool");
        let pool = rig.pool(&inner, workers).await?;
        if args.rows.contains(&BenchRow::Call) {
            calls.extend(calls::rows(&rig, &pool, workers, args, out).await?);
        }
        if args.rows.contains(&BenchRow::Stream) {
            streams.push(stream::row(&rig, &pool, workers, args, out).await?);
        }
        if args.rows.contains(&BenchRow::Buffer) {
            buffers.extend(buffer::rows(&rig, &pool, workers, args, out).await?);
        }
        if args.rows.contains(&BenchRow::Callback) {
            callbacks.push(callback::row(&rig, &pool, workers, args, out).await?);
        }
        if args.rows.contains(&BenchRow::Session) {
            sessions.extend(session::rows(&rig, &inner, &pool, workers, args, out).await?);
        }
        if args.rows.contains(&BenchRow::Telemetry) {
            watched.extend(telemetry::rows(&rig, &inner, &pool, workers, out).await?);
        }
        inner.stop().await;
    }
    if out.is_json() {
        return Ok(());
    }
    if !calls.is_empty() {
        out.data(&calls, || row::table(&calls))?;
    }
    if !streams.is_empty() {
        out.data(&streams, || stream::table(&streams))?;
    }
    if !buffers.is_empty() {
        out.data(&buffers, || buffer::table(&buffers))?;
    }
    if !callbacks.is_empty() {
        out.data(&callbacks, || callback::table(&callbacks))?;
    }
    if !sessions.is_empty() {
        out.data(&sessions, || session::table(&sessions))?;
    }
    if !watched.is_empty() {
        out.data(&watched, || telemetry::table(&watched))?;
    }
    Ok(())
}
