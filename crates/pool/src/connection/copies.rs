//! Large results on their way out of a worker's slots: copied in a lane of the pool, so that the
//! connection does other things meanwhile, and one after the other.
//!
//! Owns the calls that have been answered and whose bytes are still in slots. There are no more of them
//! than the ring has slots. Tested with real workers in `tests/it/buffers.rs`.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use snakehouse_supervise::{Lane, LaneError};
use snakehouse_wire::buffer::{HostRing, RingError};

use crate::call::{Call, CallError};

type Work<'a> =
    Pin<Box<dyn Future<Output = Result<Result<Bytes, RingError>, LaneError>> + Send + 'a>>;

/// Results that are being copied.
#[derive(Default)]
pub(super) struct Copies<'a> {
    running: Option<(Call, Work<'a>)>,
    waiting: VecDeque<(Call, Arc<HostRing>, Bytes)>,
    /// Their results cannot be had.
    lost: Vec<Call>,
}

/// A result that was copied.
pub(super) struct Copied {
    pub(super) call: Call,
    /// What is wrong with the worker, if the bytes are not there.
    pub(super) outcome: Result<Result<Bytes, CallError>, RingError>,
}

impl<'a> Copies<'a> {
    /// The call's result is this lent body.
    pub(super) fn add(&mut self, call: Call, ring: Arc<HostRing>, body: Bytes) {
        self.waiting.push_back((call, ring, body));
    }

    /// The bytes of this call are not where the worker said: it fails with the worker.
    pub(super) fn lose(&mut self, call: Call) {
        self.lost.push(call);
    }

    pub(super) fn take_lost(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.lost)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    /// The next one that is done. Pending also if there is none.
    pub(super) fn poll_next(&mut self, lane: &'a Lane, cx: &mut Context<'_>) -> Poll<Copied> {
        if self.running.is_none()
            && let Some((call, ring, body)) = self.waiting.pop_front()
        {
            self.running = Some((call, Box::pin(lane.run(move || ring.fetch(&body)))));
        }
        let Some((_, work)) = &mut self.running else { return Poll::Pending };
        let Poll::Ready(done) = work.as_mut().poll(cx) else { return Poll::Pending };
        let Some((call, _)) = self.running.take() else { return Poll::Pending };
        let outcome = match done {
            Ok(fetched) => fetched.map(Ok),
            // The pool stops.
            Err(_closed) => Ok(Err(CallError::Stopped)),
        };
        Poll::Ready(Copied { call, outcome })
    }
}

impl fmt::Debug for Copies<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copies").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}
