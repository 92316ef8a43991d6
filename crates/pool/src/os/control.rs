//! The host's end of a worker's control socket.
//!
//! It is watched for reading only. A socket that is watched for room as well wakes whoever waits for an
//! answer each time the other end takes something: once in every small call, for nothing, on both sides'
//! time. Room is watched for only after a write that did not fit, and for a while after that.
//!
//! Reading and writing fail as the socket does, which is as good as its end. Tested below, and by every
//! test with a worker.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::unix::pipe;

/// After so many writes that fitted, room is no longer watched for.
const FITTING: u32 = 256;

const FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// One end of a socket pair, for frames.
#[derive(Debug)]
pub(crate) struct Control {
    /// Not a pipe: the type reads any descriptor, and watches it for nothing else.
    socket: pipe::Receiver,
    /// A duplicate that is watched for room, if writes did not fit of late.
    room: Option<AsyncFd<OwnedFd>>,
    /// The last write did not fit.
    is_full: bool,
    /// Writes in a row that fitted.
    fitting: u32,
}

impl Control {
    /// Two ends, this one and another one that blocks. Must run inside a tokio runtime.
    pub(crate) fn pair() -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let socket = pipe::Receiver::from_owned_fd_unchecked(ours.into())?;
        Ok((Self { socket, room: None, is_full: false, fitting: 0 }, theirs))
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        send: impl Fn(BorrowedFd<'_>) -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.is_full {
                // What it says may be old: it is asked again if there is no room after all.
                ready!(self.room()?.poll_write_ready(cx))?.clear_ready();
                self.is_full = false;
            }
            match send(self.socket.as_fd()) {
                Err(Errno::AGAIN) => (self.is_full, self.fitting) = (true, 0),
                Err(error) => return Poll::Ready(Err(error.into())),
                Ok(sent) => {
                    self.fitting = self.fitting.saturating_add(1);
                    if self.fitting == FITTING {
                        self.room = None;
                    }
                    return Poll::Ready(Ok(sent));
                }
            }
        }
    }

    #[expect(
        deprecated,
        reason = "the other way is unsafe, for types that may close what they lend; an OwnedFd does not"
    )]
    fn room(&mut self) -> io::Result<&AsyncFd<OwnedFd>> {
        let room = match self.room.take() {
            Some(room) => room,
            None => {
                let socket = self.socket.as_fd().try_clone_to_owned()?;
                AsyncFd::with_interest(socket, Interest::WRITABLE)?
            }
        };
        Ok(self.room.insert(room))
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsyncRead for Control {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Control {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |socket| rustix::net::send(socket, bytes, FLAGS))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |socket| {
            rustix::net::sendmsg(socket, pieces, &mut SendAncillaryBuffer::default(), FLAGS)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&self.socket, Shutdown::Write).map_err(Into::into))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        snakehouse_supervise::run(test)
    }

    fn registered(pair: (Control, UnixStream)) -> (Control, tokio::net::UnixStream) {
        pair.1.set_nonblocking(true).unwrap();
        (pair.0, tokio::net::UnixStream::from_std(pair.1).unwrap())
    }

    #[test]
    fn what_does_not_fit_is_written_when_there_is_room() {
        run(async {
            let (mut ours, mut theirs) = registered(Control::pair().unwrap());
            let sent: Vec<u8> =
                (0..4 << 20).map(|n: u32| n.to_le_bytes()[n as usize % 3]).collect();
            for _ in 0..2 {
                let mut got = vec![0; sent.len()];
                let (written, read) =
                    tokio::join!(ours.write_all(&sent), theirs.read_exact(&mut got));
                written.unwrap();
                read.unwrap();
                assert_eq!(got, sent);
                assert!(ours.room.is_some(), "it did not fit");
            }
        });
    }

    #[test]
    fn room_is_watched_for_only_for_a_while() {
        run(async {
            let (mut ours, mut theirs) = registered(Control::pair().unwrap());
            let (filled, mut count) = (vec![7; 64 << 10], 0);
            let full = poll_fn(|cx| {
                while let Poll::Ready(sent) = Pin::new(&mut ours).poll_write(cx, &filled) {
                    count += sent.unwrap();
                }
                Poll::Ready(ours.is_full)
            });
            assert!(full.await);
            theirs.read_exact(&mut vec![0; count]).await.unwrap();
            for _ in 0..FITTING {
                assert!(ours.room.is_some());
                ours.write_all(b"short").await.unwrap();
                theirs.read_exact(&mut [0; 5]).await.unwrap();
            }
            assert!(ours.room.is_none());
            ours.write_all(b"short").await.unwrap();
            theirs.read_exact(&mut [0; 5]).await.unwrap();
        });
    }

    #[test]
    fn pieces_are_written_together_and_an_end_is_told() {
        run(async {
            let (mut ours, mut theirs) = registered(Control::pair().unwrap());
            let pieces = [IoSlice::new(b"two "), IoSlice::new(b"pieces")];
            assert_eq!(ours.write_vectored(&pieces).await.unwrap(), 10);
            ours.shutdown().await.unwrap();
            let mut got = String::new();
            theirs.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, "two pieces");
            theirs.write_all(b"answer").await.unwrap();
            drop(theirs);
            got.clear();
            ours.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, "answer");
            assert_eq!(ours.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        });
    }
}
