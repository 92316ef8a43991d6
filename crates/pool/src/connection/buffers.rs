//! Large bytes beside the control socket: shared buffers out, lent results in.
//!
//! Owns the socket on which descriptors travel, the list of the shared buffers that the worker was
//! given, and the worker's ring. All of it ends with the connection, so nothing of a dead worker stays
//! lent. Nothing here waits: a packet either fits into the socket or the call fails, and the worker
//! sends its ring before it lends from it. Tested with real workers in `tests/it/buffers.rs`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;
use snakehouse_wire::buffer::{HostRing, SharedBuffer, SharedWatch, forget_packet, is_lent};

use crate::os;

/// Shared buffers that a worker keeps mapped at most; the oldest goes first.
const MAX_KNOWN: usize = 64;

/// The host's end of a worker's buffers; of none, if the worker has no socket for them.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    socket: Option<OwnedFd>,
    known: VecDeque<SharedWatch>,
    ring: Option<HostRing>,
}

impl Buffers {
    pub(super) fn new(socket: Option<OwnedFd>) -> Self {
        Self { socket, ..Self::default() }
    }

    /// Sees to it that the worker has, or is about to get, these buffers.
    ///
    /// # Errors
    /// The worker has no socket for them, or reads nothing from it.
    pub(super) fn announce(&mut self, buffers: &[SharedBuffer]) -> io::Result<()> {
        if buffers.is_empty() {
            return Ok(());
        }
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let is_asked_for = |number| buffers.iter().any(|buffer| buffer.number() == number);
        // Those that nobody else holds any more, and the oldest if there are too many.
        let mut spare = (self.known.len() + buffers.len()).saturating_sub(MAX_KNOWN);
        let mut dropped = Vec::new();
        self.known.retain(|known| {
            let is_old = spare > 0 && !is_asked_for(known.number());
            spare -= usize::from(is_old);
            let goes = is_old || known.is_gone();
            if goes {
                dropped.push(known.number());
            }
            !goes
        });
        for number in dropped {
            os::send_packet(socket, &forget_packet(number), &[])?;
        }
        for buffer in buffers {
            if self.known.iter().all(|known| known.number() != buffer.number()) {
                os::send_packet(socket, &buffer.packet(), &[buffer.as_fd()])?;
                self.known.push_back(buffer.watch());
            }
        }
        Ok(())
    }

    /// The whole body of one that may be lent; the slots are free again.
    ///
    /// # Errors
    /// What the worker did wrong.
    pub(super) fn fetch(&mut self, body: Bytes) -> Result<Bytes, String> {
        if !is_lent(&body) {
            return Ok(body);
        }
        self.ring()?.fetch(&body).map_err(|error| error.to_string())
    }

    /// Gives back what a body nobody waits for has lent.
    ///
    /// # Errors
    /// What the worker did wrong.
    pub(super) fn forget(&mut self, body: &Bytes) -> Result<(), String> {
        if !is_lent(body) {
            return Ok(());
        }
        self.ring()?.forget(body).map_err(|error| error.to_string())
    }

    fn ring(&mut self) -> Result<&HostRing, String> {
        let ring = match self.ring.take() {
            Some(ring) => ring,
            None => self.take_ring()?,
        };
        Ok(self.ring.insert(ring))
    }

    fn take_ring(&self) -> Result<HostRing, String> {
        let socket = self.socket.as_ref().ok_or("it lends without a socket for it")?;
        let mut packet = [0; 16];
        let (len, fd) = os::receive_packet(socket, &mut packet)
            .map_err(|error| format!("it lends from a ring that it did not send: {error}"))?;
        let fd = fd.ok_or("it sent a ring without a descriptor")?;
        HostRing::take(&packet[..len], fd).map_err(|error| error.to_string())
    }
}
