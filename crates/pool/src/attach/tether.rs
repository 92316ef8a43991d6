//! What a pool holds a worker by whose process is on another host.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Context;

use snakehouse_supervise::CancellationToken;
use snakehouse_wire::page::CANCEL_SLOTS;
use tokio::sync::Notify;

use super::Farewell;

/// Cancels that wait to be passed on: as many as a page beside a worker holds. The frame of one that
/// is forgotten still comes.
const MOST_CANCELS: usize = CANCEL_SLOTS as usize;

/// What the pool's end and the carrier's end of one worker have in common.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The pool wants the worker dead.
    pub(super) kill: CancellationToken,
    /// The worker is gone, or nobody can tell any more.
    pub(super) gone: CancellationToken,
    pub(super) farewell: OnceLock<Farewell>,
    /// Calls that nobody wants any more, and that the worker is to hear of before its frames.
    cancels: Mutex<VecDeque<u32>>,
    /// There are cancels.
    cancelled: Notify,
}

impl Line {
    fn cancel(&self, stream: u32) {
        let mut cancels = self.cancels.lock().unwrap_or_else(PoisonError::into_inner);
        if cancels.len() == MOST_CANCELS {
            cancels.pop_front();
        }
        cancels.push_back(stream);
        drop(cancels);
        self.cancelled.notify_one();
    }

    /// The cancels that are there.
    pub(super) fn take_cancels(&self) -> Vec<u32> {
        let mut cancels = self.cancels.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *cancels).into()
    }

    /// Waits for cancels, and takes them. Cancel safe: they are taken with the last poll.
    pub(super) async fn next_cancels(&self) -> Vec<u32> {
        loop {
            let taken = self.take_cancels();
            if !taken.is_empty() {
                return taken;
            }
            self.cancelled.notified().await;
        }
    }
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

    /// Nobody wants the result of this call any more: told ahead of all frames that are on their way.
    pub(crate) fn cancel(&self, stream: u32) {
        self.line.cancel(stream);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_too_many_cancels_the_newest_are_kept() {
        let line = Line::default();
        let most = u32::try_from(MOST_CANCELS).unwrap();
        (1..=most + 5).for_each(|stream| line.cancel(stream));
        let told = line.next_cancels().await;
        assert_eq!((told.len(), told[0], told.last()), (MOST_CANCELS, 6, Some(&(most + 5))));
        line.cancel(7);
        assert_eq!(line.next_cancels().await, [7], "each is told once");
    }
}
