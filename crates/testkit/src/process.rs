//! Processes as `/proc` shows them, for tests of what must not survive.

use std::fs;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// A process: its pid together with its start time, so that a recycled pid is another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// The process id.
    pub pid: i32,
    /// Clock ticks since boot at its start.
    pub started: u64,
}

/// The fields of `/proc/<pid>/stat` this module needs.
struct Stat {
    state: char,
    parent: i32,
    started: u64,
}

impl Process {
    /// The process that has this pid now, zombies included.
    pub fn of_pid(pid: i32) -> Option<Self> {
        stat(pid).map(|stat| Self { pid, started: stat.started })
    }

    /// This test's own process.
    ///
    /// # Panics
    /// Without a readable `/proc`.
    pub fn current() -> Self {
        let pid = i32::try_from(std::process::id()).expect("Linux pids fit an i32");
        Self::of_pid(pid).expect("/proc shows the process that reads it")
    }

    /// Every living process whose environment, as it was at its start, has `key=value`.
    ///
    /// Processes of other users are invisible here and never match.
    pub fn with_env(key: &str, value: &str) -> Vec<Self> {
        let wanted = format!("{key}={value}");
        all_pids()
            .filter(|pid| {
                fs::read(format!("/proc/{pid}/environ")).is_ok_and(|env| {
                    env.split(|byte| *byte == 0).any(|pair| pair == wanted.as_bytes())
                })
            })
            .filter_map(Self::of_pid)
            .filter(Self::is_alive)
            .collect()
    }

    /// Its direct children, zombies included: a child nobody waited for is a leak too.
    pub fn children(&self) -> Vec<Self> {
        all_pids()
            .filter_map(|pid| stat(pid).map(|stat| (pid, stat)))
            .filter(|(_, stat)| stat.parent == self.pid)
            .map(|(pid, stat)| Self { pid, started: stat.started })
            .collect()
    }

    /// Everything below it in the process tree.
    pub fn descendants(&self) -> Vec<Self> {
        let mut found = Vec::new();
        let mut open = vec![*self];
        while let Some(process) = open.pop() {
            let children = process.children();
            open.extend(&children);
            found.extend(children);
        }
        found
    }

    /// Whether this very process runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        stat(self.pid)
            .is_some_and(|stat| stat.started == self.started && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Its command line, arguments separated by spaces; empty for a zombie.
    pub fn command(&self) -> String {
        let raw = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let words: Vec<_> = raw.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words.join(" ").trim_end().to_owned()
    }

    /// Bytes of memory that are resident now; 0 when it has gone.
    pub fn resident(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.pid)).unwrap_or_default();
        let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
        let page = u64::try_from(rustix::param::page_size()).unwrap_or_default();
        pages.filter(|_| self.is_alive()).unwrap_or_default() * page
    }

    /// Sends SIGKILL, if it still is this very process.
    pub fn kill(&self) {
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.is_alive()) {
            // It may be gone since; that is what was wanted.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Blocks until it has ended, woken by the kernel; for at most `bound`.
    ///
    /// # Panics
    /// When the bound has passed, with its command line.
    pub fn wait_gone(&self, bound: Duration) {
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.is_alive()) else { return };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        let bound_spec = Timespec::try_from(bound).expect("test bounds are short");
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        let woken = poll(&mut fds, Some(&bound_spec));
        assert!(
            matches!(woken, Ok(1..)) || !self.is_alive(),
            "process {} still runs after {bound:?}: {}",
            self.pid,
            self.command()
        );
    }
}

fn all_pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, a closing parenthesis included.
    let rest = &text[text.rfind(')')? + 2..];
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // Fields 3 and 4 are read; the start time is field 22.
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, started })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const BOUND: Duration = Duration::from_secs(30);

    #[test]
    fn a_child_is_found_by_its_environment_and_its_end_is_noticed() {
        let token = format!("probe-{}", std::process::id());
        let mut child = Command::new("sleep")
            .arg("600")
            .env("SNAKEHOUSE_PROBE", &token)
            .stdin(Stdio::null())
            .spawn()
            .expect("sleep starts");
        // The environment is readable once exec has happened.
        crate::wait_until("the child has executed", BOUND, || {
            Process::with_env("SNAKEHOUSE_PROBE", &token).len() == 1
        });
        let found = Process::with_env("SNAKEHOUSE_PROBE", &token)[0];
        assert_eq!(found.pid, i32::try_from(child.id()).unwrap());
        assert!(found.command().starts_with("sleep"));
        assert!(Process::current().descendants().contains(&found));

        found.kill();
        found.wait_gone(BOUND);
        assert!(!found.is_alive());
        assert!(Process::current().children().contains(&found), "a zombie is still a child");
        child.wait().expect("it can be waited for");
        assert!(Process::of_pid(found.pid).is_none_or(|other| other != found));
    }

    #[test]
    fn this_process_is_alive_and_a_recycled_pid_is_not() {
        let me = Process::current();
        assert!(me.is_alive());
        assert!(me.resident() > 1 << 20);
        assert!(!Process { started: me.started + 1, ..me }.is_alive());
    }
}
