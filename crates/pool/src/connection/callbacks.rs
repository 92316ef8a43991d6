//! Callbacks: what the worker's tools ask of the host.
//!
//! Owns the callbacks that are open, each as a task of the worker's scope, and their permits; `book` has
//! them by number. A callback ends with its host tool, with the call that it is made in, with the
//! worker's own cancel, at the call's deadline, or with the connection; it is answered exactly once,
//! unless the worker is dead. How many are open, and how many bytes they brought, has a limit for each
//! worker, and how many for the pool; one over it is refused by name. A permit is held until the answer
//! is written: a worker that does not read its answers gets no more, and large answers wait unencoded.
//! Tested with real workers in `tests/it/callbacks.rs` and `tests/it/callback_bytes.rs`, with hostile ones
//! in `tests/it/hostile_callbacks.rs`.

mod book;

use std::borrow::Cow;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use snakehouse_base::id::Incarnation;
use snakehouse_base::{Deadline, Kind};
use snakehouse_guard::by;
use snakehouse_supervise::Scope;
use snakehouse_wire::{Failure, Message, OpenHead, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::book::{Book, Outcome};
use super::Connection;
use crate::dispatcher::worker_id;
use crate::host::chain::Chain;
use crate::host::convert::Answer;
use crate::host::{HostCall, HostTool, HostTools};
use crate::telemetry::{OpenSpan, SpanKind};
use crate::worker::WorkerRef;

/// Refusals that wait for a worker that does not read them.
const MAX_REFUSED: usize = 32 * 1024;

/// The callbacks of one worker.
#[derive(Debug)]
pub(super) struct Callbacks {
    tools: HostTools,
    scope: Scope,
    incarnation: Incarnation,
    book: Book,
    refused: usize,
}

impl Callbacks {
    /// `bell` wakes the connection.
    pub(super) fn new(
        tools: HostTools,
        scope: Scope,
        incarnation: Incarnation,
        bell: Arc<Notify>,
    ) -> Self {
        Self { tools, scope, incarnation, book: Book::new(bell), refused: 0 }
    }

    /// The worker's socket has taken what there was to write up to here, and perhaps all of it.
    pub(super) fn written(&mut self, upto: u64, is_all: bool) {
        if is_all {
            self.refused = 0;
        }
        self.book.written(upto);
    }
}

impl Connection<'_> {
    /// What the worker is told once, if it can make something of it.
    pub(super) fn tell_host_tools(&mut self) {
        if !self.callbacks.tools.is_empty() {
            let settings = Value::from_iter([("host_tools", self.callbacks.tools.to_value())]);
            // They were looked at when the pool started.
            if let Ok(settings) = settings.encode() {
                self.output.put(Message::Settings(settings));
            }
        }
    }

    /// A tool asks for something.
    pub(super) fn open_callback(
        &mut self,
        callback: u32,
        head: &OpenHead,
        body: Bytes,
    ) -> Result<(), String> {
        if self.callbacks.book.is_open(callback) {
            return Err(format!("callback {callback} is open already"));
        }
        let stream = u32::try_from(head.session).unwrap_or_default();
        let refusal = match self.sent.get(stream).map(|sent| sent.call.as_ref()) {
            None => {
                Failure::new(Kind::Conflict, "not_in_call", "the call that it is made in is over")
            }
            Some(None) => over(),
            Some(Some(_)) => match self.start_callback(callback, stream, head, body) {
                Ok(()) => return Ok(()),
                Err(refusal) => refusal,
            },
        };
        self.refuse_callback(callback, &refusal)
    }

    fn start_callback(
        &mut self,
        callback: u32,
        stream: u32,
        head: &OpenHead,
        body: Bytes,
    ) -> Result<(), Failure> {
        let number = head.tool;
        let Some(tool) = self.callbacks.tools.get(number).cloned() else {
            let message = format!("the host has no tool number {number}");
            return Err(Failure::new(Kind::NotFound, "unknown_host_tool", message));
        };
        let pool = self.shared.callbacks.as_ref();
        let Some((held, answers)) = self.callbacks.book.admit(body.len(), pool) else {
            let message = "too many callbacks are open, or they brought too many bytes";
            return Err(Failure::new(Kind::Saturated, "too_many_callbacks", message));
        };
        let Some(call) = self.sent.get(stream).and_then(|sent| sent.call.as_ref()) else {
            return Err(over());
        };
        let ticket = call.ticket;
        let now = Instant::now();
        // Never later than the caller of the tool waits.
        let asked = Deadline::from_wire(head.deadline_micros, now.into_std());
        let deadline = call.options.deadline.min(asked);
        let mut trace = head.trace;
        // A host tool begins no trace: it is a part of its caller's, or of none.
        let mut span = match trace.is_none() {
            true => OpenSpan::default(),
            false => self.shared.span(SpanKind::HostTool, tool.name(), &mut trace),
        };
        let chain = Chain::new(
            self.shared.clone(),
            self.place,
            self.callbacks.incarnation,
            call.chain.depth,
            deadline,
            trace,
            call.outer.clone(),
        );
        let worker = WorkerRef {
            id: worker_id(self.place),
            incarnation: self.callbacks.incarnation,
            pid: self.process.pid,
        };
        let host = HostCall {
            shared: self.shared.clone(),
            chain: chain.clone(),
            worker,
            tool: call.tool.as_str().into(),
            trace,
            answers,
        };
        let (done, serial) = self.callbacks.book.next();
        let task = self.callbacks.scope.task("callback", async move {
            let answer = chain.within(by(deadline, run(&tool, host, body))).await;
            let answer = answer.unwrap_or_else(|| Err(late(tool.name())));
            span.end_as(answer.as_ref().err().map(|failure| Cow::Owned(failure.code.clone())));
            drop(span);
            done.put(callback, serial, answer);
        });
        let was_waiting = self.callbacks.book.is_waited_for(stream);
        self.callbacks.book.enter(callback, stream, task, held);
        if !was_waiting {
            self.tell_waits(ticket, true, now);
        }
        self.shared.tally.callback();
        Ok(())
    }

    pub(super) fn refuse_callback(
        &mut self,
        callback: u32,
        failure: &Failure,
    ) -> Result<(), String> {
        self.callbacks.refused += 1;
        self.shared.tally.callback_refused();
        if self.callbacks.refused > MAX_REFUSED {
            return Err("it makes callbacks and does not read that they are refused".to_owned());
        }
        self.output.put(Message::CallbackError { callback, body: failure.encode() });
        Ok(())
    }

    /// Nobody in the worker waits for a callback any more.
    pub(super) fn cancel_callback(&mut self, callback: u32) {
        if self.callbacks.book.is_open(callback) {
            self.answer_callback(callback, Err(over()));
        } else {
            // It may have been answered just now.
            self.shared.tally.callbacks_late(1);
        }
    }

    /// A call is over, or given up: so is what it asked for.
    pub(super) fn end_callbacks(&mut self, call: u32) {
        if !self.callbacks.book.is_waited_for(call) {
            return;
        }
        let of_call: Vec<_> = self.callbacks.book.of_call(call).collect();
        for callback in of_call {
            self.answer_callback(callback, Err(over()));
        }
    }

    /// Sends what host tools have done.
    pub(super) fn answer_callbacks(&mut self) {
        let (outcomes, late) = self.callbacks.book.take_done();
        if late > 0 {
            self.shared.tally.callbacks_late(late);
        }
        for (callback, outcome) in outcomes {
            self.answer_callback(callback, outcome);
        }
    }

    fn answer_callback(&mut self, callback: u32, outcome: Outcome) {
        let Some((call, held)) = self.callbacks.book.close(callback) else { return };
        let (message, room) = match outcome {
            Ok(Answer { body, room }) => (Message::CallbackReply { callback, body }, room),
            Err(failure) => (Message::CallbackError { callback, body: failure.encode() }, None),
        };
        self.output.put(message);
        self.callbacks.book.unwritten(self.output.end(), held, room);
        if !self.callbacks.book.is_waited_for(call)
            && let Some(sent) = self.sent.get(call)
        {
            let ticket = sent.ticket;
            self.tell_waits(ticket, false, Instant::now());
        }
    }

    /// Lets the dispatcher know whether a call waits for a callback. What it gives to this worker
    /// because of that is fetched in the turn that is under way.
    fn tell_waits(&mut self, ticket: crate::dispatcher::Ticket, waits: bool, now: Instant) {
        let place = self.place;
        self.shared.change(|dispatcher, after| {
            dispatcher.waits(place, ticket, waits, now, after);
        });
    }
}

/// Runs a host tool; a panic is its failure and nobody else's.
async fn run(tool: &HostTool, call: HostCall, body: Bytes) -> Outcome {
    let guarded = |panic: Box<dyn std::any::Any + Send>| {
        let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let text = text.unwrap_or_else(|| "without a message".to_owned());
        tracing::error!(tool = tool.name(), panic = %text, "host tool panicked");
        Failure::new(Kind::Internal, "panic", format!("host tool {} panicked: {text}", tool.name()))
    };
    let made = catch_unwind(AssertUnwindSafe(|| tool.run(call, body)));
    let mut future = pin!(made.map_err(guarded)?);
    let outcome = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => std::task::Poll::Ready(Err(panic)),
    });
    match outcome.await {
        Ok(answer) => answer.map_err(crate::host::HostError::into_failure),
        Err(panic) => Err(guarded(panic)),
    }
}

fn over() -> Failure {
    Failure::new(Kind::Cancelled, "cancelled", "the call that it was made in is over or given up")
}

fn late(tool: &str) -> Failure {
    let message = format!("the deadline passed while host tool {tool} ran");
    Failure::new(Kind::Deadline, "deadline", message)
}
