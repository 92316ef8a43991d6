//! One incarnation's control socket: frames out, frames in, death.
//!
//! Owns the process and the calls that were sent to it. It ends with the worker's death, by which
//! time every call it had is finished or handed back. Garbage from the worker is a reason to kill
//! it. Tested with real workers in `tests/calls.rs` and `tests/deaths.rs`.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use snakehouse_base::id::Incarnation;
use snakehouse_supervise::CancellationToken;
use snakehouse_wire::{Assembler, Failure, Frame, FrameKind, Hello, Message, OpenHead};
use tokio::io::Interest;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};

use crate::call::{Call, CallError};
use crate::death::{Death, KillReason};
use crate::dispatcher::{Report, Ticket, worker_id};
use crate::pool::Shared;
use crate::reaper::Process;

/// Bodies below this are copied behind their head; larger ones are written from where they are.
const COPY_BELOW: usize = 32 * 1024;

/// Room for one read. Several replies share it without a copy.
const READ_ROOM: usize = 64 * 1024;

/// Pieces in one write.
const MAX_PIECES: usize = 64;

/// How long after a cancel the doorbell rings for the second time.
const RING_AGAIN: Duration = Duration::from_millis(2);

/// The exit status comes a fraction of a millisecond after the death; nobody waits longer for it.
const STATUS_WITHIN: Duration = Duration::from_millis(100);

/// After the end of the socket the process is dead within this, or it is killed.
const DEAD_WITHIN: Duration = Duration::from_millis(100);

/// Bytes read before everything else has its turn. A busy worker's answers are far fewer.
const READ_AT_ONCE: usize = 256 * 1024;

/// What a dead worker's socket can still hold is less than this.
const READ_AFTER_DEATH: usize = 16 * 1024 * 1024;

/// Pongs that wait for a worker that does not read them.
const MAX_PONGS: usize = 32 * 1024;

/// A call that was sent.
struct Sent {
    stream: u32,
    ticket: Ticket,
    /// `None` once the caller is gone.
    call: Option<Call>,
    /// When a cancelled call has had its grace.
    overdue: Option<Instant>,
    /// Whether it was seen running after its cancel.
    seen_running: bool,
    /// When the doorbell rings again, and how long it waits after that.
    ring_again: Option<(Instant, Duration)>,
}

/// What a dead worker had.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) failed: Vec<(Call, CallError)>,
    pub(crate) unstarted: Vec<Call>,
}

pub(crate) struct Connection<'a> {
    shared: &'a Shared,
    place: usize,
    process: Process,
    cancel_grace: Option<Duration>,
    stop_grace: Duration,
    can_cancel: bool,
    tells_started: bool,
    assembler: Assembler,
    input: BytesMut,
    /// Small messages, one behind the other; they go out after `output`.
    small: BytesMut,
    output: VecDeque<Bytes>,
    sent: VecDeque<Sent>,
    next_stream: u32,
    answered: Vec<Ticket>,
    /// Results that came for nobody, since the last exchange.
    late: u64,
    /// Whether it ever answered a call.
    has_answered: bool,
    /// Pongs in `small` and `output`.
    pongs: usize,
    /// Since when the worker has been working without an answer.
    busy_since: Instant,
    kill: Option<KillReason>,
}

impl<'a> Connection<'a> {
    pub(crate) fn new(shared: &'a Shared, place: usize, process: Process) -> Self {
        Self {
            place,
            process,
            cancel_grace: shared.spec.cancel_grace,
            stop_grace: shared.config.stop_grace,
            can_cancel: false,
            tells_started: false,
            assembler: Assembler::host(Assembler::DEFAULT_CAP),
            input: BytesMut::new(),
            small: BytesMut::new(),
            output: VecDeque::new(),
            sent: VecDeque::new(),
            next_stream: 1,
            answered: Vec::new(),
            late: 0,
            has_answered: false,
            pongs: 0,
            busy_since: Instant::now(),
            kill: None,
            shared,
        }
    }

