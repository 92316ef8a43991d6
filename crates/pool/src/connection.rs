//! One incarnation's control socket: calls out, answers in, until the worker is dead.
//!
//! Owns the process and the calls that were sent to it. It ends with the worker's death, by which
//! time every call it had is finished or handed back. Garbage from the worker is a reason to kill
//! it. The parts: `sent` has the calls by number, `cancels` decides about cancelled ones, `input` and
//! `output` have the bytes, `buffers` the large ones, `sessions` what is said about sessions, `answers`
//! does what the worker says, `recall` takes calls back from a busy worker, `end` sees to its death.
//! Tested with real workers in `tests/it`.

mod answers;
mod buffers;
mod callbacks;
mod cancels;
mod copies;
mod end;
mod held;
mod input;
mod output;
mod recall;
mod sent;
mod sessions;
mod telemetry;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use snakehouse_base::Kind;
use snakehouse_base::id::Incarnation;
use snakehouse_supervise::{CancellationToken, Scope};
use snakehouse_wire::{Failure, Hello, Message, OpenHead};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use crate::call::{Call, CallError, Where};
use crate::config::LONGEST;
use crate::death::{Death, KillReason};
use crate::dispatcher::{After, Dispatcher, Report, Ticket, worker_id};
use crate::pool::Shared;
use crate::reaper::Process;
use crate::stream::flow::Flow;
use buffers::Buffers;
use callbacks::Callbacks;
use copies::Copies;
use input::Input;
use output::Output;
use recall::Recall;
use sent::{MAX_UNSTARTED, SentCalls};
use telemetry::Telling;

/// How often calls that cannot be sent are answered and more are taken before everything else has its
/// turn.
const REFUSED_AT_ONCE: usize = 64;

pub(crate) use cancels::Cancels;
pub(crate) use end::Settled;

pub(crate) struct Connection<'a> {
    shared: &'a Arc<Shared>,
    place: usize,
    process: Process,
    cancel_grace: Option<Duration>,
    stop_grace: Duration,
    can_cancel: bool,
    tells_started: bool,
    can_recall: bool,
    can_stream: bool,
    hears_of_sessions: bool,
    /// Calls that the worker runs at once.
    capacity: u32,
    input: Input,
    output: Output,
    buffers: Buffers,
    copies: Copies,
    sent: SentCalls,
    /// Calls behind one whose shared buffers the worker has yet to take.
    held: VecDeque<Call>,
    cancels: Cancels,
    recall: Recall,
    callbacks: Callbacks,
    /// The streams among the calls.
    flows: Vec<(u32, Arc<Flow>)>,
    /// Rung by their callers.
    flow_bell: Arc<Notify>,
    /// Empty; its room is used again.
    calls: Vec<Call>,
    answered: Vec<Ticket>,
    /// Calls that could not be sent, since the last exchange.
    refused: Vec<Ticket>,
    /// Results and items that came for nobody, since the last exchange.
    late: u64,
    late_items: u64,
    /// Whether it ever answered a call.
    has_answered: bool,
    /// Pongs on their way out.
    pongs: usize,
    /// Whether it closed its socket for buffers, which it does not do while it lives.
    is_deaf: bool,
    telling: Telling,
    /// Since when the worker has been working without an answer.
    busy_since: Instant,
    kill: Option<KillReason>,
}

/// Why the connection looks up.
enum Turn {
    /// There may be something to do.
    Work,
    /// The pool stops.
    Stop,
    /// The worker hung up.
    Ended,
    /// The worker takes nothing more, and may have said something before.
    Broken,
    Dead,
}

