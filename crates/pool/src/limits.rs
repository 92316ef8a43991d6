//! What one worker may use.
//!
//! Two kinds of limit. Those of the process itself ([`address_space`](Limits::address_space),
//! [`cpu`](Limits::cpu), [`open_files`](Limits::open_files)) work everywhere: the kernel sets them
//! between `fork` and `exec`. Those of everything that the worker starts as well
//! ([`memory`](Limits::memory), [`tasks`](Limits::tasks)) need a control group that this process
//! may make; where it may not, a worker that asks for one is not started, and the error says so: a
//! limit that is not kept is worse than none.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use snakehouse_base::ByteSize;

use crate::os::{ControlGroups, Group};

/// Limits of each worker of a pool. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Virtual memory of the worker's process. What is beyond it fails as `MemoryError` in Python,
    /// which fails the call and not the worker. It counts what is reserved, not what is used:
    /// libraries for arithmetic reserve some hundred MiB that they never touch.
    pub address_space: Option<ByteSize>,
    /// Processor time of one incarnation, over all its calls. In whole seconds, rounded up. When
    /// it is used up the worker is dead, with [`Death::CpuLimit`](crate::Death::CpuLimit).
    pub cpu: Option<Duration>,
    /// Descriptors of the worker's process. What is beyond it is an `OSError` in Python. The worker
    /// itself needs about ten.
    pub open_files: Option<u64>,
    /// Memory in use by the worker and all that it starts. What is beyond it costs the worker its
    /// life, with [`Death::MemoryLimit`](crate::Death::MemoryLimit). Needs a control group.
    pub memory: Option<ByteSize>,
    /// Threads and processes of the worker and all that it starts. What is beyond it is a
    /// `RuntimeError` or `BlockingIOError` in Python. Needs a control group.
    pub tasks: Option<u64>,
}

impl Limits {
    /// What the reaper sets: soft and hard limit by the kernel's name without `RLIMIT_`.
    pub(crate) fn resources(&self) -> BTreeMap<&'static str, [u64; 2]> {
        let mut resources = BTreeMap::new();
        if let Some(bytes) = self.address_space {
            resources.insert("AS", [bytes.0; 2]);
        }
        if let Some(cpu) = self.cpu {
            let seconds = cpu.as_secs() + u64::from(cpu.subsec_nanos() > 0);
            // The signal of the first can be caught; a second later comes one that cannot.
            resources.insert("CPU", [seconds.max(1), seconds.max(1) + 1]);
        }
        if let Some(count) = self.open_files {
            resources.insert("NOFILE", [count; 2]);
        }
        resources
    }

    /// Makes the worker's control group, if one is needed. Blocks for less than a millisecond.
    pub(crate) fn group(&self, name: &str) -> io::Result<Option<Group>> {
        if self.memory.is_none() && self.tasks.is_none() {
            return Ok(None);
        }
        let groups = ControlGroups::find();
        groups.make(name, self.memory.map(|bytes| bytes.0), self.tasks).map(Some)
    }

    /// Which limits of a worker and all that it starts can be kept here. Reads a few files.
    pub fn support() -> LimitSupport {
        let groups = ControlGroups::find();
        LimitSupport { memory: groups.memory(), tasks: groups.tasks() }
    }
}

/// Where this process may make control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSupport {
    /// The directory for [`Limits::memory`]; `None` where that limit cannot be kept.
    pub memory: Option<PathBuf>,
    /// The directory for [`Limits::tasks`]; `None` where that limit cannot be kept.
    pub tasks: Option<PathBuf>,
}

impl LimitSupport {
    /// Neither can be kept.
    pub const fn none() -> Self {
        Self { memory: None, tasks: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_what_the_kernel_counts_in() {
        assert!(Limits::default().resources().is_empty());
        let limits = Limits {
            address_space: Some(ByteSize::mib(512)),
            cpu: Some(Duration::from_millis(1500)),
            open_files: Some(64),
            ..Limits::default()
        };
        let expected = [("AS", [512 << 20; 2]), ("CPU", [2, 3]), ("NOFILE", [64; 2])];
        assert_eq!(limits.resources(), expected.into());
        let none = Limits { cpu: Some(Duration::ZERO), ..Limits::default() };
        assert_eq!(none.resources()["CPU"], [1, 2], "0 would be no limit before Linux 2.6.17");
    }
}