    /// Waits for the hello. `Err` is the worker's death.
    pub(crate) async fn hello(&mut self, stop: &CancellationToken) -> Result<Hello, Death> {
        let outcome = tokio::select! {
            biased;
            outcome = timeout(self.shared.config.start_within, self.read_hello()) => outcome,
            () = stop.cancelled() => Ok(Err(Some(KillReason::Stop))),
        };
        let reason = match outcome {
            Ok(Ok(hello)) => match hello.failure {
                None => {
                    self.can_cancel = hello.can(Hello::CANCEL);
                    self.tells_started = hello.can(Hello::STARTED);
                    return Ok(hello);
                }
                Some(failure) => {
                    self.kill_for(KillReason::Refused(failure.to_string()));
                    return Err(self.death().await);
                }
            },
            Ok(Err(reason)) => reason,
            Err(_elapsed) => Some(KillReason::NoHello),
        };
        match reason {
            Some(reason) => self.kill_for(reason),
            None => self.expect_death().await,
        }
        Err(self.death().await)
    }

    /// The first message; `Err(None)` is the end of the socket.
    async fn read_hello(&mut self) -> Result<Hello, Option<KillReason>> {
        loop {
            let garbage =
                |error: &dyn std::fmt::Display| Some(KillReason::Garbage(error.to_string()));
            match Frame::decode(&mut self.input) {
                Ok(None) => {}
                Ok(Some(frame)) => match self.assembler.push(frame) {
                    Ok(Some(Message::Hello(payload))) => {
                        return Hello::decode(&payload)
                            .map_err(|error| Some(KillReason::BadHello(error.to_string())));
                    }
                    Ok(_) => return Err(garbage(&"it did not begin with a hello")),
                    Err(error) => return Err(garbage(&error)),
                },
                Err(error) => return Err(garbage(&error)),
            }
            let readable = self.process.control.readable().await;
            if readable.is_err() || self.read_some() == Read::Ended {
                return Err(None);
            }
        }
    }

    /// Runs calls until the worker is dead. Cancelling `stop` makes it end within the grace.
    pub(crate) async fn serve(&mut self, stop: &CancellationToken) -> Death {
        let bell = &self.shared.bells[self.place];
        let mut stop_by = None;
        while self.kill.is_none() {
            self.exchange();
            if self.flush().is_err() {
                // What the worker wrote before it went is still to be read.
                self.read(READ_AFTER_DEATH);
                self.expect_death().await;
                break;
            }
            let interest = match self.output.is_empty() {
                true => Interest::READABLE,
                false => Interest::READABLE | Interest::WRITABLE,
            };
            let timers =
                self.sent.iter().flat_map(|sent| [sent.overdue, sent.ring_again.map(|r| r.0)]);
            let wake = timers.flatten().chain(stop_by).min();
            // In no certain order, so that a worker that never stops writing delays nothing else.
            tokio::select! {
                ready = self.process.control.ready(interest) => {
                    match ready.map(|_| self.read(READ_AT_ONCE)) {
                        Ok(Read::Nothing) => {}
                        Ok(Read::Some) => yield_now().await,
                        Ok(Read::Ended) | Err(_) => {
                            self.expect_death().await;
                            break;
                        }
                    }
                }
                () = bell.notified() => {}
                () = self.process.pidfd.dead() => {
                    self.read(READ_AFTER_DEATH);
                    break;
                }
                () = stop.cancelled(), if stop_by.is_none() => {
                    stop_by = Some(Instant::now() + self.stop_grace);
                    self.shared.lock().stopping(self.place);
                    Message::Goaway { reason: "the pool stops".to_owned() }.encode(&mut self.small);
                }
                () = at(wake) => {
                    let now = Instant::now();
                    if stop_by.is_some_and(|by| by <= now) {
                        self.kill_for(KillReason::Stop);
                    }
                    self.kill_if_overdue(now);
                    self.ring_again(now);
                }
            }
        }
        self.exchange();
        self.death().await
    }