impl<'a> Connection<'a> {
    /// What its worker asks of the host runs in `scope`.
    pub(crate) fn new(
        shared: &'a Arc<Shared>,
        place: usize,
        incarnation: Incarnation,
        mut process: Process,
        scope: Scope,
    ) -> Self {
        let buffers = Buffers::new(process.buffers.take());
        let (tools, bell) = (shared.spec.host_tools.clone(), Arc::<Notify>::default());
        Self {
            buffers,
            callbacks: Callbacks::new(tools, scope, incarnation, bell.clone()),
            place,
            process,
            cancel_grace: shared.spec.cancel_grace.map(|grace| grace.min(LONGEST)),
            stop_grace: shared.config.stop_grace,
            can_cancel: false,
            tells_started: false,
            can_recall: false,
            can_stream: false,
            hears_of_sessions: false,
            capacity: 1,
            input: Input::new(),
            output: Output::default(),
            copies: Copies::default(),
            sent: SentCalls::default(),
            held: VecDeque::new(),
            cancels: Cancels::default(),
            recall: Recall::default(),
            flows: Vec::new(),
            flow_bell: bell,
            calls: Vec::new(),
            answered: Vec::new(),
            refused: Vec::new(),
            late: 0,
            late_items: 0,
            has_answered: false,
            pongs: 0,
            is_deaf: false,
            telling: Telling::default(),
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
            Ok(Ok(mut hello)) => match hello.failure {
                None => {
                    // All of them may be on their way to it at once.
                    hello.capacity = hello.capacity.min(MAX_UNSTARTED);
                    self.can_cancel = hello.can(Hello::CANCEL);
                    self.tells_started = hello.can(Hello::STARTED) && self.process.shares_page();
                    self.can_recall = self.tells_started && hello.can(Hello::RECALL);
                    self.can_stream = hello.can(Hello::STREAMS);
                    self.hears_of_sessions = hello.can(Hello::SESSIONS);
                    self.telling.can = hello.can(Hello::TELEMETRY);
                    self.capacity = hello.capacity;
                    if hello.can(Hello::CALLBACKS) {
                        self.tell_host_tools();
                    }
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
        let garbage = |error: &dyn std::fmt::Display| Some(KillReason::Garbage(error.to_string()));
        loop {
            if let Some(frame) = self.input.frame().map_err(|error| garbage(&error))? {
                return match self.input.message(frame).map_err(|error| garbage(&error))? {
                    Some(Message::Hello(payload)) => Hello::decode(&payload)
                        .map_err(|error| Some(KillReason::BadHello(error.to_string()))),
                    _ => Err(garbage(&"it did not begin with a hello")),
                };
            }
            let (input, control) = (&mut self.input, &mut self.process.control);
            let read = poll_fn(|cx| input.poll_read(control, cx)).await;
            if !read.is_ok_and(|got| got > 0) {
                return Err(None);
            }
        }
    }

    /// Runs calls until the worker is dead. Cancelling `stop` makes it end within the grace.
    pub(crate) async fn serve(&mut self, stop: &CancellationToken) -> Death {
        let shared = self.shared;
        let bell = &shared.bells[self.place];
        let mut rung = pin!(bell.notified());
        let flow_bell = self.flow_bell.clone();
        let mut flow_rung = pin!(flow_bell.notified());
        let mut stopped = pin!(stop.cancelled());
        let mut stop_by = None;
        let mut timer = pin!(sleep_until(self.busy_since));
        let mut timer_at = None;
        self.put_settings();
        self.exchange();
        while self.kill.is_none() && !self.is_deaf {
            let wake = self.wake(stop_by);
            if wake != timer_at {
                timer_at = wake;
                if let Some(at) = wake {
                    timer.as_mut().reset(at);
                }
            }
            let turn = poll_fn(|cx| {
                // All of it is looked at in every turn, so that a worker that never stops writing
                // delays nothing else.
                if stop_by.is_none() && stopped.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Turn::Stop);
                }
                let mut has_work = timer_at.is_some() && timer.as_mut().poll(cx).is_ready();
                if rung.as_mut().poll(cx).is_ready() {
                    rung.set(bell.notified());
                    has_work = true;
                }
                if flow_rung.as_mut().poll(cx).is_ready() {
                    flow_rung.set(flow_bell.notified());
                    has_work = true;
                }
                self.poll_socket(cx, has_work)
            });
            match turn.await {
                Turn::Work => {}
                Turn::Stop => {
                    stop_by = Some(Instant::now() + self.stop_grace);
                    self.shared.lock().stopping(self.place);
                    self.output.put(Message::Goaway { reason: "the pool stops".to_owned() });
                }
                Turn::Ended => {
                    self.handle_all();
                    self.expect_death().await;
                    break;
                }
                Turn::Broken => {
                    self.read_the_rest();
                    self.expect_death().await;
                    break;
                }
                Turn::Dead => {
                    self.read_the_rest();
                    break;
                }
            }
            self.handle_all();
            if let Some(at) = timer_at
                && let now = Instant::now()
                && at <= now
            {
                self.on_time(now, stop_by);
            }
            self.answer_callbacks();
            self.exchange();
            if self.recall.goes_on() {
                self.go_on_recalling();
            }
            self.fetch();
        }
        if self.is_deaf && self.kill.is_none() {
            self.expect_death().await;
            self.read_the_rest();
        }
        self.read_last_words().await;
        self.report_only();
        self.death().await
    }

    fn poll_socket(&mut self, cx: &mut Context<'_>, mut has_work: bool) -> Poll<Turn> {
        let control = &mut self.process.control;
        let is_all = match self.output.poll_write(control, cx) {
            Poll::Ready(Ok(())) => {
                self.pongs = 0;
                true
            }
            Poll::Ready(Err(_)) => return Poll::Ready(Turn::Broken),
            Poll::Pending => false,
        };
        self.callbacks.written(self.output.written(), is_all);
        match self.input.poll_read(control, cx) {
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Turn::Ended),
            Poll::Ready(Ok(_)) => has_work = true,
            Poll::Pending => {}
        }
        while let Poll::Ready(copied) = self.copies.poll_next(&self.shared.copier, cx) {
            self.copied(copied);
            has_work = true;
        }
        if self.process.hold.poll_dead(cx) {
            return Poll::Ready(Turn::Dead);
        }
        if has_work { Poll::Ready(Turn::Work) } else { Poll::Pending }
    }

