//! How an incarnation of a worker ended.

use std::fmt;

/// Why a worker is dead. Decided by the kernel's words, never by a text or a timer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Death {
    /// It ended by itself.
    Exited {
        /// Its exit status.
        code: i32,
    },
    /// A signal ended it that was not ours.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// The pool killed it.
    Killed(KillReason),
    /// The reaper died, and everything below it was ended.
    ReaperDied,
    /// It is gone, and nobody learned how.
    Unknown,
}

/// Why the pool killed a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KillReason {
    /// It did not say hello in time.
    NoHello,
    /// Its hello does not fit this version.
    BadHello(String),
    /// It said that it cannot serve: a module that cannot be imported, say.
    Refused(String),
    /// It sent something that is no frame, or a frame that is out of place.
    Garbage(String),
    /// It closed its control socket and lived on.
    ClosedSocket,
    /// A cancelled call did not come back within the grace.
    CancelIgnored,
    /// The pool stopped and the worker did not.
    Stop,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "it exited with status {code}"),
            Self::Signalled { signal } => match signal_name(*signal) {
                Some(name) => write!(f, "signal {name} ended it"),
                None => write!(f, "signal {signal} ended it"),
            },
            Self::Killed(reason) => write!(f, "killed because {reason}"),
            Self::ReaperDied => f.write_str("the reaper above it died"),
            Self::Unknown => f.write_str("it is gone and its exit status is not known"),
        }
    }
}

impl fmt::Display for KillReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHello => f.write_str("it did not say hello in time"),
            Self::BadHello(why) => write!(f, "its hello does not fit: {why}"),
            Self::Refused(why) => write!(f, "it cannot serve: {why}"),
            Self::Garbage(why) => write!(f, "it broke the protocol: {why}"),
            Self::ClosedSocket => f.write_str("it closed its control socket"),
            Self::CancelIgnored => f.write_str("a cancelled call did not return"),
            Self::Stop => f.write_str("the pool stopped"),
        }
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        31 => "SIGSYS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_reads_after_the_worker_s_name() {
        assert_eq!(Death::Signalled { signal: 11 }.to_string(), "signal SIGSEGV ended it");
        assert_eq!(Death::Signalled { signal: 64 }.to_string(), "signal 64 ended it");
        assert_eq!(
            Death::Killed(KillReason::CancelIgnored).to_string(),
            "killed because a cancelled call did not return"
        );
    }
}
