//! Whether the kernel killed a worker for want of memory.
//!
//! SIGKILL tells nobody who sent it. The kernel counts the processes that it kills for memory: in
//! the worker's own control group, if it has one, in the group that this host is in, and for the
//! machine. A worker that died of SIGKILL takes one count of the host's group (or the machine's,
//! where that group has no counter); if there is none to take, somebody else killed it.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::death::Oom;
use crate::os::{self, Group};

/// Counts that no death has taken yet. One per reaper, so that two deaths never take the same.
#[derive(Debug)]
pub(crate) struct OomCounter {
    path: PathBuf,
    seen: Mutex<u64>,
}

impl OomCounter {
    /// From now on.
    pub(crate) fn new() -> Self {
        Self::of(os::own_oom_counter())
    }

    fn of(path: PathBuf) -> Self {
        let seen = Mutex::new(os::oom_kills(&path).unwrap_or_default());
        Self { path, seen }
    }

    /// What there is to be said about a worker that SIGKILL ended. Reads a file or two.
    pub(crate) fn about(&self, group: Option<&Group>) -> Oom {
        if group.is_some_and(Group::was_out_of_memory) {
            return Oom::Group;
        }
        let now = os::oom_kills(&self.path).unwrap_or_default();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if now <= *seen {
            return Oom::No;
        }
        *seen += 1;
        Oom::Machine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_count_explains_one_death() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let say = |kills: u32| {
            let text = format!("oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n");
            std::fs::write(file.path(), text).unwrap();
        };
        say(4);
        let counter = OomCounter::of(file.path().to_owned());
        assert_eq!(counter.about(None), Oom::No, "those were before");
        say(6);
        assert_eq!(counter.about(None), Oom::Machine);
        assert_eq!(counter.about(None), Oom::Machine);
        assert_eq!(counter.about(None), Oom::No);
        std::fs::remove_file(file.path()).unwrap();
        assert_eq!(counter.about(None), Oom::No);
    }

    #[test]
    fn this_machine_has_a_counter() {
        assert!(os::oom_kills(&os::own_oom_counter()).is_some());
    }
}
