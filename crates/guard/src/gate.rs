//! Waiting for admission: the asynchronous shell that permits and dispatch share.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::admission::{Admission, Charge, Limits, Ticket};
use crate::event;
use crate::sync::{Mutex, MutexGuard, lock};

/// The right to run one request. Dropping it, in whatever way, gives it back.
#[must_use = "a permit that is dropped at once guards nothing"]
pub struct Permit {
    gate: Arc<Gate>,
    charge: Option<Charge>,
}

pub(crate) struct Gate {
    core: Mutex<Admission<oneshot::Sender<Permit>>>,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { core: Mutex::new(Admission::new(limits)) })
    }

    pub(crate) fn try_enter(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let charge = lock(&self.core).try_admit(bytes)?;
        event::permit_admitted(bytes);
        Some(self.permit(charge))
    }

    /// First come, first served; nothing but the grant wakes the waiter.
    pub(crate) async fn enter(self: &Arc<Self>, bytes: u64) -> Permit {
        let (waiter, before) = {
            let mut core = lock(&self.core);
            if let Some(charge) = core.try_admit(bytes) {
                drop(core);
                event::permit_admitted(bytes);
                return self.permit(charge);
            }
            let before = core.waiting();
            let (grant, granted) = oneshot::channel();
            let ticket = core.enqueue(bytes, grant);
            (Waiter { gate: self.clone(), ticket, granted }, before)
        };
        event::permit_waiting(bytes, before);
        let permit = waiter.await;
        event::permit_granted();
        permit
    }

    pub(crate) fn set_limits(self: &Arc<Self>, limits: Limits) {
        let mut core = lock(&self.core);
        core.set_limits(limits);
        self.grant(core);
    }

    pub(crate) fn in_flight(&self) -> (usize, u64) {
        lock(&self.core).in_flight()
    }

    pub(crate) fn waiting(&self) -> usize {
        lock(&self.core).waiting()
    }

    fn permit(self: &Arc<Self>, charge: Charge) -> Permit {
        Permit { gate: self.clone(), charge: Some(charge) }
    }

    /// Hands out whatever fits now.
    fn grant(self: &Arc<Self>, mut core: MutexGuard<'_, Admission<oneshot::Sender<Permit>>>) {
        let mut granted = Vec::new();
        while let Some(grant) = core.next() {
            granted.push(grant);
        }
        // A waiter that has just left drops its permit here, which takes the lock again.
        drop(core);
        for (waiter, charge) in granted {
            let _left = waiter.send(self.permit(charge));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(charge) = self.charge.take() {
            let mut core = lock(&self.gate.core);
            core.release(&charge);
            self.gate.grant(core);
            event::permit_released();
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("charge", &self.charge).finish_non_exhaustive()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = lock(&self.core);
        f.debug_struct("Gate")
            .field("in_flight", &core.in_flight())
            .field("waiting", &core.waiting())
            .finish_non_exhaustive()
    }
}

/// Leaves the queue when dropped; a permit that was granted meanwhile gives itself back.
struct Waiter {
    gate: Arc<Gate>,
    ticket: Ticket,
    granted: oneshot::Receiver<Permit>,
}

impl Future for Waiter {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        match Pin::new(&mut self.granted).poll(cx) {
            Poll::Ready(Ok(permit)) => Poll::Ready(permit),
            // The sender lives in the queue until it grants or this waiter leaves.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut core = lock(&self.gate.core);
        let left = core.cancel(self.ticket);
        if left.is_some() {
            // It may have stood before others that fit.
            self.gate.grant(core);
            event::permit_left();
        }
    }
}
