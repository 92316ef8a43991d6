//! What a pool holds a worker by whose process is on another host.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Context;

use snakehouse_supervise::CancellationToken;

use super::Farewell;

/// What the pool's end and the carrier's end of one worker have in common.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The pool wants the worker dead.
    pub(super) kill: CancellationToken,
    /// The worker is gone, or nobody can tell any more.
    pub(super) gone: CancellationToken,
    pub(super) farewell: OnceLock<Farewell>,
}

/// The pool's end: what a pidfd is for a process of this host.
pub(crate) struct Tether {
    line: Arc<Line>,
    /// Only to be sound for all threads: nobody ever waits for the lock.
    gone: Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Tether {
    pub(super) fn new(line: Arc<Line>) -> Self {
        let gone = Mutex::new(Box::pin(line.gone.clone().cancelled_owned()) as _);
        Self { line, gone }
    }

    /// Returns when the worker is gone. Cancel safe.
    pub(crate) async fn dead(&self) {
        self.line.gone.cancelled().await;
    }

    /// Whether the worker is gone; if not, the task is woken when it is.
    pub(crate) fn poll_dead(&mut self, cx: &mut Context<'_>) -> bool {
        let gone = self.gone.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.line.gone.is_cancelled() || gone.as_mut().poll(cx).is_ready()
    }

    /// Whether the worker is gone.
    pub(crate) fn is_dead(&self) -> bool {
        self.line.gone.is_cancelled()
    }

    /// Asks for the worker's end.
    pub(crate) fn kill(&self) {
        self.line.kill.cancel();
    }

    /// The call that it started last, once its host has said so.
    pub(crate) fn started(&self) -> Option<u32> {
        self.line.farewell.get().and_then(|farewell| farewell.started)
    }
}

impl fmt::Debug for Tether {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tether").field("line", &self.line).finish_non_exhaustive()
    }
}