    /// Whether it ever started a call. That calls were sent to it says nothing about the worker.
    pub(crate) fn was_of_use(&self) -> bool {
        self.has_answered || self.process.page.started().is_ok_and(|started| started != 0)
    }

    /// The calls that the dead worker had: those that fail with it, and those that it never started.
    /// If it ran none, the first one that waited may be what ended it, and is marked.
    pub(crate) fn settle(mut self, incarnation: Incarnation, death: &Death) -> Settled {
        let worker = worker_id(self.place);
        let started = self.process.page.started().ok().filter(|_| self.tells_started);
        let mut settled = Settled::default();
        let ran_one =
            self.sent.iter().any(|sent| started.is_none_or(|last| is_started(sent.stream, last)));
        for sent in self.sent.drain(..) {
            let Some(call) = sent.call else { continue };
            let cause = death.clone();
            match started {
                Some(last) if !is_started(sent.stream, last) => settled.unstarted.push(call),
                Some(_) => settled.failed.push((
                    call,
                    CallError::WorkerDied { worker, incarnation, started: true, cause },
                )),
                None => settled
                    .failed
                    .push((call, CallError::OutcomeUnknown { worker, incarnation, cause })),
            }
        }
        if !ran_one
            && *death != Death::ReaperDied
            && let Some(first) = settled.unstarted.first_mut()
        {
            first.deaths += 1;
        }
        settled
    }

    // Work.

    /// Tells the dispatcher what was answered; takes new calls and cancels.
    fn exchange(&mut self) {
        let (mut calls, mut cancels) = (Vec::new(), Vec::new());
        let now = Instant::now();
        let busy = match self.answered.is_empty() {
            true => Duration::ZERO,
            false => now - std::mem::replace(&mut self.busy_since, now),
        };
        let report =
            Report { answered: &self.answered, late: std::mem::take(&mut self.late), busy };
        self.shared.change(|dispatcher, after| {
            dispatcher.exchange(self.place, &report, now, &mut calls, &mut cancels, after);
        });
        self.answered.clear();
        if !calls.is_empty() && self.sent.is_empty() {
            self.busy_since = now;
        }
        for call in calls {
            self.send(call, now);
        }
        for ticket in cancels {
            self.cancel(ticket, now);
        }
    }

    fn send(&mut self, call: Call, now: Instant) {
        let stream = self.next_stream;
        // 0 is the connection itself.
        self.next_stream = stream.checked_add(1).unwrap_or(1);
        let head = OpenHead {
            tool: call.number,
            deadline_micros: call.options.deadline.to_wire(now.into_std()),
            session: call.session,
            trace: call.options.trace,
            is_stream: false,
        };
        let body = call.body.clone();
        self.sent.push_back(Sent {
            stream,
            ticket: call.ticket,
            call: Some(call),
            overdue: None,
            seen_running: false,
            ring_again: None,
        });
        let message = Message::Open { stream, head, body };
        match &message {
            Message::Open { body, .. } if body.len() >= COPY_BELOW => {
                self.close_small();
                for segment in message.segments() {
                    self.output.push_back(Bytes::copy_from_slice(segment.head()));
                    self.output.push_back(segment.body().clone());
                }
            }
            _ => message.encode(&mut self.small),
        }
    }

    /// The caller is gone. The page says it to a worker that looks while it works, the bell makes
    /// it look, and the frame is for one that has no page.
    fn cancel(&mut self, ticket: Ticket, now: Instant) {
        let last = self.last_started();
        let Some(sent) = self.sent.iter_mut().find(|sent| sent.ticket == ticket) else { return };
        let stream = sent.stream;
        sent.call = None;
        sent.seen_running = last == Some(stream);
        sent.overdue = self.cancel_grace.map(|grace| now + grace);
        Message::Cancel { stream }.encode(&mut self.small);
        let told = self.process.page.cancel(stream).and_then(|()| match self.can_cancel {
            true => self.process.pidfd.ring(),
            false => Ok(()),
        });
        if let Err(error) = told {
            tracing::warn!(worker = %worker_id(self.place), %error, "cancel not told");
        }
        if self.can_cancel {
            sent.ring_again = Some((now + RING_AGAIN, 2 * RING_AGAIN));
        }
    }

