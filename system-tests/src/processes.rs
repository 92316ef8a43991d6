//! Looking at processes through `/proc`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A process that should be gone.
#[derive(Debug)]
pub struct Survivor {
    /// Its pid.
    pub pid: u32,
    /// Its command line, for the message.
    pub command: String,
}

/// Processes that carry the run token in their environment.
pub fn survivors(run_token: &str) -> Vec<Survivor> {
    let needle = format!("SNAKEHOUSE_RUN={run_token}");
    pids()
        .into_iter()
        .filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            contains(&environ, needle.as_bytes()) && !is_zombie(*pid)
        })
        .map(|pid| Survivor { pid, command: command_of(pid) })
        .collect()
}

/// Waits until none of `pids` exists, at most `bound`. Returns those that do.
pub fn wait_gone(pids: &[u32], bound: Duration) -> Vec<Survivor> {
    let mut left = bound;
    for pid in pids {
        let Some(raw) = i32::try_from(*pid).ok().and_then(Pid::from_raw) else { continue };
        let Ok(fd) = pidfd_open(raw, PidfdFlags::empty()) else { continue };
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let clock = snakehouse_base::SystemClock;
        let start = snakehouse_base::Clock::now(&clock);
        // A failed poll shows up below, as a survivor.
        let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout));
        left = left.saturating_sub(snakehouse_base::Clock::now(&clock) - start);
    }
    pids.iter()
        .filter(|pid| Path::new(&format!("/proc/{pid}")).exists() && !is_zombie(**pid))
        .map(|pid| Survivor { pid: *pid, command: command_of(*pid) })
        .collect()
}

/// All processes below `pid`, by parent links.
pub fn descendants(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = pids()
        .into_iter()
        .filter_map(|p| stat_field(p, 1).map(|parent| (p, parent as u32)))
        .collect();
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(_, up)| *up == parent).map(|(p, _)| *p));
        next += 1;
    }
    found.split_off(1)
}

/// What processes have used so far, all their threads together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on a CPU, to the nanosecond (`/proc/PID/task/TID/schedstat`).
    pub cpu: Duration,
    /// Times a thread gave its CPU up by itself, that is, waited.
    pub voluntary_switches: u64,
}

/// What the processes have used so far.
pub fn usage_of(pids: &[u32]) -> Usage {
    let mut total = Usage::default();
    for pid in pids {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let schedstat = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let nanos = schedstat.split_whitespace().next().and_then(|n| n.parse().ok());
            total.cpu += Duration::from_nanos(nanos.unwrap_or(0));
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            let switches = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .and_then(|n| n.trim().parse::<u64>().ok());
            total.voluntary_switches += switches.unwrap_or(0);
        }
    }
    total
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc is readable");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Field `n` after the command name of `/proc/PID/stat`, counted from 0 (the state).
fn stat_field(pid: u32, n: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(n)?.parse().ok()
}

fn is_zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(')')?.1.trim_start().starts_with('Z')))
        .unwrap_or(true)
}

fn command_of(pid: u32) -> String {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&raw).replace('\0', " ")
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
