//! Calls that wait for the worker to read descriptors of shared buffers.
//!
//! About 270 packets fit into that socket, and a worker that is busy with a call reads none. A call
//! whose buffers do not fit is held, and so is every call behind it, since calls start in their order.
//! The worker is pinged: it empties the socket before it answers, and then the calls go out. Held are no
//! more calls than are sent ahead. A held stream ends at its deadline, like one that was sent, also if
//! its caller does not look. Tested with real workers in `tests/it/buffers.rs`.

use snakehouse_wire::Message;
use tokio::time::Instant;

use crate::call::{Call, CallError, Where};
use crate::dispatcher::Ticket;

use super::Connection;

impl Connection<'_> {
    /// Sends a call unless others are held, or it has to be.
    pub(super) fn send_or_hold(&mut self, call: Call, now: Instant) {
        let back = match self.held.is_empty() {
            true => self.send(call, now),
            false => Some(call),
        };
        if let Some(call) = back {
            self.held.push_back(call);
            self.ask_to_read();
        }
    }

    /// The worker has read what was in the socket.
    pub(super) fn send_held(&mut self) {
        self.buffers.answered();
        let now = Instant::now();
        while let Some(call) = self.held.pop_front() {
            if let Some(call) = self.send(call, now) {
                self.held.push_front(call);
                return self.ask_to_read();
            }
        }
    }

    /// A caller is gone. What was held for it never reaches the worker.
    pub(super) fn cancel_held(&mut self, ticket: Ticket) {
        let at = self.held.iter().position(|call| call.ticket == ticket);
        at.and_then(|at| self.let_go(at));
    }

    /// When the next of them ends by itself.
    pub(super) fn held_deadline(&self) -> Option<Instant> {
        self.held.iter().filter_map(ends_by_itself).min()
    }

    /// Ends those whose time is over.
    pub(super) fn end_held(&mut self, now: Instant) {
        let is_over = |call: &Call| ends_by_itself(call).is_some_and(|at| at <= now);
        while let Some(at) = self.held.iter().position(is_over) {
            if let Some(call) = self.let_go(at) {
                call.finish(Err(CallError::Deadline { at: Where::Queue }));
            }
        }
    }

    /// What is held does not go to the worker.
    fn let_go(&mut self, at: usize) -> Option<Call> {
        let call = self.held.remove(at)?;
        self.refused.push(call.ticket);
        // The place that it had is free, which the dispatcher hears with the next exchange.
        self.shared.bells[self.place].notify_one();
        Some(call)
    }

    fn ask_to_read(&mut self) {
        if self.buffers.must_ask() {
            self.output.put(Message::Ping { token: 0 });
        }
    }
}

/// The deadline of a stream. The callers of other calls see to theirs.
fn ends_by_itself(call: &Call) -> Option<Instant> {
    call.options.deadline.instant().filter(|_| call.is_stream()).map(Instant::from)
}