    /// Rings for cancelled calls that have not answered yet: a signal that lands just before a
    /// system call blocks is noticed only when that returns. Ever more rarely, until the answer or
    /// the end of the grace.
    fn ring_again(&mut self, now: Instant) {
        let last = self.last_started();
        for sent in &mut self.sent {
            let Some((_, wait)) = sent.ring_again.filter(|(at, _)| *at <= now) else { continue };
            sent.ring_again = Some((now + wait, 2 * wait));
            sent.seen_running |= last == Some(sent.stream);
            if let Err(error) = self.process.pidfd.ring() {
                tracing::warn!(worker = %worker_id(self.place), %error, "doorbell not rung again");
            }
        }
    }

    /// Kills a worker that still runs a cancelled call after the grace. A call that waits behind
    /// others is given more time, and so is one that was answered into a batch that is not written
    /// yet: the call that runs then is another one, and innocent. Running means seen so before: a
    /// cancelled call that starts at this very moment is about to end.
    fn kill_if_overdue(&mut self, now: Instant) {
        let last = self.last_started();
        let grace = self.cancel_grace.unwrap_or_default();
        let mut ignored = false;
        for sent in &mut self.sent {
            if sent.overdue.is_some_and(|by| by <= now) {
                let runs = last == Some(sent.stream);
                ignored |= runs && sent.seen_running;
                sent.seen_running = runs;
                sent.overdue = Some(now + grace);
            }
        }
        if ignored {
            self.kill_for(KillReason::CancelIgnored);
        }
    }

    /// The call that was started last, which is the one that runs if any does. A worker that does
    /// not say it runs the oldest it has.
    fn last_started(&self) -> Option<u32> {
        match self.tells_started {
            true => self.process.page.started().ok(),
            false => self.sent.front().map(|sent| sent.stream),
        }
    }

    fn handle(&mut self, message: Message) -> Result<(), String> {
        match message {
            Message::Reply { stream, body } => {
                if !self.finish(stream, |call| call.finish(Ok(body)))? {
                    self.late += 1;
                }
                Ok(())
            }
            Message::Error { stream, body } => {
                self.finish(stream, |call| call.failed(Failure::decode(&body))).map(drop)
            }
            Message::Ping { token } => {
                self.pongs += 1;
                if self.pongs > MAX_PONGS {
                    return Err("it pings and does not read the answers".to_owned());
                }
                Message::Pong { token }.encode(&mut self.small);
                Ok(())
            }
            // Answers to what this host does not ask, and a goaway that the exit follows.
            Message::Pong { .. } | Message::Credit { .. } | Message::Goaway { .. } => Ok(()),
            Message::Hello(_) => Err("it said hello twice".to_owned()),
            other => Err(format!("{other:?} is not for a host")),
        }
    }

    /// Gives an open call its outcome; whether anybody still waited for it.
    fn finish(&mut self, stream: u32, outcome: impl FnOnce(Call)) -> Result<bool, String> {
        // Almost always the first: answers come in order.
        let Some(place) = self.sent.iter().position(|sent| sent.stream == stream) else {
            return Err(format!("it answered stream {stream}, which is not open"));
        };
        let Some(sent) = self.sent.remove(place) else { return Ok(false) };
        self.answered.push(sent.ticket);
        self.has_answered = true;
        match sent.call.filter(|call| !call.is_abandoned()) {
            Some(call) => {
                outcome(call);
                Ok(true)
            }
            None => {
                tracing::trace!(stream, "answer of a cancelled call dropped");
                Ok(false)
            }
        }
    }

    // Input and output.

