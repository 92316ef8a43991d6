//! The pool's side: where workers of other hosts come in.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use snakehouse_base::{ByteSize, Coded, Kind};
use snakehouse_guard::{Permit, Permits};
use snakehouse_wire::page::HostPage;
use snakehouse_wire::{FrameError, frame_heads, whole_frames};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;

use crate::death::{Death, KillReason};
use crate::os::Control;
use crate::reaper::{Hold, Process};
use crate::worker::Birth;

use super::Farewell;
use super::tether::{Line, Tether};

/// How long a worker that the pool wants dead may take to say its last word.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Room for a read.
const READ_ROOM: usize = 64 * 1024;

/// Where workers of other hosts are offered, and where a pool takes them from. Cheap to clone.
///
/// For [`WorkerSpec::attached`](crate::WorkerSpec::attached). One pool takes from it.
#[derive(Clone)]
pub struct Attachments {
    shared: Arc<Shared>,
}

struct Shared {
    most: usize,
    /// Of those that are attached, one each.
    places: Permits,
    /// Those that no place of the pool has yet, at most as many as there are permits.
    arrivals: Mutex<VecDeque<Process>>,
    /// Another one is there.
    arrived: Notify,
}

/// Why a worker is not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// As many are attached as the pool takes.
    #[error("{most} workers are attached, and the pool takes no more")]
    Full {
        /// How many it takes.
        most: usize,
    },
    /// No local socket could be made for it.
    #[error("no socket for the worker: {0}")]
    Socket(io::Error),
}

impl Coded for AttachError {
    fn kind(&self) -> Kind {
        match self {
            Self::Full { .. } => Kind::Saturated,
            Self::Socket(_) => Kind::Environment,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Full { .. } => "too_many_attached",
            Self::Socket(_) => "attach_socket",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Full { .. } => "raise the pool's number of workers, or end one".to_owned(),
            Self::Socket(_) => "the system may be out of descriptors or memory".to_owned(),
        })
    }
}

impl Attachments {
    /// Lets `most` workers in at once, at least 1: as many as the pool has
    /// [workers](crate::PoolConfig::workers) and spare ones.
    ///
    /// # Panics
    /// Never.
    pub fn new(most: usize) -> Self {
        let most = most.max(1);
        let places = Permits::counted(most).expect("it is at least one");
        let (arrivals, arrived) = (Mutex::default(), Notify::new());
        Self { shared: Arc::new(Shared { most, places, arrivals, arrived }) }
    }

    /// Offers a worker to the pool; `peer` is where it runs, for people. It serves once the pool has a
    /// place for it and it has said hello.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(&self, peer: &str) -> Result<Attached, AttachError> {
        let full = AttachError::Full { most: self.shared.most };
        let place = self.shared.places.try_acquire(ByteSize(1)).ok_or(full)?;
        let (ours, theirs) = Control::pair().map_err(AttachError::Socket)?;
        theirs.set_nonblocking(true).map_err(AttachError::Socket)?;
        let theirs = UnixStream::from_std(theirs).map_err(AttachError::Socket)?;
        let page = HostPage::create().map_err(AttachError::Socket)?;
        let line = Arc::new(Line::default());
        let (exited, exit) = oneshot::channel();
        let process = Process {
            pid: 0,
            birth: Birth::Attached { peer: peer.to_owned() },
            hold: Hold::Attached(Tether::new(line.clone())),
            control: ours,
            page,
            buffers: None,
            output: None,
            exited: exit,
        };
        let mut arrivals = self.arrivals();
        // Those that went again while no place was free.
        arrivals.retain(|process| !process.hold.is_lost());
        arrivals.push_back(process);
        drop(arrivals);
        self.shared.arrived.notify_one();
        let (read, write) = theirs.into_split();
        let from_pool = FromPool { line: line.clone(), read, buffer: BytesMut::new() };
        let to_pool = ToPool { line, write: Some(write), exited: Some(exited), _place: place };
        Ok(Attached { from_pool, to_pool })
    }

    /// How many workers are attached.
    pub fn attached(&self) -> usize {
        self.shared.places.in_flight().0
    }

    /// Waits for the next worker that is still there. Cancel safe.
    pub(crate) async fn next(&self) -> Process {
        loop {
            let first = self.arrivals().pop_front();
            match first {
                Some(process) if process.hold.is_lost() => {}
                Some(process) => return process,
                None => self.shared.arrived.notified().await,
            }
        }
    }

    /// Takes the next worker by hand, for a program that is no pool. Cancel safe.
    pub async fn take(&self) -> Taken {
        Taken { process: self.next().await }
    }

    fn arrivals(&self) -> MutexGuard<'_, VecDeque<Process>> {
        // Nothing panics while it is held.
        self.shared.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Attachments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { most, .. } = &*self.shared;
        f.debug_struct("Attachments").field("most", most).finish_non_exhaustive()
    }
}

