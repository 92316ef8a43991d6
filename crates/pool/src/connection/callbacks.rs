//! Callbacks: what the worker's tools ask of the host.
//!
//! Owns the callbacks that are open, each as a task of the worker's scope, and their permits. A
//! callback ends with its host tool, with the call that it is made in, with the worker's own cancel, at
//! the call's deadline, or with the connection; it is answered exactly once, unless the worker is dead.
//! How many are open, and how many bytes they brought, has a limit for each worker and for the pool;
//! one over it is refused by name. A permit is held until the answer is written: a worker that does not
//! read its answers gets no more. Tested with real workers in `tests/it/callbacks.rs`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use snakehouse_base::id::Incarnation;
use snakehouse_base::{ByteSize, Deadline, Kind};
use snakehouse_guard::{Permit, Permits, by};
use snakehouse_supervise::{Scope, Task};
use snakehouse_wire::{Failure, Message, OpenHead, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::dispatcher::worker_id;
use crate::host::chain::Chain;
use crate::host::{HostCall, HostTool, HostTools};
use crate::telemetry::{OpenSpan, SpanKind};
use crate::worker::WorkerRef;

use super::Connection;

/// Callbacks of one worker that are open, or answered and the answer is not written.
const MOST: usize = 1024;

/// Bytes of their arguments, together.
const MOST_BYTES: ByteSize = ByteSize::mib(256);

/// Refusals that wait for a worker that does not read them.
const MAX_REFUSED: usize = 32 * 1024;

/// The callbacks of one worker.
#[derive(Debug)]
pub(super) struct Callbacks {
    tools: HostTools,
    scope: Scope,
    incarnation: Incarnation,
    /// By the worker's numbers.
    open: HashMap<u32, Open>,
    done: Arc<Done>,
    permits: Option<Permits>,
    /// Of answers that are not written.
    unwritten: Vec<Held>,
    refused: usize,
}

#[derive(Debug)]
struct Open {
    /// The host's number of the call that it is made in.
    call: u32,
    task: Task<()>,
    held: Held,
}

/// The worker's permit, and the pool's.
type Held = (Permit, Permit);

/// Outcomes of host tools, for the connection to fetch.
#[derive(Debug)]
struct Done {
    answers: Mutex<Vec<(u32, Result<Bytes, Failure>)>>,
    bell: Arc<Notify>,
}

impl Done {
    fn put(&self, callback: u32, answer: Result<Bytes, Failure>) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push((callback, answer));
        self.bell.notify_one();
    }

    fn take(&self) -> Vec<(u32, Result<Bytes, Failure>)> {
        std::mem::take(&mut self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Callbacks {
    /// `bell` wakes the connection.
    pub(super) fn new(
        tools: HostTools,
        scope: Scope,
        incarnation: Incarnation,
        bell: Arc<Notify>,
    ) -> Self {
        Self {
            tools,
            scope,
            incarnation,
            open: HashMap::new(),
            done: Arc::new(Done { answers: Mutex::default(), bell }),
            permits: Permits::new(MOST, MOST_BYTES).ok(),
            unwritten: Vec::new(),
            refused: 0,
        }
    }

    /// The worker has read what was written.
    pub(super) fn written(&mut self) {
        self.refused = 0;
        self.unwritten.clear();
    }

    fn is_waited_for(&self, call: u32) -> bool {
        self.open.values().any(|open| open.call == call)
    }
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        for open in self.open.values() {
            open.task.abort();
        }
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
        if self.callbacks.open.contains_key(&callback) {
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
        let held = self.permit(&body)?;
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
        };
        let done = self.callbacks.done.clone();
        let task = self.callbacks.scope.task("callback", async move {
            let answer = chain.within(by(deadline, run(&tool, host, body))).await;
            let answer = answer.unwrap_or_else(|| Err(late(tool.name())));
            span.end_as(answer.as_ref().err().map(|failure| Cow::Owned(failure.code.clone())));
            drop(span);
            done.put(callback, answer);
        });
        let was_waiting = self.callbacks.is_waited_for(stream);
        self.callbacks.open.insert(callback, Open { call: stream, task, held });
        if !was_waiting {
            self.tell_waits(ticket, true, now);
        }
        self.shared.tally.callback();
        Ok(())
    }

    fn permit(&self, body: &Bytes) -> Result<Held, Failure> {
        let bytes = ByteSize(body.len() as u64);
        let permits = [self.callbacks.permits.as_ref(), self.shared.callbacks.as_ref()];
        let [Some(own), Some(pool)] =
            permits.map(|permits| permits.and_then(|permits| permits.try_acquire(bytes)))
        else {
            let message = "too many callbacks are open, or they brought too many bytes";
            return Err(Failure::new(Kind::Saturated, "too_many_callbacks", message));
        };
        Ok((own, pool))
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
        // It may have been answered just now.
        if self.callbacks.open.contains_key(&callback) {
            self.answer_callback(callback, Err(over()));
        }
    }

    /// A call is over, or given up: so is what it asked for.
    pub(super) fn end_callbacks(&mut self, call: u32) {
        if self.callbacks.open.is_empty() {
            return;
        }
        let of_call = self.callbacks.open.iter().filter(|(_, open)| open.call == call);
        let of_call: Vec<_> = of_call.map(|(callback, _)| *callback).collect();
        for callback in of_call {
            self.answer_callback(callback, Err(over()));
        }
    }

    /// Sends what host tools have done.
    pub(super) fn answer_callbacks(&mut self) {
        if self.callbacks.open.is_empty() {
            return;
        }
        for (callback, answer) in self.callbacks.done.take() {
            self.answer_callback(callback, answer);
        }
    }

    fn answer_callback(&mut self, callback: u32, answer: Result<Bytes, Failure>) {
        // One that was answered before its host tool could be dropped.
        let Some(open) = self.callbacks.open.remove(&callback) else { return };
        open.task.abort();
        self.callbacks.unwritten.push(open.held);
        self.output.put(match answer {
            Ok(body) => Message::CallbackReply { callback, body },
            Err(failure) => Message::CallbackError { callback, body: failure.encode() },
        });
        if !self.callbacks.is_waited_for(open.call)
            && let Some(sent) = self.sent.get(open.call)
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
async fn run(tool: &HostTool, call: HostCall, body: Bytes) -> Result<Bytes, Failure> {
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
