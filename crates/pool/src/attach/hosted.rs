//! The worker's side: a process of this host that serves in a pool elsewhere.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use snakehouse_base::id::{Incarnation, WorkerId};
use snakehouse_supervise::Scope;
use snakehouse_wire::page::HostPage;
use snakehouse_wire::{
    Frame, FrameError, FrameKind, Hello, Message, Value, frame_heads, whole_frames,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use crate::connection::Cancels;
use crate::death::{Death, KillReason};
use crate::error::PoolError;
use crate::os::Control;
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

/// So many messages are reported as taken at once.
const TAKEN_AT_ONCE: u32 = Hosted::AHEAD / 2;

/// What comes from the pool for a [`Hosted`] worker.
#[derive(Debug)]
pub struct ToHosted {
    /// Messages of whole frames, in order. With room for [`Hosted::AHEAD`] whoever fills it never
    /// waits. Its end is the worker's: it is killed.
    pub frames: mpsc::Receiver<Bytes>,
    /// Calls that nobody wants any more, ahead of their frames. Never left waiting.
    pub cancels: mpsc::Receiver<Vec<u32>>,
}

/// What goes to the pool of a [`Hosted`] worker.
#[derive(Debug)]
pub enum HostedSays {
    /// Whole frames of the worker, in order.
    Frames(Bytes),
    /// The worker has so many more of the messages that came for it.
    Taken(u32),
}

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
    /// Messages of frames that may be on their way to a worker, not [taken](HostedSays::Taken) yet: each
    /// is a frame of at most 1 MiB, or 64 KiB of small ones.
    pub const AHEAD: u32 = 8;

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
    /// What comes from the pool must be whole frames, and so is what goes there. At the end of what
    /// comes the worker is killed, and what it had still said goes out. Bounded by what the channels
    /// hold: a side that does not read makes the other wait. Cancels wait for nobody.
    ///
    /// Cancel safe: the worker is killed with the future.
    pub async fn relay(
        mut self,
        from_pool: ToHosted,
        to_pool: mpsc::Sender<HostedSays>,
    ) -> Farewell {
        let Process { control, page, hold, exited, .. } = &mut self.process;
        let (read, write) = split(control);
        let relay = Relay {
            page,
            hold,
            claims: OnceLock::new(),
            broken: OnceLock::new(),
            refusal: OnceLock::new(),
            calls: Mutex::default(),
            added: Notify::new(),
        };
        let mut reading = pin!(relay.read(read, &to_pool));
        let hung_up = tokio::select! {
            () = &mut reading => false,
            () = relay.write(write, from_pool, &to_pool) => true,
        };
        if hung_up {
            relay.kill();
            // Who does not take it within this has gone.
            let _ = timeout(LAST_WORDS, reading).await;
        } else if timeout(DEAD_WITHIN, relay.hold.dead()).await.is_err() {
            relay.kill();
        }
        relay.hold.dead().await;
        let tells_started = relay.claims.get().is_some_and(|claims| claims.started);
        let started = relay.page.started().ok().filter(|_| tells_started);
        let exited = timeout(STATUS_WITHIN, exited).await;
        let own = [
            relay.broken.get().cloned().map(KillReason::Garbage),
            relay.refusal.get().cloned().map(KillReason::Refused),
        ];
        let death = match (own.into_iter().flatten().next(), exited) {
            (Some(reason), _) => Death::Killed(reason),
            (None, Ok(Ok(death))) => death,
            (None, Ok(Err(_gone))) => Death::ReaperDied,
            (None, Err(_elapsed)) => Death::Unknown,
        };
        Farewell { death, started }
    }
}

/// What the worker's hello claims that this host has to do for the pool.
#[derive(Clone, Debug, Default)]
struct Claims {
    cancel: bool,
    started: bool,
    /// Why the worker cannot serve.
    refusal: Option<String>,
}

/// The calls that the worker has.
#[derive(Debug, Default)]
struct Calls {
    open: HashSet<u32>,
    cancels: Cancels,
}

/// What both directions look at.
struct Relay<'a> {
    page: &'a HostPage,
    hold: &'a Hold,
    /// Known from the hello on.
    claims: OnceLock<Claims>,
    /// What was wrong with what the worker said.
    broken: OnceLock<String>,
    /// Why it cannot serve, by its hello.
    refusal: OnceLock<String>,
    calls: Mutex<Calls>,
    /// A cancel was added.
    added: Notify,
}

