//! How an incarnation of a worker ended.
//!
//! The cause comes from what the kernel says: the exit status that the reaper collected, the time on
//! the processors that it counted, and its counters of processes that were killed for memory. No
//! text and no timer decides. The table of all causes is tested in `tests/it/causes.rs`, with real
//! processes wherever a process can be made to end that way.

use std::fmt;
use std::time::Duration;

use rustix::process::Signal;

use crate::limits::Limits;

/// The exit status of a worker whose device failed (`EX_OSERR` of sysexits).
const DEVICE_FAULT: i32 = 71;

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
    /// It, or what it started, used more than [`Limits::memory`], and the kernel killed it.
    MemoryLimit,
    /// It was killed with SIGKILL, and the kernel's counter of processes that it killed for want of
    /// memory had risen: the machine's, or that of the container this host runs in. Another process
    /// may have been meant, so this is very likely and not certain.
    OutOfMemory,
    /// It used more processor time than [`Limits::cpu`].
    CpuLimit,
    /// It said, by its exit status 71, that its device failed: `DeviceFault` in Python.
    DeviceFault,
    /// The pool killed it.
    Killed(KillReason),
    /// The reaper died, and everything below it was ended.
    ReaperDied,
    /// It runs on another host, and the connection to that was lost. Whoever hosts it there ends it.
    LinkLost {
        /// What happened to the connection.
        why: String,
    },
    /// It is gone, and nobody learned how.
    Unknown,
}

/// What the kernel says about a process that ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// Its exit status, if it exited.
    pub(crate) code: Option<i32>,
    /// The signal that ended it, otherwise.
    pub(crate) signal: Option<i32>,
    /// Time on processors: its own, and that of children it waited for.
    pub(crate) cpu: Option<Duration>,
}

/// What the counters of kills for want of memory say about a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oom {
    /// Nothing.
    No,
    /// The worker's own group had one.
    Group,
    /// Some process of this machine or container was.
    Machine,
}

impl Death {
    /// The cause behind a status. `oom` is asked only about a SIGKILL.
    pub(crate) fn of(status: Status, limits: &Limits, oom: impl FnOnce() -> Oom) -> Self {
        const KILL: i32 = Signal::KILL.as_raw();
        const XCPU: i32 = Signal::XCPU.as_raw();
        let used_up = || limits.cpu.is_some_and(|cpu| status.cpu.is_some_and(|used| used >= cpu));
        match (status.code, status.signal) {
            (Some(DEVICE_FAULT), _) => Self::DeviceFault,
            (Some(code), _) => Self::Exited { code },
            (None, Some(XCPU)) if limits.cpu.is_some() => Self::CpuLimit,
            (None, Some(KILL)) => match oom() {
                Oom::Group => Self::MemoryLimit,
                // The kernel's second word, to a program that ignored the first.
                _ if used_up() => Self::CpuLimit,
                Oom::Machine => Self::OutOfMemory,
                Oom::No => Self::Signalled { signal: KILL },
            },
            (None, Some(signal)) => Self::Signalled { signal },
            (None, None) => Self::Unknown,
        }
    }

