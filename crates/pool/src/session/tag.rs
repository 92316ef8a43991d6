//! What the handles of a session, its calls and the pool have in common.

use std::sync::{Arc, OnceLock};

use snakehouse_supervise::CancellationToken;

use crate::call::CallError;

use super::options::{Affinity, SessionEnd, SessionOptions};

/// Where names are found: those of one space are nothing to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space(pub(crate) u32);

impl Space {
    /// That of the pool's own program.
    pub(crate) const HOST: Self = Self(0);
}

/// One session, from its creation to its end. A session that is re-created is another one.
#[derive(Debug)]
pub(crate) struct Tag {
    /// Never given to another session of the pool.
    pub(crate) id: u64,
    /// Where its record is, as long as there is one.
    pub(crate) slot: u32,
    /// Where its name is found.
    pub(crate) space: Space,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) options: SessionOptions,
    end: OnceLock<SessionEnd>,
    over: CancellationToken,
}

impl Tag {
    pub(crate) fn new(
        id: u64,
        slot: u32,
        (space, name): (Space, Option<Arc<str>>),
        options: SessionOptions,
    ) -> Arc<Self> {
        let (end, over) = (OnceLock::new(), CancellationToken::new());
        Arc::new(Self { id, slot, space, name, options, end, over })
    }

    /// Whether its calls go to its worker and nowhere else.
    pub(crate) fn is_strict(&self) -> bool {
        self.options.affinity != Affinity::Hint
    }

    /// It takes no more calls. Only the first end counts.
    pub(crate) fn finish(&self, end: SessionEnd) {
        let _ = self.end.set(end);
        self.over.cancel();
    }

    /// How it ended, if it has.
    pub(crate) fn end(&self) -> Option<&SessionEnd> {
        self.end.get()
    }

    /// Waits for the end. Cancel safe.
    pub(crate) async fn ended(&self) -> SessionEnd {
        self.over.cancelled().await;
        self.end.get().cloned().unwrap_or(SessionEnd::Closed)
    }

    /// What its calls are told after its end.
    pub(crate) fn refusal(&self) -> CallError {
        match self.end.get().cloned().unwrap_or(SessionEnd::Closed) {
            SessionEnd::Lost { worker, cause } => {
                let (worker, incarnation) = (worker.id, worker.incarnation);
                CallError::SessionLost { worker, incarnation, cause }
            }
            end => CallError::SessionEnded { end },
        }
    }

    /// For people: its name, or `#` and its number.
    pub(crate) fn label(&self) -> String {
        match &self.name {
            Some(name) => name.to_string(),
            None => format!("#{}", self.id),
        }
    }
}
