//! Ends what a run left behind.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;
use snakehouse_base::id::RunToken;

use crate::os::{self, ControlGroups, Environ};

/// Marks every process of a run, in its environment.
pub const RUN_ENV: &str = "SNAKEHOUSE_RUN";

/// A process that makes new ones faster than this many looks is not ended by looking again.
const MAX_PASSES: usize = 64 + BLANK_PASSES;

/// How often a process in the middle of `execve` is looked at again, and how long after. That takes a
/// fraction of a millisecond, and more on a machine that has more to do than it can.
const BLANK_PASSES: usize = 500;
const BLANK_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// How long killed processes may take to be gone before the next look. A big one takes 50 ms/GiB.
const SETTLE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// A process that a sweep ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
    /// Its command line, for people, cut to 200 characters.
    pub command: String,
}

/// Kills every process that carries this run token in its environment, this process apart, and
/// says which. Removes the control groups of the run that are empty then.
///
/// Looks again until nothing is found, so what a process started in between is found too. Each
/// process is held by a pidfd and its start time is checked before the signal: a pid that meanwhile
/// belongs to another process is left alone. Not found are processes of other users, and those
/// that replaced their whole environment.
///
/// Blocks: about 0.3 ms per 100 processes of the machine, up to the death of what it killed, and up
/// to 1 s for processes that are in the middle of `execve`.
pub fn sweep(token: &RunToken) -> Vec<Ended> {
    let entry = format!("{RUN_ENV}={token}").into_bytes();
    let own = std::process::id();
    let mut ended: HashMap<(u32, u64), Ended> = HashMap::new();
    let mut blank_passes = 0;
    for _ in 0..MAX_PASSES {
        let mut dying = Vec::new();
        let mut blank = false;
        for pid in os::pids().unwrap_or_default() {
            if pid == own {
                continue;
            }
            match os::environ(pid, &entry) {
                Environ::Has => {
                    let found = os::start_time(pid).and_then(|start| kill(pid, start, &entry));
                    match found {
                        Some((found, pidfd)) => {
                            ended.insert((found.pid, found.start), found);
                            dying.push(pidfd);
                        }
                        // Gone, or it has begun an `execve` since.
                        None => blank = true,
                    }
                }
                Environ::Blank => blank = true,
                Environ::HasNot => {}
            }
        }
        if !dying.is_empty() {
            wait_until_dead(&dying);
        } else if blank && blank_passes < BLANK_PASSES {
            blank_passes += 1;
            // An error only means that the next look is sooner.
            let _paused = rustix::event::poll(&mut [], Some(&BLANK_PAUSE));
        } else {
            break;
        }
    }
    ControlGroups::find().remove_of_run(token.as_str());
    let mut ended: Vec<_> = ended.into_values().collect();
    ended.sort_by_key(|found| (found.start, found.pid));
    ended
}

/// Kills a process that was seen with this entry, if it still is the one that started then.
fn kill(pid: u32, start: u64, entry: &[u8]) -> Option<(Ended, OwnedFd)> {
    let pidfd = os::open_pidfd(pid).ok()?;
    // The pidfd names whoever had the pid a moment ago: only now is that known to be the one that
    // was looked at.
    if os::start_time(pid) != Some(start) || os::environ(pid, entry) != Environ::Has {
        return None;
    }
    let command = os::command(pid);
    os::signal_to(pidfd.as_fd(), Signal::KILL).ok()?;
    Some((Ended { pid, start, command }, pidfd))
}

fn wait_until_dead(dying: &[OwnedFd]) {
    for pidfd in dying {
        // An error or a passed bound only means that the next look finds it again.
        let _settled = rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&SETTLE));
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_processes_with_the_token_are_ended() {
        let token = RunToken::fresh();
        let sleeper = |token: &RunToken| {
            Command::new("sleep").arg("600").env(RUN_ENV, token.as_str()).spawn().unwrap()
        };
        let mut marked = sleeper(&token);
        let mut other = sleeper(&RunToken::fresh());

        let ended = sweep(&token);

        assert_eq!(ended.iter().map(|e| e.pid).collect::<Vec<_>>(), [marked.id()]);
        assert_eq!(ended[0].command, "sleep 600");
        assert!(!marked.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none(), "a process of another run was ended");
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(sweep(&token), []);
    }

    /// A pid that another process has got since it was seen, marked or not.
    #[test]
    fn a_later_owner_of_a_pid_is_left_alone() {
        let token = RunToken::fresh();
        let entry = format!("{RUN_ENV}={token}").into_bytes();
        let mut sleeper =
            Command::new("sleep").arg("600").env(RUN_ENV, token.as_str()).spawn().unwrap();
        let pid = sleeper.id();
        let start = os::start_time(pid).unwrap();
        while os::environ(pid, &entry) == Environ::Blank {}
        assert!(kill(pid, start - 1, &entry).is_none(), "started at another time");
        let other = format!("{RUN_ENV}={}", RunToken::fresh()).into_bytes();
        assert!(kill(pid, start, &other).is_none(), "without the mark");
        assert!(sleeper.try_wait().unwrap().is_none());
        assert!(kill(pid, start, &entry).is_some(), "the same one");
        assert!(!sleeper.wait().unwrap().success());
        assert!(kill(pid, start, &entry).is_none(), "gone");
    }

    #[test]
    fn a_process_that_was_given_no_environment_is_not_waited_for() {
        let mut bare = Command::new("sleep").arg("600").env_clear().spawn().unwrap();
        while os::environ(bare.id(), b"A=b") == Environ::Blank {}
        assert_eq!(os::environ(bare.id(), b"A=b"), Environ::HasNot);
        bare.kill().unwrap();
        bare.wait().unwrap();
    }

    #[test]
    fn processes_that_left_their_session_are_found() {
        let token = RunToken::fresh();
        let mut shell = Command::new("sh")
            .args(["-c", "setsid sh -c 'sleep 600 & sleep 600' & echo started; wait"])
            .env(RUN_ENV, token.as_str())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = shell.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
        // Everything that the shell starts carries the token, however far it has got.
        assert!(!sweep(&token).is_empty());
        shell.wait().unwrap();
        assert_eq!(sweep(&token), []);
    }
}