    // Time.

    /// When there is something to do even if nobody comes.
    fn wake(&self, stop_by: Option<Instant>) -> Option<Instant> {
        let deadline = self.sent.next_deadline().map(|(at, _)| at);
        let held = self.held_deadline();
        let times = [self.cancels.wake(), self.recall.wake(), deadline, held, stop_by];
        times.into_iter().flatten().min()
    }

    fn on_time(&mut self, now: Instant, stop_by: Option<Instant>) {
        if stop_by.is_some_and(|by| by <= now) {
            self.kill_for(KillReason::Stop);
        }
        while let Some((_, stream)) = self.sent.next_deadline().filter(|(at, _)| *at <= now) {
            self.end_stream(stream, CallError::Deadline { at: Where::Worker }, now);
        }
        self.end_held(now);
        self.look_for_stuck(now);
        let runs = runs(self.tells_started, self.capacity, &self.process, &self.sent);
        if self.cancels.ring(now, &runs)
            && let Err(error) = self.process.hold.ring()
        {
            tracing::warn!(worker = %worker_id(self.place), %error, "doorbell not rung again");
        }
        let is_ignored = self.cancels.is_ignored(now, self.cancel_grace, &runs);
        drop(runs);
        if is_ignored {
            self.kill_for(KillReason::CancelIgnored);
        }
    }

    // Work.

    /// Tells the dispatcher what was answered; takes new calls and cancels.
    ///
    /// What cannot be sent is answered here and makes room for more, which may be as many calls as
    /// wait: after some rounds the rest has its turn like everything else.
    fn exchange(&mut self) {
        self.ask_telemetry();
        for _ in 0..REFUSED_AT_ONCE {
            self.exchange_once();
            if self.refused.is_empty() {
                return;
            }
        }
        self.shared.bells[self.place].notify_one();
    }

    fn exchange_once(&mut self) {
        let (mut calls, mut cancels) = (std::mem::take(&mut self.calls), Vec::new());
        let now = Instant::now();
        let mut news = Vec::new();
        self.report(now, |dispatcher, place, report, after| {
            dispatcher.exchange(place, report, now, &mut calls, &mut cancels, after);
            news = dispatcher.session_news(place);
        });
        self.tell_sessions(news);
        if !calls.is_empty() && self.sent.is_empty() {
            self.busy_since = now;
        }
        if !calls.is_empty() {
            for call in calls.drain(..) {
                self.send_or_hold(call, now);
            }
            self.watch_sent();
        }
        self.calls = calls;
        for ticket in cancels {
            match self.sent.by_ticket(ticket) {
                Some(stream) => self.cancel(stream, now),
                None => self.cancel_held(ticket),
            }
        }
    }

    /// The last words to the dispatcher: what a dead worker was not sent yet is not taken from it.
    fn report_only(&mut self) {
        let now = Instant::now();
        self.report(now, |dispatcher, place, report, after| {
            dispatcher.report(place, report, now, after);
        });
    }

