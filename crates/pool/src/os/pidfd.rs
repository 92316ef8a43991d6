//! A process that cannot be mistaken for another.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A pidfd: names one process for ever, tells when it is dead, carries signals to it.
#[derive(Debug)]
pub(crate) struct Pidfd(AsyncFd<OwnedFd>);

impl Pidfd {
    /// Opens the process with this pid. Must run inside a tokio runtime.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        Self::adopt(open(pid)?)
    }

    /// Takes a pidfd that came from elsewhere. Must run inside a tokio runtime.
    #[expect(
        deprecated,
        reason = "the other way is unsafe, for types that may close what they lend; an OwnedFd does not"
    )]
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(AsyncFd::with_interest(fd, Interest::READABLE)?))
    }

    /// Returns when the process is dead. Cancel safe.
    pub(crate) async fn dead(&self) {
        // The readiness is never cleared: a dead process stays dead. An error means that the
        // runtime is going down, which nobody can wait out.
        if self.0.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the process is dead; if not, the task is woken when it is.
    pub(crate) fn poll_dead(&self, cx: &mut Context<'_>) -> bool {
        matches!(self.0.poll_read_ready(cx), Poll::Ready(Ok(_)))
    }

    /// SIGKILL. A process that is gone is fine.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// SIGURG: tells the worker to look at its page. A process that is gone is fine.
    pub(crate) fn ring(&self) -> io::Result<()> {
        self.signal(Signal::URG)
    }

    /// SIGCONT. A process that is gone, or was not stopped, is fine.
    pub(crate) fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        signal_to(self.0.get_ref().as_fd(), signal)
    }
}

/// A pidfd without a runtime.
pub(crate) fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Sends a signal; a process that is gone is fine.
pub(crate) fn signal_to(fd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(fd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