    /// A stable name of the cause, for counters and for programs: `segfault`, `memory_limit`,
    /// `cancel_ignored`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Exited { code: 0 } => "exit_ok",
            Self::Exited { .. } => "exit_error",
            Self::Signalled { signal } => match Signal::from_named_raw(*signal) {
                Some(Signal::SEGV) => "segfault",
                Some(Signal::ABORT) => "abort",
                Some(Signal::BUS) => "bus_error",
                Some(Signal::ILL) => "illegal_instruction",
                Some(Signal::FPE) => "arithmetic_fault",
                Some(Signal::SYS) => "forbidden_call",
                Some(Signal::KILL) => "killed",
                Some(Signal::TERM) => "terminated",
                _ => "signal",
            },
            Self::MemoryLimit => "memory_limit",
            Self::OutOfMemory => "out_of_memory",
            Self::CpuLimit => "cpu_limit",
            Self::DeviceFault => "device_fault",
            Self::Killed(reason) => reason.code(),
            Self::ReaperDied => "reaper_died",
            Self::LinkLost { .. } => "link_lost",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the worker's own code brought it about, so that it says something about the calls it
    /// ran: not an end that somebody else decided, and not one that nobody learned of.
    pub fn is_own_fault(&self) -> bool {
        match self {
            Self::Exited { .. } | Self::MemoryLimit | Self::CpuLimit => true,
            Self::Signalled { .. } => !matches!(self.code(), "killed" | "terminated"),
            Self::Killed(reason) => !matches!(reason, KillReason::Stop | KillReason::Recycled),
            Self::OutOfMemory
            | Self::DeviceFault
            | Self::ReaperDied
            | Self::LinkLost { .. }
            | Self::Unknown => false,
        }
    }
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
    /// It was replaced because of its age, its calls or its memory, and what it had was not done
    /// within [`Recycle::drain_within`](crate::Recycle::drain_within).
    Recycled,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "it exited with status {code}"),
            Self::Signalled { signal } => match signal_name(*signal) {
                Some(name) => write!(f, "signal {name} ended it"),
                None => write!(f, "signal {signal} ended it"),
            },
            Self::MemoryLimit => f.write_str("it used more memory than its limit"),
            Self::OutOfMemory => f.write_str("the kernel killed it for want of memory"),
            Self::DeviceFault => f.write_str("it said that its device failed"),
            Self::CpuLimit => f.write_str("it used more processor time than its limit"),
            Self::Killed(reason) => write!(f, "killed because {reason}"),
            Self::LinkLost { why } => write!(f, "the connection to its host was lost: {why}"),
            Self::ReaperDied => f.write_str("the reaper above it died"),
            Self::Unknown => f.write_str("it is gone and its exit status is not known"),
        }
    }
}

impl KillReason {
    /// A stable name, as [`Death::code`] gives it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoHello => "no_hello",
            Self::BadHello(_) => "bad_hello",
            Self::Refused(_) => "refused_to_serve",
            Self::Garbage(_) => "broke_protocol",
            Self::ClosedSocket => "closed_socket",
            Self::CancelIgnored => "cancel_ignored",
            Self::Stop => "stopped",
            Self::Recycled => "recycled",
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
            Self::Recycled => f.write_str("it was replaced and could be waited for no longer"),
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

    fn killed(cpu: u64, limit: Option<u64>, oom: Oom) -> Death {
        let status =
            Status { signal: Some(9), cpu: Some(Duration::from_secs(cpu)), ..Status::default() };
        let limits = Limits { cpu: limit.map(Duration::from_secs), ..Limits::default() };
        Death::of(status, &limits, || oom)
    }

    #[test]
    fn a_sigkill_has_as_many_meanings_as_senders() {
        assert_eq!(killed(5, None, Oom::No), Death::Signalled { signal: 9 });
        assert_eq!(killed(5, Some(9), Oom::No), Death::Signalled { signal: 9 });
        assert_eq!(killed(9, Some(9), Oom::No), Death::CpuLimit);
        assert_eq!(killed(9, Some(9), Oom::Machine), Death::CpuLimit);
        assert_eq!(killed(5, None, Oom::Group), Death::MemoryLimit);
        let death = killed(5, Some(9), Oom::Machine);
        assert_eq!((death.code(), death.is_own_fault()), ("out_of_memory", false));
    }

    #[test]
    fn a_status_without_a_word_is_unknown() {
        let death = Death::of(Status::default(), &Limits::default(), || unreachable!());
        assert_eq!((death.code(), death.is_own_fault()), ("unknown", false));
        let xcpu = Status { signal: Some(24), ..Status::default() };
        let death = Death::of(xcpu, &Limits::default(), || unreachable!());
        assert_eq!(death, Death::Signalled { signal: 24 }, "a limit that is not ours");
    }

    #[test]
    fn a_death_reads_after_the_worker_s_name() {
        assert_eq!(Death::Signalled { signal: 11 }.to_string(), "signal SIGSEGV ended it");
        assert_eq!(Death::Signalled { signal: 64 }.to_string(), "signal 64 ended it");
        assert_eq!(Death::Signalled { signal: 64 }.code(), "signal");
        assert_eq!(
            Death::Killed(KillReason::CancelIgnored).to_string(),
            "killed because a cancelled call did not return"
        );
    }
}