    fn report(
        &mut self,
        now: Instant,
        tell: impl FnOnce(&mut Dispatcher, usize, &Report<'_>, &mut After),
    ) {
        let busy = match self.answered.is_empty() {
            true => Duration::ZERO,
            false => now - std::mem::replace(&mut self.busy_since, now),
        };
        let report = Report {
            answered: &self.answered,
            refused: &self.refused,
            late: std::mem::take(&mut self.late),
            late_items: std::mem::take(&mut self.late_items),
            busy,
        };
        self.shared.change(|dispatcher, after| tell(dispatcher, self.place, &report, after));
        self.answered.clear();
        self.refused.clear();
    }

    /// Sends a call, or answers it if that cannot be. Gives it back if the worker has to take shared
    /// buffers before.
    fn send(&mut self, call: Call, now: Instant) -> Option<Call> {
        if call.is_stream() && !self.can_stream {
            let message = "the worker of this pool cannot stream";
            self.refuse(call, Failure::new(Kind::InvalidInput, "no_streams", message));
            return None;
        }
        if let Err(error) = self.buffers.announce(&call.body.shared, &self.sent) {
            if error.kind() == io::ErrorKind::WouldBlock {
                return Some(call);
            }
            if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
                // It is dead, or as good as dead: whoever is next gets the call.
                self.is_deaf = true;
                return Some(call);
            }
            let message = format!("the worker does not get the shared buffer: {error}");
            self.refuse(call, Failure::new(Kind::Unavailable, "buffer_not_sent", message));
            return None;
        }
        let head = OpenHead {
            tool: call.number,
            deadline_micros: call.options.deadline.to_wire(now.into_std()),
            session: call.session.as_ref().map_or(0, |tag| tag.id),
            trace: call.options.trace,
            depth: call.chain.depth,
            is_stream: call.is_stream(),
            is_nested: call.chain.is_nested,
        };
        let flow = call.flow().cloned();
        let stream = self.sent.next();
        self.output.open(stream, head, &call.body.bytes);
        self.sent.add(stream, call);
        if let Some(flow) = flow {
            flow.attach(self.flow_bell.clone());
            self.flows.push((stream, flow));
        }
        None
    }

    /// The worker does not get the call, and the place that it had is free.
    fn refuse(&mut self, call: Call, failure: Failure) {
        self.refused.push(call.ticket);
        call.failed(failure);
    }

    /// Takes what the callers of streams have to say.
    fn fetch(&mut self) {
        for (stream, flow) in &self.flows {
            flow.fetch(*stream, |message| self.output.put(message));
        }
    }

    /// A stream ends for its caller; the worker is told.
    fn end_stream(&mut self, stream: u32, error: CallError, now: Instant) {
        if let Some(call) = self.sent.take_call(stream) {
            call.finish(Err(error));
            self.tell_cancel(stream, now);
        }
    }

    fn cancel(&mut self, stream: u32, now: Instant) {
        // It may have been cancelled before, by a deadline of its stream.
        if self.sent.take_call(stream).is_some() {
            self.tell_cancel(stream, now);
        }
    }

    /// The caller is gone. The page says it to a worker that looks while it works, the bell makes
    /// it look, and the frame is for one that has no page. On another host the agent has both, and
    /// hears of it ahead of the frames.
    fn tell_cancel(&mut self, stream: u32, now: Instant) {
        self.flows.retain(|(flow, _)| *flow != stream);
        self.end_callbacks(stream);
        let runs = runs(self.tells_started, self.capacity, &self.process, &self.sent)(stream);
        self.cancels.add(stream, runs, self.cancel_grace, self.can_cancel, now);
        self.output.put(Message::Cancel { stream });
        if let Err(error) = self.process.cancel(stream, self.can_cancel) {
            tracing::warn!(worker = %worker_id(self.place), %error, "cancel not told");
        }
    }
}

/// Says which calls run, as far as the host can know. A worker that runs one call at a time runs the
/// one that it started last, if any; one that does not say what it started runs the oldest that it
/// has. A worker that runs several runs whatever it started and has not answered. Nested calls run
/// on top of what was there, and are not published.
fn runs(
    tells_started: bool,
    capacity: u32,
    process: &Process,
    sent: &SentCalls,
) -> impl Fn(u32) -> bool {
    let last = match tells_started {
        true => process.page.started().ok(),
        false => sent.oldest(),
    };
    let nested = sent.nested().to_vec();
    move |stream| match last {
        _ if nested.contains(&stream) => capacity > 1 || nested.last() == Some(&stream),
        // What is under another call cannot go on before that one ends.
        Some(last) if capacity == 1 => last == stream && nested.is_empty(),
        Some(last) if tells_started => sent.get(stream).is_some_and(|s| sent.is_started(s, last)),
        Some(_) => true,
        None => false,
    }
}
