//! Calls that wait for the worker to read descriptors of shared buffers.
//!
//! About 270 packets fit into that socket, and a worker that is busy with a call reads none. A call
//! whose buffers do not fit is held, and so is every call behind it, since calls start in their order.
//! The worker is pinged: it empties the socket before it answers, and then the calls go out. Held are no
//! more calls than are sent ahead. Tested with real workers in `tests/it/buffers.rs`.

use snakehouse_wire::Message;
use tokio::time::Instant;

use crate::call::Call;
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
        if let Some(at) = self.held.iter().position(|call| call.ticket == ticket) {
            self.held.remove(at);
            self.refused.push(ticket);
            // The place that it had is free, which the dispatcher hears with the next exchange.
            self.shared.bells[self.place].notify_one();
        }
    }

    fn ask_to_read(&mut self) {
        if self.buffers.must_ask() {
            self.output.put(Message::Ping { token: 0 });
        }
    }
}
