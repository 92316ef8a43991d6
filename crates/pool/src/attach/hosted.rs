//! The worker's side: a process of this host that serves in a pool elsewhere.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use snakehouse_base::id::{Incarnation, WorkerId};
use snakehouse_supervise::Scope;
use snakehouse_wire::page::HostPage;
use snakehouse_wire::{Frame, FrameKind, Hello, Message, Value, frame_heads, whole_frames};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use crate::connection::Cancels;
use crate::death::{Death, KillReason};
use crate::error::PoolError;
use crate::output::{Output, Stream};
use crate::reaper::{Hold, Process, Reaper};
use crate::spec::WorkerSpec;

use super::Farewell;

/// Room for a read.
const READ_ROOM: usize = 64 * 1024;

/// After the end of its socket the worker is dead within this, or it is killed.
const DEAD_WITHIN: Duration = Duration::from_millis(100);

/// The exit status comes a fraction of a millisecond after the death.
const STATUS_WITHIN: Duration = Duration::from_millis(100);

/// How long what a killed worker had said may take to go out.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A worker of this host that serves in a pool elsewhere. Dropping it kills it, and nothing below it
/// is left.
///
/// It is started as its [`WorkerSpec`] says, but for shared buffers, which cannot travel. What it
/// prints goes to the log.
#[derive(Debug)]
pub struct Hosted {
    process: Process,
}

impl Hosted {
    /// Starts it below this host's reaper, within this time. The scope owns what reads its output.
    ///
    /// # Errors
    /// [`PoolError`] as for a worker of a pool here.
    pub async fn start(
        scope: &Scope,
        reaper: &Reaper,
        spec: &WorkerSpec,
        within: Duration,
    ) -> Result<Self, PoolError> {
        let worker = WorkerId(0);
        let command = spec
            .hosted_command(&reaper.python_worker())
            .map_err(|message| PoolError::Spawn { worker, message })?;
        let mut process = reaper.spawn(worker, command, within).await?;
        if let Some((stdout, stderr)) = process.output.take() {
            // Nobody waits for them: they end with the worker's pipes, or with the scope.
            let first = Incarnation(1);
            let capture = Output::default().capture(worker, first, Stream::Stdout, stdout);
            drop(scope.task("stdout", capture));
            let capture = Output::default().capture(worker, first, Stream::Stderr, stderr);
            drop(scope.task("stderr", capture));
        }
        Ok(Self { process })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Passes frames both ways until the worker is dead, and says how it died.
    ///
    /// What comes from the pool must be whole frames, and so is what goes there. The end of
    /// `from_pool` is the worker's: it is killed, and what it had still said goes out. Bounded by what
    /// the two channels hold: a side that does not read makes the other wait.
    ///
    /// Cancel safe: the worker is killed with the future.
    pub async fn relay(
        mut self,
        mut from_pool: mpsc::Receiver<Bytes>,
        to_pool: mpsc::Sender<Bytes>,
    ) -> Farewell {
        let Process { control, page, hold, exited, .. } = &mut self.process;
        let (read, write) = control.split();
        let relay = Relay {
            page,
            hold,
            claims: OnceLock::new(),
            broken: OnceLock::new(),
            cancels: Mutex::default(),
            added: Notify::new(),
        };
        let mut reading = pin!(relay.read(read, &to_pool));
        let hung_up = tokio::select! {
            () = &mut reading => false,
            () = relay.write(write, &mut from_pool) => true,
        };
        if hung_up {
            relay.kill();
            // Who does not take it within this has gone.
            let _ = timeout(LAST_WORDS, reading).await;
        } else if timeout(DEAD_WITHIN, relay.hold.dead()).await.is_err() {
            relay.kill();
        }
        relay.hold.dead().await;
        let claims = relay.claims.get().copied().unwrap_or_default();
        let started = relay.page.started().ok().filter(|_| claims.started);
        let death = match (relay.broken.get().cloned(), timeout(STATUS_WITHIN, exited).await) {
            (Some(how), _) => Death::Killed(KillReason::Garbage(how)),
            (None, Ok(Ok(death))) => death,
            (None, Ok(Err(_gone))) => Death::ReaperDied,
            (None, Err(_elapsed)) => Death::Unknown,
        };
        Farewell { death, started }
    }
}

/// What the worker's hello claims that this host has to do for the pool.
#[derive(Clone, Copy, Debug, Default)]
struct Claims {
    cancel: bool,
    started: bool,
}

/// What both directions look at.
struct Relay<'a> {
    page: &'a HostPage,
    hold: &'a Hold,
    /// Known from the hello on.
    claims: OnceLock<Claims>,
    /// What was wrong with what the worker said.
    broken: OnceLock<String>,
    cancels: Mutex<Cancels>,
    /// A cancel was added.
    added: Notify,
}

