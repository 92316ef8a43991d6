//! CPU time and pinning of whole processes, thread by thread.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPU time that all living threads of a process have used.
pub(crate) fn used(pid: u32) -> io::Result<Duration> {
    let mut total = 0;
    for thread in threads(pid)? {
        // A thread may end between the listing and the reading.
        let Ok(text) = std::fs::read_to_string(thread.join("schedstat")) else { continue };
        total += text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0u64);
    }
    Ok(Duration::from_nanos(total))
}

/// Keeps threads of some processes on one core until dropped.
#[derive(Debug)]
pub(crate) struct Pinned {
    before: Vec<(Pid, CpuSet)>,
}

impl Pinned {
    /// Pins every thread of `pids` to the first core this process may use.
    pub(crate) fn to_one_core(pids: &[u32]) -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let core = (0..CpuSet::MAX_CPU)
            .find(|&core| allowed.is_set(core))
            .ok_or_else(|| io::Error::other("this process may use no core"))?;
        let mut one = CpuSet::new();
        one.set(core);
        let mut pinned = Self { before: Vec::new() };
        for &pid in pids {
            for thread in threads(pid)? {
                let id = thread.file_name().and_then(|name| name.to_str()?.parse().ok());
                let Some(thread) = id.and_then(Pid::from_raw) else { continue };
                let before = sched_getaffinity(Some(thread))?;
                sched_setaffinity(Some(thread), &one)?;
                pinned.before.push((thread, before));
            }
        }
        Ok(pinned)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        for (thread, before) in &self.before {
            // A thread that has ended needs nothing.
            let _ = sched_setaffinity(Some(*thread), before);
        }
    }
}

fn threads(pid: u32) -> io::Result<Vec<PathBuf>> {
    std::fs::read_dir(format!("/proc/{pid}/task"))?.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_time_grows_with_work() {
        let me = std::process::id();
        let before = used(me).unwrap();
        let mut sum = 0u64;
        while used(me).unwrap() <= before {
            sum = std::hint::black_box((0..100_000u64).fold(sum, u64::wrapping_add));
        }
        assert!(used(u32::MAX).is_err());
    }
}