    /// Reads and handles what there is, about so many bytes at most; `Some` if there may be more.
    fn read(&mut self, mut most: usize) -> Read {
        loop {
            let before = self.input.len();
            let read = self.read_some();
            most = most.saturating_sub(self.input.len() - before);
            while self.kill.is_none() {
                let handled = match Frame::decode(&mut self.input) {
                    Ok(None) => break,
                    Ok(Some(frame)) => self.take(frame),
                    Err(error) => Err(error.to_string()),
                };
                if let Err(error) = handled {
                    self.kill_for(KillReason::Garbage(error));
                }
            }
            if read != Read::Some || self.kill.is_some() || most == 0 {
                return read;
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), String> {
        // The assembler holds pieces for whoever they are; calls that are not here have none.
        if frame.kind == FrameKind::Data
            && !self.sent.iter().any(|sent| sent.stream == frame.stream)
        {
            return Err(format!(
                "a piece of an answer on stream {}, which is not open",
                frame.stream
            ));
        }
        match self.assembler.push(frame).map_err(|error| error.to_string())? {
            Some(message) => self.handle(message),
            None => Ok(()),
        }
    }

    fn read_some(&mut self) -> Read {
        if self.input.capacity() - self.input.len() < READ_ROOM / 8 {
            self.input.reserve(READ_ROOM);
        }
        match self.process.control.try_read_buf(&mut self.input) {
            Ok(0) => Read::Ended,
            Ok(_) => Read::Some,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Nothing,
            Err(_) => Read::Ended,
        }
    }

    /// Writes as much as the socket takes.
    fn flush(&mut self) -> io::Result<()> {
        self.close_small();
        while !self.output.is_empty() {
            let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
            let mut count = 0;
            for (piece, bytes) in pieces.iter_mut().zip(&self.output) {
                *piece = IoSlice::new(bytes);
                count += 1;
            }
            let mut written = match self.process.control.try_write_vectored(&pieces[..count]) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            while let Some(first) = self.output.front_mut() {
                if first.len() > written {
                    first.advance(written);
                    break;
                }
                written -= first.len();
                self.output.pop_front();
            }
        }
        self.pongs = 0;
        Ok(())
    }

    fn close_small(&mut self) {
        if !self.small.is_empty() {
            self.output.push_back(self.small.split().freeze());
        }
    }

    // Death.

    fn kill_for(&mut self, reason: KillReason) {
        tracing::warn!(worker = %worker_id(self.place), pid = self.process.pid, %reason, "worker killed");
        if let Err(error) = self.process.pidfd.kill() {
            tracing::error!(pid = self.process.pid, %error, "worker not killed");
        }
        self.kill.get_or_insert(reason);
    }

    /// The socket is closed from the other side: the process is about to be dead, or must be.
    async fn expect_death(&mut self) {
        if timeout(DEAD_WITHIN, self.process.pidfd.dead()).await.is_err() {
            self.kill_for(KillReason::ClosedSocket);
        }
    }

    /// Waits for the death, then briefly for the exit status.
    async fn death(&mut self) -> Death {
        self.process.pidfd.dead().await;
        let status = timeout(STATUS_WITHIN, &mut self.process.exited).await;
        match (self.kill.take(), status) {
            (Some(reason), _) => Death::Killed(reason),
            (None, Ok(Ok(death))) => death,
            // The loop that would have reported it is gone.
            (None, Ok(Err(_gone))) => Death::ReaperDied,
            (None, Err(_elapsed)) => Death::Unknown,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Some,
    Nothing,
    Ended,
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Whether a call was started when `last` was the one started last. Numbers go round after
/// `u32::MAX`, and far fewer than half of them are in use at once.
fn is_started(stream: u32, last: u32) -> bool {
    last != 0 && last.wrapping_sub(stream) < u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_up_to_the_last_started_are_started() {
        assert!(!is_started(1, 0));
        assert!(is_started(1, 1));
        assert!(is_started(1, 64));
        assert!(!is_started(2, 1));
        assert!(is_started(u32::MAX, 1), "numbers go round");
        assert!(!is_started(1, u32::MAX), "numbers go round");
    }
}