impl Relay<'_> {
    /// Until the worker's socket ends, or nobody takes what it says.
    async fn read(&self, mut socket: ReadHalf<&mut Control>, to_pool: &mpsc::Sender<HostedSays>) {
        let mut buffer = BytesMut::new();
        loop {
            match whole_frames(&mut buffer) {
                Ok(Some(frames)) => {
                    let frames = HostedSays::Frames(self.seen(frames));
                    if to_pool.send(frames).await.is_err() {
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
            let wake = self.calls().cancels.wake();
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
                    if self.calls().cancels.ring(Instant::now(), |_| false) {
                        self.ring();
                    }
                }
            }
        }
    }

    /// Until the pool hangs up, or the worker's socket breaks.
    async fn write(
        &self,
        socket: WriteHalf<&mut Control>,
        from_pool: ToHosted,
        to_pool: &mpsc::Sender<HostedSays>,
    ) {
        let ToHosted { frames, mut cancels } = from_pool;
        let hearing = async {
            while let Some(streams) = cancels.recv().await {
                streams.into_iter().for_each(|stream| self.cancel(stream));
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = hearing => {}
            () = self.pass_on(socket, frames, to_pool) => {}
        }
    }

    async fn pass_on(
        &self,
        mut socket: WriteHalf<&mut Control>,
        mut from_pool: mpsc::Receiver<Bytes>,
        to_pool: &mpsc::Sender<HostedSays>,
    ) {
        let mut taken = 0;
        while let Some(frames) = from_pool.recv().await {
            if let Err(error) = self.heard(&frames) {
                tracing::error!(%error, "the pool does not send whole frames");
                return;
            }
            if socket.write_all(&frames).await.is_err() {
                return;
            }
            taken += 1;
            if taken == TAKEN_AT_ONCE {
                taken = 0;
                if to_pool.send(HostedSays::Taken(TAKEN_AT_ONCE)).await.is_err() {
                    return;
                }
            }
        }
    }

    /// What the pool says, before the worker has it.
    fn heard(&self, frames: &[u8]) -> Result<(), FrameError> {
        let mut cancels = Vec::new();
        let mut calls = self.calls();
        frame_heads(frames, |head| {
            if head.kind == FrameKind::Open as u8 {
                calls.open.insert(head.stream);
            } else if head.kind == FrameKind::Cancel as u8 {
                cancels.push(head.stream);
            }
        })?;
        drop(calls);
        cancels.into_iter().for_each(|stream| self.cancel(stream));
        Ok(())
    }

    /// What the worker said, as the pool may hear it.
    fn seen(&self, frames: Bytes) -> Bytes {
        if self.claims.get().is_none() {
            let (claims, frames) = without_page(frames);
            if let Some(why) = claims.refusal.clone() {
                let _ = self.refusal.set(why);
            }
            let _ = self.claims.set(claims);
            return frames;
        }
        let mut calls = self.calls();
        // They are whole: they were cut here.
        let _ = frame_heads(&frames, |head| {
            if [FrameKind::Last as u8, FrameKind::Error as u8].contains(&head.kind) {
                calls.open.remove(&head.stream);
                calls.cancels.answered(head.stream);
            }
        });
        drop(calls);
        frames
    }

    /// What a pool does for a worker beside it: the page, then the bell. The frame is on its way, and
    /// says it again: by then a call that was behind it is there, and one that was answered is not.
    fn cancel(&self, stream: u32) {
        if !self.claims.get().is_some_and(|claims| claims.cancel) {
            return;
        }
        let mut calls = self.calls();
        if !calls.open.contains(&stream) {
            return;
        }
        if let Err(error) = self.page.cancel(stream) {
            tracing::warn!(%error, "cancel not told");
            return;
        }
        if !calls.cancels.has(stream) {
            calls.cancels.add(stream, false, None, true, Instant::now());
            self.added.notify_one();
        }
        drop(calls);
        self.ring();
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

    fn calls(&self) -> MutexGuard<'_, Calls> {
        // Nothing that is done with it panics half-way.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
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
    let failure = Hello::decode(&frame.payload).ok().and_then(|hello| hello.failure);
    let refusal = failure.map(|failure| failure.to_string());
    let mut claims = Claims { refusal, ..Claims::default() };
    for (key, value) in &mut pairs {
        if let (Some("capabilities"), Value::List(list)) = (key.as_str(), value) {
            let has = |name| list.iter().any(|claim| claim.as_str() == Some(name));
            (claims.cancel, claims.started) = (has(Hello::CANCEL), has(Hello::STARTED));
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
