//! `demo`: fine-tunes a small model end to end and kills its own engine on the way.
//!
//! Everything it starts hangs on one root and one run token, and every file lies in one directory:
//! however it ends (well, with an error, by Ctrl-C), the root is stopped, the token is swept and the
//! directory removed.

mod lessons;
mod progress;
mod report;
mod stage;
mod training;

use snakehouse_base::id::RunToken;
use snakehouse_base::{Clock, Kind, SystemClock};
use snakehouse_supervise::Root;

use crate::args::DemoArgs;
use crate::config::Config;
use crate::error::CliError;
use crate::output::Output;
use report::Report;
use snakehouse_tinker::FinishStatus;
use stage::Stage;

/// Enough to learn the shipped text.
const STEPS: u32 = 240;

/// Runs the demo and prints its report.
pub(crate) async fn run(config: &Config, args: DemoArgs, out: Output) -> Result<(), CliError> {
    let began = SystemClock.now();
    let steps = args.steps.unwrap_or(STEPS).max(2);
    let interrupted = crate::stop_signal::listen()?;
    let dir = tempfile::Builder::new().prefix("snakehouse-demo-").tempdir().map_err(|error| {
        CliError::new(
            Kind::Environment,
            "no_temporary_directory",
            format!("cannot make a temporary directory: {error}"),
        )
        .with_hint("set TMPDIR to a directory that can be written")
    })?;
    let token = RunToken::fresh();
    let root = Root::new("demo");

    let shown = tokio::select! {
        shown = show(&root, config, &dir, &token, steps, out) => shown,
        () = interrupted => Err(CliError::new(Kind::Cancelled, "interrupted", "interrupted")),
    };

    root.stop().await;
    let left_behind = stage::clear(dir, &token);
    let mut report = shown?;
    report.left_behind = left_behind;
    report.wall_s = (SystemClock.now() - began).as_secs_f64();
    report.ok = report.missed().is_empty();
    out.data(&report, || report.text())?;
    report.verdict()
}

async fn show(
    root: &Root,
    config: &Config,
    dir: &tempfile::TempDir,
    token: &RunToken,
    steps: u32,
    out: Output,
) -> Result<Report, CliError> {
    let stage = Stage::set_up(root.scope(), config, dir.path(), token).await?;
    let report = training::run(&stage, steps, out).await?;
    stage.client.close(FinishStatus::Success).await?;
    Ok(report)
}