/// A worker that no pool has. Dropping it ends the worker.
#[derive(Debug)]
pub struct Taken {
    process: Process,
}

impl Taken {
    /// Where it speaks frames, as every worker does.
    pub fn socket(&mut self) -> &mut (impl AsyncRead + AsyncWrite + Send + Unpin + use<>) {
        &mut self.process.control
    }

    /// Waits for its end. Cancel safe.
    pub async fn death(&mut self) -> Death {
        self.process.hold.dead().await;
        (&mut self.process.exited).await.unwrap_or(Death::Unknown)
    }
}

/// A worker that was let in: the two directions, to be used by two tasks or by one.
#[derive(Debug)]
pub struct Attached {
    /// What the pool says.
    pub from_pool: FromPool,
    /// What the worker says.
    pub to_pool: ToPool,
}

/// What an attached worker is to be told next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolSays {
    /// Whole frames for the worker, at most [`MAX_FRAMES`](snakehouse_wire::MAX_FRAMES) bytes.
    Frames(Bytes),
    /// Calls that nobody wants any more. Their cancel frames come in their order; this is for the
    /// worker's host, which need not wait until the worker has read everything before them.
    Cancels(Vec<u32>),
}

/// What the pool says to an attached worker.
#[derive(Debug)]
pub struct FromPool {
    line: Arc<Line>,
    read: OwnedReadHalf,
    buffer: BytesMut,
}

impl FromPool {
    /// What comes next; `None` when the worker is to be killed, or is gone. Cancels come before
    /// frames, and frames only with `room` for them: so a worker that reads nothing holds up nothing
    /// but its frames. Cancel safe.
    pub async fn next(&mut self, room: bool) -> Option<PoolSays> {
        loop {
            if self.line.kill.is_cancelled() || self.line.gone.is_cancelled() {
                return None;
            }
            let cancels = self.line.take_cancels();
            if !cancels.is_empty() {
                return Some(PoolSays::Cancels(cancels));
            }
            let frames = if room { whole_frames(&mut self.buffer) } else { Ok(None) };
            match frames {
                Ok(None) => {}
                Ok(Some(frames)) => return Some(PoolSays::Frames(frames)),
                Err(error) => {
                    tracing::error!(%error, "the pool's own frames are broken");
                    return None;
                }
            }
            self.buffer.reserve(READ_ROOM);
            tokio::select! {
                biased;
                () = self.line.kill.cancelled() => return None,
                () = self.line.gone.cancelled() => return None,
                cancels = self.line.next_cancels() => return Some(PoolSays::Cancels(cancels)),
                read = self.read.read_buf(&mut self.buffer), if room => {
                    if !read.is_ok_and(|read| read > 0) {
                        return None;
                    }
                }
            }
        }
    }
}

