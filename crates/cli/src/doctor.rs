//! `doctor`: looks at the machine and says what to do about each problem.
//!
//! Every check is a function of what was found, so that a test can show it each failure and try its
//! remedy; what looks is beside them. All of it together takes less than a second on a machine whose
//! interpreter is in the page cache.

mod checks;
mod python;

use serde::Serialize;
use snakehouse_base::Kind;
use snakehouse_pool::Kernel;
use snakehouse_supervise::{Lane, Root};

use crate::config::Config;
use crate::error::CliError;
use crate::output::Output;
use crate::running;

/// What one look found.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    found: String,
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Works, with less than it could.
    Note,
    /// Something will fail.
    Problem,
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    took_ms: u128,
    checks: Vec<Check>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), remedy: None }
    }

    fn note(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Note, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn problem(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Problem, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// Prints every check; fails if one found a problem.
pub(crate) async fn run(config: &Config, out: Output) -> Result<(), CliError> {
    let report = look(config).await?;
    let problems = report.checks.iter().filter(|check| check.status == Status::Problem).count();
    out.data(&report, || table(&report))?;
    if problems == 0 {
        return Ok(());
    }
    Err(CliError::new(
        Kind::Environment,
        "doctor_found_problems",
        format!("{problems} of {} checks found a problem", report.checks.len()),
    )
    .with_hint("each problem above comes with its remedy"))
}

async fn look(config: &Config) -> Result<Report, CliError> {
    let began = tokio::time::Instant::now();
    // Asks over HTTP, so it is done beside the lane.
    let up = running::find(config).await.ok();
    let up = up.map(|up| format!("`up` runs at {} (process {})", up.url(), up.pid()));
    let root = Root::new("doctor");
    let lane = Lane::new(root.scope(), "look", 1, 1);
    let place = config.clone();
    let checks = lane.run(move || all(&place, up)).await;
    root.stop().await;
    let checks = checks?;
    let ok = checks.iter().all(|check| check.status != Status::Problem);
    Ok(Report { ok, took_ms: began.elapsed().as_millis(), checks })
}

/// Every check, each about one way to fail.
fn all(config: &Config, up: Option<String>) -> Vec<Check> {
    let kernel = Kernel::look();
    let home = &config.home.value;
    let mut checks = vec![checks::this_platform()];
    checks.extend(checks::kernel(&kernel));
    checks.push(checks::these_descriptors());
    checks.extend(python::look(config.python.value.as_deref()));
    checks.push(checks::state_directory(home));
    checks.push(checks::this_cache());
    checks.push(checks::space(home));
    checks.push(checks::port(config.port.value, up));
    checks.extend(checks::stronger_tiers(&kernel));
    checks
}

fn table(report: &Report) -> String {
    let mut text = String::new();
    for check in &report.checks {
        let mark = match check.status {
            Status::Ok => "ok     ",
            Status::Note => "note   ",
            Status::Problem => "PROBLEM",
        };
        text.push_str(&format!("{mark}  {:<16} {}\n", check.name, check.found));
        if let Some(remedy) = &check.remedy {
            text.push_str(&format!("         {:<16} -> {remedy}\n", ""));
        }
    }
    text
}
