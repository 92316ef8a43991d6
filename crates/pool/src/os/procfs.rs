//! What `/proc` says about processes.

use std::fs;
use std::io::{self, Read};
use std::time::Duration;

use snakehouse_base::ByteSize;

/// More environment than any process has (the kernel's own limit is far below).
const MAX_ENVIRON: ByteSize = ByteSize::mib(8);

/// As much environment as nearly every process has.
const ENVIRON_AT_ONCE: usize = 128 * 1024;

/// Every process id in sight.
pub(crate) fn pids() -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// When a process started, in clock ticks since boot: with the pid, its identity.
/// `None` when it is gone.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    stat_field(pid, 19)
}

/// A number of `/proc/PID/stat`, counted from 0 behind the command.
fn stat_field(pid: u32, number: usize) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The command may contain anything; what follows its last parenthesis does not.
    let after = stat.iter().rposition(|&byte| byte == b')')? + 2;
    let fields = std::str::from_utf8(stat.get(after..)?).ok()?;
    fields.split_ascii_whitespace().nth(number)?.parse().ok()
}

/// What the environment of a process says about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Environ {
    /// It holds exactly this `NAME=value`.
    Has,
    /// It does not, or it cannot be read, or there is no such process.
    HasNot,
    /// The process is in the middle of `execve`: the old environment is gone and the new one not in
    /// place yet.
    Blank,
}

/// Looks for `NAME=value` in the environment that a process started with.
pub(crate) fn environ(pid: u32, entry: &[u8]) -> Environ {
    let Some(mut environ) = read_environ(pid) else { return Environ::HasNot };
    if environ.is_empty() && has_memory(pid) {
        if environment_end(pid) == Some(0) {
            return Environ::Blank;
        }
        // It may have come between the two looks.
        environ = read_environ(pid).unwrap_or_default();
    }
    match environ.split(|&byte| byte == 0).any(|found| found == entry) {
        true => Environ::Has,
        false => Environ::HasNot,
    }
}

fn read_environ(pid: u32) -> Option<Vec<u8>> {
    let mut file = fs::File::open(format!("/proc/{pid}/environ")).ok()?;
    // One read, if that is enough: an `execve` between two takes the rest of the old one away, and
    // half an environment looks like one without the entry.
    let mut environ = vec![0; ENVIRON_AT_ONCE];
    let first = file.read(&mut environ).ok()?;
    environ.truncate(first);
    if first == ENVIRON_AT_ONCE {
        file.take(MAX_ENVIRON.0).read_to_end(&mut environ).ok()?;
    }
    Some(environ)
}

/// Where the environment of a process ends in its memory; 0 until `execve` has put it there, also
/// when there is nothing in it.
fn environment_end(pid: u32) -> Option<u64> {
    stat_field(pid, 48)
}

/// Whether it is neither a zombie nor a thread of the kernel.
fn has_memory(pid: u32) -> bool {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    statm.split_ascii_whitespace().next().is_some_and(|pages| pages != "0")
}

/// The command line of a process for a report, never for a decision; cut to 200 characters.
pub(crate) fn command(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    text.trim_end().chars().take(200).collect()
}

/// How long the first thread of a process has run or waited for a processor. `None` when it is gone,
/// or when this kernel keeps no account of it.
pub(crate) fn wanted_cpu(pid: u32) -> Option<Duration> {
    let account = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    let mut nanos = account.split_ascii_whitespace().map(|field| field.parse().ok());
    let (ran, waited): (u64, u64) = (nanos.next()??, nanos.next()??);
    Some(Duration::from_nanos(ran.saturating_add(waited))).filter(|wanted| !wanted.is_zero())
}

/// Resident memory of a process, `None` when it is gone.
pub(crate) fn resident_bytes(pid: u32) -> Option<ByteSize> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(ByteSize(pages * rustix::param::page_size() as u64))
}
