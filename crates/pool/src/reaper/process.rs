//! A worker process, as it comes from the reaper.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::task::Context;

use snakehouse_wire::page::HostPage;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::attach::Tether;
use crate::death::Death;
use crate::limits::Limits;
use crate::os::{self, Control, Pidfd};
use crate::variables::Variables;
use crate::worker::Birth;

use super::message::Zygote;

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    /// Absolute path of the program, then its arguments.
    pub(crate) argv: Vec<String>,
    /// The whole environment.
    pub(crate) env: Variables,
    /// Where; `None` is where the host is.
    pub(crate) cwd: Option<PathBuf>,
    /// What it may use.
    pub(crate) limits: Limits,
    /// What can fork it.
    pub(crate) zygote: Option<Zygote>,
}

/// A running worker. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    /// 0 on another host.
    pub(crate) pid: u32,
    pub(crate) birth: Birth,
    pub(crate) hold: Hold,
    pub(crate) control: Control,
    pub(crate) page: HostPage,
    /// For the descriptors of buffers; only if it was asked for.
    pub(crate) buffers: Option<OwnedFd>,
    pub(crate) output: Option<(pipe::Receiver, pipe::Receiver)>,
    /// The reaper's report; an error if the reaper is gone.
    pub(crate) exited: oneshot::Receiver<Death>,
}

/// What a worker is held by.
#[derive(Debug)]
pub(crate) enum Hold {
    /// A process of this host.
    Process(Pidfd),
    /// On another host, at the other end of the control socket.
    Attached(Tether),
}

impl Hold {
    /// Returns when the worker is dead, or nothing more is known of it. Cancel safe.
    pub(crate) async fn dead(&self) {
        match self {
            Self::Process(pidfd) => pidfd.dead().await,
            Self::Attached(tether) => tether.dead().await,
        }
    }

    /// Whether it is dead; if not, the task is woken when it is.
    pub(crate) fn poll_dead(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Process(pidfd) => pidfd.poll_dead(cx),
            Self::Attached(tether) => tether.poll_dead(cx),
        }
    }

    /// Whether it is on another host, and gone.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Attached(tether) if tether.is_dead())
    }

    /// Ends it, or has it ended. One that is gone is fine.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match self {
            Self::Process(pidfd) => pidfd.kill(),
            Self::Attached(tether) => {
                tether.kill();
                Ok(())
            }
        }
    }

    /// Rings again for a cancel. On another host that is the business of whoever is there.
    pub(crate) fn ring(&self) -> io::Result<()> {
        match self {
            Self::Process(pidfd) => pidfd.ring(),
            Self::Attached(_) => Ok(()),
        }
    }
}

impl Process {
    /// Whether this host and the worker look at one page.
    pub(crate) const fn shares_page(&self) -> bool {
        matches!(self.hold, Hold::Process(_))
    }

    /// Tells the worker of a cancel, past whatever its socket holds. `hears` is whether it listens for
    /// the doorbell; the agent of one on another host knows that itself.
    pub(crate) fn cancel(&self, stream: u32, hears: bool) -> io::Result<()> {
        match &self.hold {
            Hold::Process(pidfd) => {
                self.page.cancel(stream)?;
                if hears { pidfd.ring() } else { Ok(()) }
            }
            Hold::Attached(tether) => {
                tether.cancel(stream);
                Ok(())
            }
        }
    }

    /// The call that the worker started last, 0 before the first; `claimed` is whether it says so in
    /// its page. `None` if nobody knows.
    pub(crate) fn started(&self, claimed: bool) -> Option<u32> {
        match &self.hold {
            Hold::Process(_) => self.page.started().ok().filter(|_| claimed),
            Hold::Attached(tether) => tether.started(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing happens if it is dead. Its group and what it left are the reaper's.
        if let Err(error) = self.hold.kill() {
            tracing::error!(pid = self.pid, %error, "worker not killed");
        }
    }
}

/// The host's ends and the worker's ends of everything that joins them.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) control: Control,
    pub(super) page: HostPage,
    pub(super) buffers: Option<OwnedFd>,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
    /// While the host holds this, the worker's process group lives.
    pub(super) lifeline: OwnedFd,
    /// In the order of the request: control, page, lifeline, stdout, stderr, and buffers if asked
    /// for.
    pub(super) theirs: Vec<OwnedFd>,
}

impl Ends {
    /// With a socket for buffers if the worker is told of one.
    pub(super) fn new(with_buffers: bool) -> io::Result<Self> {
        let (buffers, their_buffers) = match with_buffers {
            true => os::packet_pair().map(|(ours, theirs)| (Some(ours), Some(theirs)))?,
            false => (None, None),
        };
        let (control, their_control) = Control::pair()?;
        let (their_lifeline, lifeline) = os::pipe()?;
        let (stdout, their_stdout) = os::pipe()?;
        let (stderr, their_stderr) = os::pipe()?;
        let page = HostPage::create()?;
        let their_page = page.as_fd().try_clone_to_owned()?;
        Ok(Self {
            control,
            page,
            buffers,
            stdout: pipe::Receiver::from_owned_fd(stdout)?,
            stderr: pipe::Receiver::from_owned_fd(stderr)?,
            lifeline,
            theirs: [their_control.into(), their_page, their_lifeline, their_stdout, their_stderr]
                .into_iter()
                .chain(their_buffers)
                .collect(),
        })
    }
}
