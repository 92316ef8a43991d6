//! `doctor`: looks at the machine and says what to do about each problem.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use serde::Serialize;
use snakehouse_base::{ByteSize, Coded, Kind};
use snakehouse_pool::Interpreter;

use crate::config::Config;
use crate::error::CliError;
use crate::home::Home;
use crate::output::Output;
use crate::running;

const OLDEST_KERNEL: (u32, u32) = (5, 10);
const LITTLE_SPACE: u64 = 1 << 30;

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
    checks: Vec<Check>,
}

/// Prints every check; fails if one found a problem.
pub(crate) async fn run(config: &Config, out: Output) -> Result<(), CliError> {
    let checks = vec![
        platform(),
        interpreter(config.python.value.as_deref()),
        state_directory(&config.home.value),
        space(&config.home.value),
        port(config).await,
        stronger_tier(),
    ];
    let problems = checks.iter().filter(|check| check.status == Status::Problem).count();
    let report = Report { ok: problems == 0, checks };
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

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), remedy: None }
    }

    fn new(name: &'static str, status: Status, found: impl Into<String>, remedy: &str) -> Self {
        Self { name, status, found: found.into(), remedy: Some(remedy.to_owned()) }
    }
}

fn platform() -> Check {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy().into_owned();
    let machine = system.machine().to_string_lossy().into_owned();
    let found = format!("Linux {release} on {machine}");
    if kernel_version(&release).is_none_or(|version| version < OLDEST_KERNEL) {
        return Check::new("platform", Status::Problem, found, "use Linux 5.10 or newer");
    }
    if !["x86_64", "aarch64"].contains(&machine.as_str()) {
        return Check::new("platform", Status::Problem, found, "use an x86-64 or aarch64 machine");
    }
    Check::ok("platform", found)
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn interpreter(explicit: Option<&Path>) -> Check {
    match Interpreter::find(explicit) {
        Ok(found) => Check::ok(
            "interpreter",
            format!("Python {} at {}", found.version(), found.path().display()),
        ),
        Err(error) => Check::new(
            "interpreter",
            Status::Problem,
            error.to_string(),
            &error.hint().unwrap_or_else(|| "install Python 3.11 or newer".to_owned()),
        ),
    }
}

fn state_directory(root: &Path) -> Check {
    let probe = || -> Result<(), CliError> {
        Home::open(root)?;
        let file = root.join(".doctor");
        fs::write(&file, b"probe")
            .and_then(|()| fs::remove_file(&file))
            .map_err(|error| crate::home::not_writable(&file, &error))
    };
    match probe() {
        Ok(()) => Check::ok("state_directory", root.display().to_string()),
        Err(error) => Check::new(
            "state_directory",
            Status::Problem,
            error.to_string(),
            error.hint().unwrap_or_default(),
        ),
    }
}

fn space(root: &Path) -> Check {
    match rustix::fs::statvfs(root) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let found = format!("{} free", ByteSize(free));
            if free < LITTLE_SPACE {
                Check::new(
                    "disk_space",
                    Status::Note,
                    found,
                    "free some space: checkpoints are kept on disk",
                )
            } else {
                Check::ok("disk_space", found)
            }
        }
        Err(error) => Check::new(
            "disk_space",
            Status::Note,
            format!("cannot be read: {error}"),
            "mend the state directory first",
        ),
    }
}

async fn port(config: &Config) -> Check {
    let port = config.port.value;
    if let Ok(running) = running::find(config).await {
        return Check::ok(
            "port",
            format!("`up` runs at {} (process {})", running.url(), running.pid()),
        );
    }
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Check::ok("port", format!("127.0.0.1:{port} is free")),
        Err(error) => Check::new(
            "port",
            Status::Problem,
            format!("127.0.0.1:{port} cannot be used: {error}"),
            "stop what listens there, or choose another with --port or SNAKEHOUSE_PORT",
        ),
    }
}

/// What could also end processes that host and reaper, killed in one instant, would leave.
fn stronger_tier() -> Check {
    let writable = fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned)))
        .map(|path| format!("/sys/fs/cgroup{path}/cgroup.kill"))
        .filter(|path| fs::OpenOptions::new().write(true).open(path).is_ok());
    match writable {
        Some(path) => Check::ok("cgroup_kill", format!("{path} is writable")),
        None => Check::new(
            "cgroup_kill",
            Status::Note,
            "no writable cgroup.kill",
            "nothing to do: if host and reaper are killed in the same instant, processes that a \
             tool moved to a session of its own are ended by the next start",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read() {
        assert_eq!(kernel_version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(kernel_version("5.10.0"), Some((5, 10)));
        assert_eq!(kernel_version("odd"), None);
        assert!((5, 9) < OLDEST_KERNEL && (6, 0) > OLDEST_KERNEL);
    }
}