/// What an attached worker says to the pool. Dropping it is the loss of the connection: nobody knows
/// then what the worker had started.
#[derive(Debug)]
pub struct ToPool {
    line: Arc<Line>,
    write: Option<OwnedWriteHalf>,
    exited: Option<oneshot::Sender<Death>>,
    _place: Permit,
}

impl ToPool {
    /// Passes whole frames on. Waits while the pool is behind, but not once it wants the worker dead:
    /// it may read nothing more then. `false` when the pool wants nothing more from the worker.
    ///
    /// # Errors
    /// [`FrameError`] if these are no whole frames; nothing of them went on then.
    pub async fn put(&mut self, frames: &Bytes) -> Result<bool, FrameError> {
        frame_heads(frames, |_| ())?;
        let Some(write) = &mut self.write else { return Ok(false) };
        let is_taken = tokio::select! {
            biased;
            written = write.write_all(frames) => written.is_ok(),
            () = self.line.kill.cancelled() => false,
        };
        if !is_taken {
            // A part of a frame may be there; nothing comes after it.
            self.write = None;
        }
        Ok(is_taken)
    }

    /// Ends when the pool has wanted the worker dead for as long as a last word may take. Make it
    /// once: every new one counts anew.
    pub fn overdue(&self) -> impl Future<Output = ()> + Send + use<> {
        let line = self.line.clone();
        async move {
            line.kill.cancelled().await;
            sleep(LAST_WORD).await;
        }
    }

    /// The worker is dead.
    pub fn end(mut self, farewell: Farewell) {
        self.over(farewell);
    }

    /// What came were no whole frames, or it came out of place: nothing more of it is read.
    pub fn broken(mut self, how: impl Into<String>) {
        let death = Death::Killed(KillReason::Garbage(how.into()));
        self.over(Farewell { death, started: None });
    }

    /// Nobody knows what became of the worker, but for `why` that is.
    pub fn lost(mut self, why: impl Into<String>) {
        let death = Death::LinkLost { why: why.into() };
        self.over(Farewell { death, started: None });
    }

    fn over(&mut self, farewell: Farewell) {
        if let Some(exited) = self.exited.take() {
            // A connection that is gone knows its own cause.
            let _ = exited.send(farewell.death.clone());
            let _ = self.line.farewell.set(farewell);
            // What was written comes before the end.
            drop(self.write.take());
            self.line.gone.cancel();
        }
    }
}

impl Drop for ToPool {
    fn drop(&mut self) {
        let death = Death::LinkLost { why: "the connection was dropped".to_owned() };
        self.over(Farewell { death, started: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_cannot_come_in_is_told_why() {
        let error = AttachError::Socket(io::ErrorKind::OutOfMemory.into());
        assert_eq!((error.kind(), error.code()), (Kind::Environment, "attach_socket"));
        assert!(error.hint().is_some_and(|hint| hint.contains("descriptors")));
    }

    #[tokio::test]
    async fn a_pool_that_wants_a_worker_dead_and_reads_nothing_holds_up_nobody() {
        let attachments = Attachments::new(1);
        let Attached { mut to_pool, .. } = attachments.attach("elsewhere").unwrap();
        let process = attachments.next().await;
        // A pong of the longest kind, more than a socket holds.
        let long = u32::try_from(snakehouse_wire::MAX_CHUNK).unwrap().to_le_bytes();
        let body = vec![0; snakehouse_wire::MAX_CHUNK];
        let frames = Bytes::from([&long[..], &[9, 0, 0, 0, 0], &body].concat());
        let put = async { to_pool.put(&frames).await };
        let kill = async {
            // By then the socket is full: the frame is longer than it.
            tokio::task::yield_now().await;
            process.hold.kill().unwrap();
        };
        let (put, ()) = tokio::join!(put, kill);
        assert!(!put.unwrap());
        assert!(!to_pool.put(&frames).await.unwrap(), "nothing comes after a part of a frame");
        to_pool.end(Farewell { death: Death::Unknown, started: None });
        assert!(process.hold.is_lost());
    }
}
