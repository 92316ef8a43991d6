//! A socket that carries whole messages and descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// More descriptors than any message of ours carries.
const MAX_FDS: usize = 8;

/// One end of a sequenced-packet pair, for use with tokio.
#[derive(Debug)]
pub(crate) struct Seqpacket(AsyncFd<OwnedFd>);

impl Seqpacket {
    /// A pair: this end, and a blocking one to hand to another process. Both close on exec.
    /// Must run inside a tokio runtime.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = packet_pair()?;
        Ok((Self::adopt(ours)?, theirs))
    }

    /// Takes a socket that does not block.
    #[expect(
        deprecated,
        reason = "the other way is unsafe, for types that may close what they lend; an OwnedFd does not"
    )]
    fn adopt(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(AsyncFd::new(fd)?))
    }

    /// Sends one message. Cancel safe: it is sent as a whole or not at all.
    pub(crate) async fn send(&self, data: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, |fd| send_packet(fd, data, fds)).await
    }

    /// Receives one message of at most `buffer.len()` bytes: its length, and its descriptors, all
    /// close-on-exec. Length 0 is the end. Cancel safe.
    ///
    /// # Errors
    /// `InvalidData` for a longer message.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        self.0.async_io(Interest::READABLE, |fd| receive_all(fd, buffer)).await
    }
}

/// A pair of sockets; this end does not block, the other does. Both close on exec.
pub(crate) fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// Sends one message, as a whole or not at all.
pub(crate) fn send_packet(to: &OwnedFd, data: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(to, &[IoSlice::new(data)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message: its length, and its descriptor if it has one.
///
/// # Errors
/// `InvalidData` for a longer message, or one of several descriptors.
pub(crate) fn receive_packet(
    of: &OwnedFd,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let (len, mut fds) = receive_all(of, buffer)?;
    let fd = fds.pop();
    if fds.is_empty() { Ok((len, fd)) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn receive_all(of: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(
        of,
        &mut [IoSliceMut::new(buffer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((got.bytes, fds))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[tokio::test]
    async fn a_descriptor_arrives_and_closes_on_exec() {
        let (ours, theirs) = Seqpacket::pair().unwrap();
        let (read, write) = crate::os::pipe().unwrap();
        ours.send(b"here", &[write.as_fd()]).await.unwrap();
        drop(write);

        rustix::io::ioctl_fionbio(&theirs, true).unwrap();
        let theirs = Seqpacket::adopt(theirs).unwrap();
        let mut buffer = [0; 16];
        let (length, fds) = theirs.receive(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"here");
        let flags = rustix::io::fcntl_getfd(&fds[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));

        rustix::io::write(&fds[0], b"through").unwrap();
        let mut through = [0; 7];
        rustix::io::read(&read, &mut through).unwrap();
        assert_eq!(&through, b"through");

        drop(ours);
        assert_eq!(theirs.receive(&mut buffer).await.unwrap().0, 0);
    }

    #[tokio::test]
    async fn a_message_too_long_for_the_buffer_is_refused_not_cut() {
        let (ours, theirs) = Seqpacket::pair().unwrap();
        rustix::io::ioctl_fionbio(&theirs, true).unwrap();
        let theirs = Seqpacket::adopt(theirs).unwrap();
        ours.send(b"more than four", &[]).await.unwrap();
        let error = theirs.receive(&mut [0; 4]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
