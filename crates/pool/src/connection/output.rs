//! What is to be written to a worker: small messages behind each other, large bodies where they are.
//!
//! Owns the bytes until the socket has them. What it holds is bounded by what the pool gives a worker:
//! calls by the window, items by their credits, answers of host tools by their room, pongs and refusals by
//! limits of their own.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use snakehouse_wire::{Message, OpenHead};
use tokio::io::AsyncWrite;

use crate::os::Control;

/// Bodies below this are copied behind their head; larger ones are written from where they are.
const COPY_BELOW: usize = 32 * 1024;

/// Room for small messages that is kept when they are written.
const KEEP_BELOW: usize = 256 * 1024;

/// Pieces in one write.
const MAX_PIECES: usize = 64;

/// The bytes on their way out.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// Small messages, one behind the other; they go out after `pieces`, from here if there are none.
    small: BytesMut,
    pieces: VecDeque<Bytes>,
    /// Bytes that were ever put, and those of them that the socket has.
    put: u64,
    written: u64,
}

impl Output {
    /// Adds a call. A small body is copied; the call keeps its own.
    pub(super) fn open(&mut self, stream: u32, head: OpenHead, body: &Bytes) {
        match body.len() < COPY_BELOW {
            true => Message::encode_open(stream, &head, body, &mut self.small),
            false => self.put(Message::Open { stream, head, body: body.clone() }),
        }
    }

    /// Adds a message behind everything else.
    pub(super) fn put(&mut self, message: Message) {
        match &message {
            Message::Open { body, .. }
            | Message::Item { body, .. }
            | Message::CallbackReply { body, .. }
                if body.len() >= COPY_BELOW =>
            {
                self.close_small();
                for segment in message.segments() {
                    let (head, body) = (Bytes::copy_from_slice(segment.head()), segment.body());
                    self.put += (head.len() + body.len()) as u64;
                    self.pieces.push_back(head);
                    self.pieces.push_back(body.clone());
                }
            }
            _ => {
                let before = self.small.len();
                message.encode(&mut self.small);
                self.put += (self.small.len() - before) as u64;
            }
        }
    }

    /// Where the last message ends, counted from the first one's beginning.
    pub(super) const fn end(&self) -> u64 {
        self.put
    }

    /// How much of it the socket has.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Writes as much as the socket takes. Ready when there is nothing left; else the task is woken
    /// when the socket takes more.
    ///
    /// # Errors
    /// Whatever the socket says: the worker is gone.
    pub(super) fn poll_write(
        &mut self,
        mut socket: &mut Control,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.pieces.is_empty() {
            // All of it in one write.
            self.close_small();
            let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
            let mut count = 0;
            for (piece, bytes) in pieces.iter_mut().zip(&self.pieces) {
                *piece = IoSlice::new(bytes);
                count += 1;
            }
            let mut written =
                ready!(Pin::new(&mut socket).poll_write_vectored(cx, &pieces[..count]))?;
            self.written += written as u64;
            while let Some(first) = self.pieces.front_mut() {
                if first.len() > written {
                    first.advance(written);
                    break;
                }
                written -= first.len();
                self.pieces.pop_front();
            }
        }
        while !self.small.is_empty() {
            let written = ready!(Pin::new(&mut socket).poll_write(cx, &self.small))?;
            self.written += written as u64;
            self.small.advance(written);
        }
        // What one large batch needed is not kept for ever.
        match self.small.capacity() > KEEP_BELOW {
            true => self.small = BytesMut::new(),
            false => self.small.clear(),
        }
        Poll::Ready(Ok(()))
    }

    fn close_small(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_answers_of_host_tools_are_written_from_where_they_are() {
        let mut output = Output::default();
        let body = Bytes::from(vec![7; COPY_BELOW]);
        output.put(Message::CallbackReply { callback: 1, body: body.clone() });
        assert_eq!(output.pieces.back().map(|piece| piece.as_ptr()), Some(body.as_ptr()));
        assert_eq!(output.end(), (9 + body.len()) as u64);
        output.put(Message::CallbackReply { callback: 2, body: body.slice(..10) });
        assert_eq!((output.pieces.len(), output.small.len()), (2, 19));
        assert_eq!((output.end(), output.written()), ((28 + body.len()) as u64, 0));
    }
}
