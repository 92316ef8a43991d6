//! What a worker says: bytes from its socket to frames and messages.
//!
//! Owns the bytes of unfinished frames and the pieces of unfinished bodies. Bodies are slices of the
//! read buffer, not copies. A short read is the end of what there is, and the socket is not asked
//! again before the kernel says that there is more.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use snakehouse_wire::{Assembler, Frame, FrameError, Message};
use tokio::io::AsyncReadExt;

use crate::os::Control;

/// Room for reads. Thousands of replies share it without a copy: the allocator tidies up whenever
/// something so large comes back to it, which must be rare.
const READ_ROOM: usize = 256 * 1024;

/// With less than this left, there is new room.
const LEAST_ROOM: usize = 16 * 1024;

/// The beginning of a frame that is shorter is moved for the sake of a longer read.
const MOVE_BELOW: usize = 4 * 1024;

/// Room for one read of what a dead worker left.
const LAST_ROOM: usize = 64 * 1024;

/// The bytes on their way in.
#[derive(Debug)]
pub(super) struct Input {
    bytes: BytesMut,
    /// Length of the last frame: likely that of the next.
    last: usize,
    assembler: Assembler,
}

impl Input {
    pub(super) fn new() -> Self {
        let assembler = Assembler::host(Assembler::DEFAULT_CAP);
        Self { bytes: BytesMut::new(), last: 0, assembler }
    }

    /// The next whole frame of what was read.
    ///
    /// # Errors
    /// What is wrong with it. There is no way on after that.
    pub(super) fn frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let missing = Frame::missing(&self.bytes);
        if missing > self.room() {
            // It has to move: to where more than its rest can be read.
            self.bytes.reserve(missing.max(READ_ROOM));
        }
        let frame = Frame::decode(&mut self.bytes)?;
        if let Some(frame) = &frame {
            self.last = frame.payload.len();
        }
        Ok(frame)
    }

    fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }

    /// The message that a frame completes.
    ///
    /// # Errors
    /// As [`Assembler::push`].
    pub(super) fn message(&mut self, frame: Frame) -> Result<Option<Message>, FrameError> {
        self.assembler.push(frame)
    }

    /// Reads once. Ready with the number of bytes; 0 is the end.
    ///
    /// # Errors
    /// Whatever the socket says, which is as good as its end.
    pub(super) fn poll_read(
        &mut self,
        socket: &mut Control,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let wanted = match self.bytes.len() {
            0 => self.last.clamp(LEAST_ROOM, READ_ROOM),
            1..MOVE_BELOW => LEAST_ROOM,
            _ => 1,
        };
        if self.room() < wanted {
            self.bytes.reserve(READ_ROOM);
        }
        // Dropping it half-way loses nothing: it reads when it is ready, or not at all.
        pin!(socket.read_buf(&mut self.bytes)).poll(cx)
    }

    /// Reads once what the kernel has, whatever the runtime has heard of it; `None` if there is
    /// nothing.
    pub(super) fn read_now(&mut self, socket: &Control) -> Option<usize> {
        let old = self.bytes.len();
        self.bytes.resize(old + LAST_ROOM, 0);
        let got = rustix::io::retry_on_intr(|| rustix::io::read(socket, &mut self.bytes[old..]));
        let got = got.unwrap_or(0);
        self.bytes.truncate(old + got);
        (got > 0).then_some(got)
    }
}
