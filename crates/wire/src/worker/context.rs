//! What a handler knows about the call it runs.

use std::sync::{Arc, Mutex, PoisonError};

use snakehouse_base::Deadline;

use super::cancel::Cancels;
use crate::trace::TraceContext;

/// The call's deadline, session and trace, and whether it is still wanted.
#[derive(Clone, Debug)]
pub struct CallContext {
    pub(super) stream: u32,
    pub(super) deadline: Deadline,
    pub(super) session: u64,
    pub(super) trace: TraceContext,
    pub(super) cancels: Arc<Mutex<Cancels>>,
}

impl CallContext {
    /// The call's number on this connection.
    pub fn stream(&self) -> u32 {
        self.stream
    }

    /// When the caller stops waiting, on this process's clock.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The session that the call belongs to, if any.
    pub fn session(&self) -> Option<u64> {
        (self.session != 0).then_some(self.session)
    }

    /// The trace that the call belongs to, and the host's span of the call.
    pub fn trace(&self) -> TraceContext {
        self.trace
    }

    /// Whether the caller has given up. Long calls ask now and then (one system call, under a
    /// microsecond) and return early; a call that does not ask simply runs to its end. Without a
    /// shared page it is always `false`.
    pub fn is_cancelled(&self) -> bool {
        let mut cancels = self.cancels.lock().unwrap_or_else(PoisonError::into_inner);
        cancels.is_cancelled(self.stream).unwrap_or(false)
    }
}
