//! Large bytes beside the control socket: shared buffers out, lent results in.
//!
//! Owns the socket on which descriptors travel, the list of the shared buffers that the worker was
//! given, and the worker's ring. All of it ends with the connection, so nothing of a dead worker stays
//! lent. Nothing here waits: a packet either fits into the socket or the call is held and the
//! worker is asked to read, and the worker sends its ring before it lends from it. Tested with real
//! workers in `tests/it/buffers.rs`.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use snakehouse_wire::Value;
use snakehouse_wire::buffer::{HostRing, SharedBuffer, SharedWatch, forget_packet, is_lent};

use super::sent::SentCalls;
use crate::os;

/// Shared buffers that a worker keeps mapped, beside those that its calls need; the oldest goes first.
const MAX_KNOWN: usize = Value::MAX_BUFFERS;

/// The host's end of a worker's buffers; of none, if the worker has no socket for them.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    socket: Option<OwnedFd>,
    known: VecDeque<SharedWatch>,
    ring: Option<Arc<HostRing>>,
    /// Whether a ping for the socket's sake is on its way.
    is_asked: bool,
}

impl Buffers {
    pub(super) fn new(socket: Option<OwnedFd>) -> Self {
        Self { socket, ..Self::default() }
    }

    /// Sees to it that the worker has, or is about to get, these buffers. Those that a call among
    /// `sent` names stay, however many that are.
    ///
    /// # Errors
    /// The worker has no socket for them; or that is full, and the worker is to be
    /// [asked](Self::must_ask) to read.
    pub(super) fn announce(
        &mut self,
        buffers: &[SharedBuffer],
        sent: &SentCalls,
    ) -> io::Result<()> {
        if buffers.is_empty() {
            return Ok(());
        }
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let known: HashSet<_> = self.known.iter().map(SharedWatch::number).collect();
        let fresh = buffers.iter().filter(|buffer| !known.contains(&buffer.number()));
        let fresh: Vec<_> = fresh.collect();
        // Those that nobody else holds any more, and the oldest if there are too many.
        let mut spare = (self.known.len() + fresh.len()).saturating_sub(MAX_KNOWN);
        let needed: HashSet<_> = match spare {
            0 => HashSet::new(),
            _ => sent.buffers().chain(buffers).map(SharedBuffer::number).collect(),
        };
        let mut takes_packets = true;
        self.known.retain(|known| {
            let is_old = spare > 0 && !needed.contains(&known.number());
            if !takes_packets || !(is_old || known.is_gone()) {
                return true;
            }
            // One that it does not hear of is still to be forgotten, the next time.
            takes_packets = os::send_packet(socket, &forget_packet(known.number()), &[]).is_ok();
            spare -= usize::from(takes_packets && spare > 0);
            !takes_packets
        });
        for buffer in fresh {
            os::send_packet(socket, &buffer.packet(), &[buffer.as_fd()])?;
            self.known.push_back(buffer.watch());
        }
        Ok(())
    }

    /// Whether the worker is to be asked, by a ping, to read what is in the socket. Asked once until it
    /// has [answered](Self::answered).
    pub(super) fn must_ask(&mut self) -> bool {
        !std::mem::replace(&mut self.is_asked, true)
    }

    /// The worker has read it.
    pub(super) fn answered(&mut self) {
        self.is_asked = false;
    }

    /// Where a lent body is.
    ///
    /// # Errors
    /// What the worker did wrong.
    pub(super) fn lender(&mut self) -> Result<Arc<HostRing>, String> {
        self.ring().cloned()
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

    fn ring(&mut self) -> Result<&Arc<HostRing>, String> {
        let ring = match self.ring.take() {
            Some(ring) => ring,
            None => Arc::new(self.take_ring()?),
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