impl Relay<'_> {
    /// Until the worker's socket ends, or nobody takes what it says.
    async fn read(&self, mut socket: ReadHalf<'_>, to_pool: &mpsc::Sender<Bytes>) {
        let mut buffer = BytesMut::new();
        loop {
            match whole_frames(&mut buffer) {
                Ok(Some(frames)) => {
                    if to_pool.send(self.seen(frames)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(None) => buffer.reserve(READ_ROOM),
                Err(error) => {
                    let _ = self.broken.set(error.to_string());
                    self.kill();
                    return;
                }
            }
            let wake = self.cancels().wake();
            let due = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                read = socket.read_buf(&mut buffer) => {
                    if !read.is_ok_and(|read| read > 0) {
                        return;
                    }
                }
                () = self.added.notified() => {}
                () = due => {
                    if self.cancels().ring(Instant::now(), |_| false) {
                        self.ring();
                    }
                }
            }
        }
    }

    /// Until the pool hangs up, or the worker's socket breaks.
    async fn write(&self, mut socket: WriteHalf<'_>, from_pool: &mut mpsc::Receiver<Bytes>) {
        while let Some(frames) = from_pool.recv().await {
            let mut cancels = Vec::new();
            let seen = frame_heads(&frames, |head| {
                if head.kind == FrameKind::Cancel as u8 {
                    cancels.push(head.stream);
                }
            });
            if let Err(error) = seen {
                tracing::error!(%error, "the pool does not send whole frames");
                return;
            }
            for stream in cancels {
                self.cancel(stream);
            }
            if socket.write_all(&frames).await.is_err() {
                return;
            }
        }
    }

    /// What the worker said, as the pool may hear it.
    fn seen(&self, frames: Bytes) -> Bytes {
        if self.claims.get().is_none() {
            let (claims, frames) = without_page(frames);
            let _ = self.claims.set(claims);
            return frames;
        }
        let mut cancels = self.cancels();
        if cancels.wake().is_some() {
            // They are whole: they were cut here.
            let _ = frame_heads(&frames, |head| {
                if [FrameKind::Last as u8, FrameKind::Error as u8].contains(&head.kind) {
                    cancels.answered(head.stream);
                }
            });
        }
        drop(cancels);
        frames
    }

    /// What a pool does for a worker beside it: the page, then the bell. The frame follows.
    fn cancel(&self, stream: u32) {
        if !self.claims.get().is_some_and(|claims| claims.cancel) {
            return;
        }
        if let Err(error) = self.page.cancel(stream) {
            tracing::warn!(%error, "cancel not told");
            return;
        }
        self.ring();
        self.cancels().add(stream, false, None, true, Instant::now());
        self.added.notify_one();
    }

    fn ring(&self) {
        if let Err(error) = self.hold.ring() {
            tracing::warn!(%error, "doorbell not rung");
        }
    }

    fn kill(&self) {
        if let Err(error) = self.hold.kill() {
            tracing::error!(%error, "worker not killed");
        }
    }

    fn cancels(&self) -> MutexGuard<'_, Cancels> {
        // Nothing in its methods panics half-way.
        self.cancels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The frames without the claims that are about the page: the pool has none. What is
/// no hello goes on as it is, for the pool to refuse.
fn without_page(frames: Bytes) -> (Claims, Bytes) {
    let mut rest = BytesMut::from(&*frames);
    let Ok(Some(frame)) = Frame::decode(&mut rest) else { return (Claims::default(), frames) };
    let (FrameKind::Hello, Ok(Value::Dict(mut pairs))) =
        (frame.kind, Value::decode(&frame.payload))
    else {
        return (Claims::default(), frames);
    };
    let mut claims = Claims::default();
    for (key, value) in &mut pairs {
        if let (Some("capabilities"), Value::List(list)) = (key.as_str(), value) {
            let has = |name| list.iter().any(|claim| claim.as_str() == Some(name));
            claims = Claims { cancel: has(Hello::CANCEL), started: has(Hello::STARTED) };
            let of_the_page = [Some(Hello::STARTED), Some(Hello::RECALL)];
            list.retain(|claim| !of_the_page.contains(&claim.as_str()));
        }
    }
    match Value::Dict(pairs).encode() {
        Ok(hello) => {
            let mut told = BytesMut::new();
            Message::Hello(hello).encode(&mut told);
            told.extend_from_slice(&rest);
            (claims, told.freeze())
        }
        Err(_) => (Claims::default(), frames),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(capabilities: &[&str], extra: Option<(&str, i64)>) -> BytesMut {
        let list = capabilities.iter().map(|name| Value::from(*name)).collect();
        let mut pairs = vec![
            (Value::from("protocol"), Value::from(1)),
            (Value::from("capabilities"), Value::List(list)),
        ];
        pairs.extend(extra.map(|(key, value)| (Value::from(key), Value::from(value))));
        let mut frames = BytesMut::new();
        Message::Hello(Value::Dict(pairs).encode().unwrap()).encode(&mut frames);
        frames
    }

    #[test]
    fn the_page_stays_here_and_everything_else_goes_on() {
        let extra = Some(("newer", 7));
        let mut said = hello(&["cancel", "started", "recall", "streams"], extra);
        Message::Ping { token: 3 }.encode(&mut said);
        let (claims, told) = without_page(said.freeze());
        assert!(claims.cancel && claims.started);
        let mut expected = hello(&["cancel", "streams"], extra);
        Message::Ping { token: 3 }.encode(&mut expected);
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_no_hello_is_for_the_pool_to_refuse() {
        for said in [
            &b"\x00\x00\x00\x00\x06\x01\x00\x00\x00"[..],
            b"\x01\x00\x00\x00\x01\x00\x00\x00\x00\xc1",
        ] {
            let said = Bytes::from_static(said);
            assert_eq!(without_page(said.clone()).1, said);
        }
    }
}
