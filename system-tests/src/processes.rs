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

/// Looks until no process carries the run token, for at most `bound`. Returns those that still do.
pub fn wait_no_survivors(run_token: &str, bound: Duration) -> Vec<Survivor> {
    let clock = snakehouse_base::SystemClock;
    let start = snakehouse_base::Clock::now(&clock);
    loop {
        let left = survivors(run_token);
        if left.is_empty() || snakehouse_base::Clock::now(&clock) - start > bound {
            return left;
        }
        std::thread::yield_now();
    }
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
        .filter_map(|p| Some((p, u32::try_from(stat_field(p, 1)?).ok()?)))
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
    /// Time on a CPU, user and system, in the kernel's ticks (usually 10 ms).
    pub cpu: Duration,
    /// Times a thread gave its CPU up by itself, that is, waited.
    pub voluntary_switches: u64,
}

/// What the processes have used so far.
///
/// # Panics
/// If the kernel does not say: a zero that means "unknown" must not pass for idleness.
pub fn usage_of(pids: &[u32]) -> Usage {
    let mut total = Usage::default();
    for pid in pids {
        let ticks = |field| stat_field(*pid, field).expect("the kernel counts CPU time");
        let ticks = ticks(11) + ticks(12);
        total.cpu += Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second());
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
        for thread in threads {
            let path = thread.expect("threads can be listed").path().join("status");
            let status = fs::read_to_string(path).unwrap_or_default();
            let switches = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .and_then(|count| count.trim().parse::<u64>().ok());
            total.voluntary_switches += switches.expect("the kernel counts switches");
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
