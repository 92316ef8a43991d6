//! How a connection ends: with the worker's death, its cause, and the calls that it had.

use std::time::Duration;

use snakehouse_base::id::Incarnation;
use tokio::time::timeout;

use crate::call::{Call, CallError};
use crate::death::{Death, KillReason};
use crate::dispatcher::{Unstarted, worker_id};
use crate::pool::Shared;

use super::Connection;
use super::copies::Copies;

/// The exit status comes a fraction of a millisecond after the death, but on a machine where the reaper has
/// to wait for its turn. Callers wait for it, so not for ever.
const STATUS_WITHIN: Duration = Duration::from_secs(1);

/// After the end of the socket the process is dead within this, or it is killed.
const DEAD_WITHIN: Duration = Duration::from_millis(100);

/// What a dead worker's socket can still hold is less than this.
const READ_AFTER_DEATH: usize = 16 * 1024 * 1024;

/// What a dead worker had.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) failed: Vec<(Call, CallError)>,
    pub(crate) unstarted: Unstarted,
    /// Results that it had given.
    pub(crate) copies: Late,
}

/// What a dead worker had answered and is still in its slots: there, whatever became of it. To be finished
/// after the others were told.
#[derive(Debug, Default)]
pub(crate) struct Late {
    copies: Copies,
    lost: Option<CallError>,
}

impl Late {
    /// Copies what there is, in a task of the pool's.
    pub(crate) fn finish(self, shared: &Shared) {
        let Some(lost) = self.lost.filter(|_| !self.copies.is_empty()) else { return };
        // The scope joins it; if it takes none, the pool is stopped.
        drop(shared.late.task("copies", self.copies.finish(shared.copier.clone(), lost)));
    }
}

impl Connection<'_> {
    /// Whether it ever started a call. That calls were sent to it says nothing about the worker.
    pub(crate) fn was_of_use(&self) -> bool {
        self.has_answered || self.process.started(true).is_some_and(|started| started != 0)
    }

    /// The calls that the dead worker had: those that fail with it, and those that it never started.
    /// If it ran none, the first one that waited may be what ended it, and is marked.
    pub(crate) fn settle(mut self, incarnation: Incarnation, death: &Death) -> Settled {
        let worker = worker_id(self.place);
        let started = self.process.started(self.tells_started);
        let mut settled = Settled::default();
        let (sent, mut ran_one) = (self.sent.take_all(started), false);
        for (sent, has_started) in sent {
            ran_one |= has_started;
            let Some(call) = sent.call else {
                if !has_started {
                    settled.unstarted.cancelled.push(sent.ticket);
                }
                continue;
            };
            let cause = death.clone();
            match started {
                Some(_) if !has_started => settled.unstarted.calls.push(call),
                Some(_) => settled.failed.push((
                    call,
                    CallError::WorkerDied { worker, incarnation, started: true, cause },
                )),
                None => settled
                    .failed
                    .push((call, CallError::OutcomeUnknown { worker, incarnation, cause })),
            }
        }
        settled.unstarted.calls.extend(self.held.drain(..));
        let lost =
            CallError::WorkerDied { worker, incarnation, started: true, cause: death.clone() };
        let lose = |call| (call, lost.clone());
        settled.failed.extend(self.copies.take_lost().into_iter().map(lose));
        settled.copies = Late { copies: self.copies, lost: Some(lost) };
        if !ran_one
            && *death != Death::ReaperDied
            && let Some(first) = settled.unstarted.calls.first_mut()
        {
            first.deaths += 1;
        }
        settled
    }

    /// What a worker that was killed by its host had still answered: those calls have their results,
    /// and are neither lost nor run again. Nothing that broke the protocol is read on.
    pub(super) async fn read_last_words(&mut self) {
        if let Some(KillReason::CancelIgnored | KillReason::Stop | KillReason::ClosedSocket) =
            self.kill
        {
            let reason = self.kill.take();
            self.process.hold.dead().await;
            self.read_the_rest();
            self.kill = reason;
        }
    }

    /// What the worker wrote before it went.
    pub(super) fn read_the_rest(&mut self) {
        self.handle_all();
        let mut most = READ_AFTER_DEATH;
        while let Some(got) = self.input.read_now(&self.process.control)
            && self.kill.is_none()
        {
            self.handle_all();
            most = most.saturating_sub(got);
            if most == 0 {
                return;
            }
        }
    }

    pub(super) fn kill_for(&mut self, reason: KillReason) {
        tracing::warn!(worker = %worker_id(self.place), pid = self.process.pid, %reason, "worker killed");
        if let Err(error) = self.process.hold.kill() {
            tracing::error!(pid = self.process.pid, %error, "worker not killed");
        }
        self.kill.get_or_insert(reason);
    }

    /// The socket is closed from the other side: the process is about to be dead, or must be.
    pub(super) async fn expect_death(&mut self) {
        if timeout(DEAD_WITHIN, self.process.hold.dead()).await.is_err() {
            self.kill_for(KillReason::ClosedSocket);
        }
    }

    /// Waits for the death, then briefly for the exit status.
    pub(super) async fn death(&mut self) -> Death {
        self.process.hold.dead().await;
        let status = timeout(STATUS_WITHIN, &mut self.process.exited).await;
        match (self.kill.take(), status) {
            (Some(reason), _) => Death::Killed(reason),
            (None, Ok(Ok(death))) => death,
            // The loop that would have reported it is gone.
            (None, Ok(Err(_gone))) => Death::ReaperDied,
            (None, Err(_elapsed)) => Death::Unknown,
        }
    }
}
