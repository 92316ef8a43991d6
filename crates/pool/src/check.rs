//! What this machine can do for workers, as facts: for `doctor`, and for whoever wants to know before
//! a pool is started. Nothing here fails; what cannot be found out is said to be missing.

use std::path::{Path, PathBuf};

use rustix::fs::MemfdFlags;
use rustix::process::{PidfdFlags, getpid};

use crate::interpreter::{Interpreter, said};
use crate::limits::{LimitSupport, Limits};

/// Says what the standard library and the site packages of an interpreter have. Each line is one
/// fact; a module that fails in any way is not there.
const QUESTION: &str = "
import importlib
for name in ('ctypes', 'resource', 'mmap', 'msgpack._cmsgpack'):
    try:
        importlib.import_module(name)
        print(name)
    except BaseException:
        pass
";

/// What an interpreter has beyond its version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Abilities {
    /// `ctypes`, which the reaper needs.
    pub ctypes: bool,
    /// `resource`, which the reaper needs, and `mmap`, which workers need.
    pub standard: bool,
    /// A compiled MessagePack codec; without one, values are encoded in Python, at about a tenth of
    /// the speed.
    pub codec: bool,
}

impl Interpreter {
    /// What it has. Blocks while it runs once (about 50 ms, at most 20 s). An interpreter that does
    /// not answer has nothing.
    pub fn abilities(&self) -> Abilities {
        let answer = said(self.path().as_os_str(), &["-P", "-c", QUESTION]).unwrap_or_default();
        let has = |name: &str| answer.lines().any(|line| line == name);
        Abilities {
            ctypes: has("ctypes"),
            standard: has("resource") && has("mmap"),
            codec: has("msgpack._cmsgpack"),
        }
    }
}

/// What the kernel allows this process to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kernel {
    /// A process can be named for ever by a descriptor (Linux 5.3).
    pub pidfd: bool,
    /// Memory can be shared by a descriptor, and sealed.
    pub memfd: bool,
    /// `/proc` is mounted and shows this process.
    pub proc: bool,
    /// `/proc` lists the children of a process; without that the reaper looks at every process.
    pub children_lists: bool,
    /// Every process of a control group can be killed at once, and this is the file.
    pub cgroup_kill: Option<PathBuf>,
    /// A process may be put into a namespace of its own without being root.
    pub pid_namespace: bool,
    /// Limits of a worker and all that it starts.
    pub limits: LimitSupport,
}

impl Kernel {
    /// Looks. Takes about a millisecond.
    pub fn look() -> Self {
        Self::look_in(Path::new("/proc"))
    }

    fn look_in(proc: &Path) -> Self {
        let own = proc.join("self");
        let thread = proc.join("thread-self");
        let memfd = rustix::fs::memfd_create(
            "snakehouse-check",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        );
        Self {
            pidfd: rustix::process::pidfd_open(getpid(), PidfdFlags::empty()).is_ok(),
            memfd: memfd.is_ok(),
            proc: own.join("stat").is_file() && own.join("environ").is_file(),
            children_lists: thread.join("children").is_file(),
            cgroup_kill: cgroup_kill(),
            pid_namespace: namespaces_allowed(proc),
            limits: Limits::support(),
        }
    }
}

fn cgroup_kill() -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let files = roots.map(|root| PathBuf::from(format!("{root}{group}/cgroup.kill")));
    let writable = |file: &PathBuf| std::fs::OpenOptions::new().write(true).open(file).is_ok();
    files.into_iter().find(writable)
}

/// By the three switches that distributions have for it; one that is not there does not forbid.
fn namespaces_allowed(proc: &Path) -> bool {
    let number = |name: &str| -> Option<u64> {
        std::fs::read_to_string(proc.join("sys").join(name)).ok()?.trim().parse().ok()
    };
    number("user/max_user_namespaces").is_some_and(|most| most > 0)
        && number("user/max_pid_namespaces").is_some_and(|most| most > 0)
        && number("kernel/unprivileged_userns_clone").is_none_or(|allowed| allowed != 0)
        && number("kernel/apparmor_restrict_unprivileged_userns").is_none_or(|forbids| forbids == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_proc_is_seen() {
        let proc = tempfile::tempdir().unwrap();
        let kernel = Kernel::look_in(proc.path());
        assert!(!kernel.proc && !kernel.children_lists && !kernel.pid_namespace);
        assert!(Kernel::look().proc);
    }

    #[test]
    fn each_switch_can_forbid_namespaces() {
        let proc = tempfile::tempdir().unwrap();
        let set = |name: &str, value: &str| {
            let path = proc.path().join("sys").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, value).unwrap();
        };
        set("user/max_user_namespaces", "100\n");
        set("user/max_pid_namespaces", "100\n");
        assert!(namespaces_allowed(proc.path()));
        for (name, forbids, allows) in [
            ("user/max_user_namespaces", "0\n", "9\n"),
            ("kernel/unprivileged_userns_clone", "0\n", "1\n"),
            ("kernel/apparmor_restrict_unprivileged_userns", "1\n", "0\n"),
        ] {
            set(name, forbids);
            assert!(!namespaces_allowed(proc.path()), "{name}");
            set(name, allows);
            assert!(namespaces_allowed(proc.path()), "{name}");
        }
    }
}
