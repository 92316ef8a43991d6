//! How sessions behave, and what others see of them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use snakehouse_base::ByteSize;

use crate::call::CallError;
use crate::death::{Death, KillReason};
use crate::worker::WorkerRef;

/// The longest name of a session, in bytes.
const MAX_NAME: usize = 256;

/// What a session's calls do when its worker is busy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Affinity {
    /// They wait for it. What they leave there is there for the next one, or the session is lost.
    #[default]
    Queue,
    /// They fail at once with [`CallError::WorkerBusy`] unless one of its places is free. The first
    /// call, which has no worker yet, waits for one like any call.
    FailFast,
    /// They go to another worker that has room. The session then prefers the worker that got a call
    /// last. Each worker keeps what was left there until the session ends, so that it is a cache:
    /// nothing is lost with a worker, and nothing is promised.
    Hint,
}

/// How a session behaves. It is said when the session is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// What its calls do when its worker is busy. Default [`Affinity::Queue`].
    pub affinity: Affinity,
    /// How long it lives after its last call has ended, or its name was looked up. `None` is the
    /// pool's [`ttl`](SessionLimits::ttl), and the default; `Duration::MAX` is for ever.
    pub ttl: Option<Duration>,
}

impl SessionOptions {
    /// With this affinity.
    #[must_use]
    pub const fn affinity(mut self, affinity: Affinity) -> Self {
        self.affinity = affinity;
        self
    }

    /// With this time to live.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// How many sessions a pool may have, and what each may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Sessions at once, those included that have no name or were lost and not re-created. One more
    /// is [`CallError::SessionQuota`]; a warning is logged at 80 %. Default 10,000.
    pub most: usize,
    /// How long a named session lives after its last use, unless it says otherwise. Default 3,600 s.
    pub ttl: Duration,
    /// Entries of one session's state in a Python worker. Default 1,000.
    pub state_entries: usize,
    /// Bytes of one session's state in a Python worker, as `snakehouse.session_state` measures
    /// them. Default 64 MiB.
    pub state_bytes: ByteSize,
    /// How long each hook of a session's end may run in a Python worker. Default 5 s.
    pub hooks_within: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            most: 10_000,
            ttl: Duration::from_secs(3600),
            state_entries: 1_000,
            state_bytes: ByteSize::mib(64),
            hooks_within: Duration::from_secs(5),
        }
    }
}

/// Why a session takes no more calls.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEnd {
    /// It was closed, or its pool was stopped before it had a worker.
    Closed,
    /// It was not used for as long as it lives.
    Expired,
    /// The incarnation that it was bound to is dead, or is being replaced and could wait no longer.
    Lost {
        /// The incarnation.
        worker: WorkerRef,
        /// How it died; [`KillReason::Recycled`] if it is being replaced.
        cause: Death,
    },
}

impl SessionEnd {
    /// A stable name: `closed`, `expired`, `worker_died` or `recycled`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Expired => "expired",
            Self::Lost { cause: Death::Killed(KillReason::Recycled), .. } => "recycled",
            Self::Lost { .. } => "worker_died",
        }
    }

    /// How its worker died, if that is what ended it.
    pub const fn death(&self) -> Option<&Death> {
        match self {
            Self::Lost { cause, .. } => Some(cause),
            Self::Closed | Self::Expired => None,
        }
    }
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "it was closed",
            Self::Expired => "it was not used for as long as it lives",
            Self::Lost { .. } => "its worker is gone",
        })
    }
}

/// One session at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Its number, which no other session of the pool ever has.
    pub id: u64,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// How it behaves.
    pub affinity: Affinity,
    /// The worker that it is bound to, or prefers. `None` before its first call.
    pub worker: Option<WorkerRef>,
    /// Why it takes no more calls, if it does not.
    pub end: Option<SessionEnd>,
    /// Its calls that are not over.
    pub open: usize,
    /// Its calls so far.
    pub calls: u64,
    /// How often it changed its worker; only with [`Affinity::Hint`].
    pub moves: u64,
    /// Since its last use; zero while a call of it is open.
    pub idle: Duration,
    /// Until it expires if it is not used; `None` is never.
    pub expires_in: Option<Duration>,
}

/// Whether a session may have this name.
pub(crate) fn check_name(name: &str) -> Result<(), CallError> {
    let rule = if name.is_empty() || name.len() > MAX_NAME {
        "it has 1 to 256 bytes"
    } else if name.chars().any(char::is_control) {
        "it has no control characters"
    } else if name.starts_with('#') {
        "`#` begins the numbers of sessions without a name"
    } else {
        return Ok(());
    };
    Err(CallError::BadSessionName { rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_rules() {
        for name in ["user-42", "a", "ünïcödé 7", &"x".repeat(256)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "#7", "a\nb", "\0", &"x".repeat(257)] {
            assert!(matches!(check_name(name), Err(CallError::BadSessionName { .. })), "{name}");
        }
    }
}
