//! What a caller says and gets.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use snakehouse_base::id::{Incarnation, WorkerId};
use snakehouse_base::{Coded, Deadline, Kind};
use snakehouse_supervise::LaneError;
use snakehouse_wire::buffer::SharedBuffer;
use snakehouse_wire::{ConvertError, Failure, TraceContext, Value, ValueError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::death::Death;
use crate::dispatcher::Ticket;
use crate::host::chain::{Chain, Place};
use crate::session::{SessionEnd, Tag};
use crate::stream::flow::{Flow, FlowHold};

/// The arguments of a Python tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// By position.
    pub args: Vec<Value>,
    /// By name.
    pub kwargs: Vec<(String, Value)>,
}

impl Args {
    /// No arguments.
    pub fn none() -> Self {
        Self::default()
    }

    /// One more by position.
    #[must_use]
    pub fn arg(mut self, value: impl Into<Value>) -> Self {
        self.args.push(value.into());
        self
    }

    /// One more by name.
    #[must_use]
    pub fn kwarg(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.kwargs.push((name.into(), value.into()));
        self
    }

    /// `by_name`: shared buffers are not copied.
    pub(crate) fn encode(self, by_name: bool) -> Result<Body, ValueError> {
        let (bytes, shared) = Value::encode_call(&self.args, &self.kwargs, by_name)?;
        Ok(Body { bytes, shared })
    }
}

/// The body of a call, and the buffers that it names.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    pub(crate) shared: Vec<SharedBuffer>,
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, shared: Vec::new() }
    }
}

/// How a call is made. The default is a deadline 300 s from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallOptions {
    /// After this nobody wants the answer: queueing, transport and the tool's own time included.
    pub deadline: Deadline,
    /// The trace that the call belongs to, and the span that it is a child of. Default: none.
    pub trace: TraceContext,
    /// Whether running it twice does no harm. If its worker dies during the call, it is then given to
    /// another one, once. Default: no. Calls of sessions and streams are never repeated.
    pub idempotent: bool,
}

impl CallOptions {
    /// With this deadline.
    pub const fn until(deadline: Deadline) -> Self {
        Self { deadline, trace: TraceContext::NONE, idempotent: false }
    }

    /// Says that running the call twice does no harm, or that it does.
    #[must_use]
    pub const fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// As a part of this trace.
    #[must_use]
    pub const fn traced(mut self, trace: TraceContext) -> Self {
        self.trace = trace;
        self
    }

    /// With a deadline so long from now.
    pub fn within(duration: Duration) -> Self {
        Self::until(Deadline::after(Instant::now().into_std(), duration))
    }
}

impl Default for CallOptions {
    fn default() -> Self {
        Self::within(Deadline::CALL)
    }
}

/// Where a call was when its deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// Waiting for a worker. It had no effect.
    Queue,
    /// Sent to a worker, which may have started it.
    Worker,
}

/// Why a call has no result. Every call has exactly one outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The worker died while it ran the call.
    #[error("worker {worker} died {}: {cause}", match .started {
        true => "during the call",
        false => "with the call before it could start, like those before it",
    })]
    WorkerDied {
        /// The worker.
        worker: WorkerId,
        /// Which of its lives.
        incarnation: Incarnation,
        /// Whether the call had started. One that had not is sent to another worker instead of
        /// failing, unless four in a row died with it before they ran anything.
        started: bool,
        /// How it died.
        cause: Death,
    },
    /// The worker died and does not say what it starts: the call may or may not have run.
    #[error("worker {worker} died, and whether the call ran is not known: {cause}")]
    OutcomeUnknown {
        /// The worker.
        worker: WorkerId,
        /// Which of its lives.
        incarnation: Incarnation,
        /// How it died.
        cause: Death,
    },
    /// The deadline passed.
    #[error("the deadline passed while the call was {}", match .at { Where::Queue => "in the queue", Where::Worker => "at the worker" })]
    Deadline {
        /// Where the call was then.
        at: Where,
    },
    /// No worker lived to run the call until its deadline, or none of a pool's workers ever could be
    /// started. The call had no effect.
    #[error("no worker lived to run the call: {cause}")]
    NoWorker {
        /// How the last one ended.
        cause: String,
    },
    /// The worker stopped the call because it was asked to.
    #[error("the call was cancelled")]
    Cancelled,
    /// As many calls wait as may wait.
    #[error("{limit} calls are waiting already")]
    Saturated {
        /// The limit.
        limit: usize,
    },
    /// The tool failed.
    #[error("tool {tool} failed: {failure}")]
    Tool {
        /// The tool.
        tool: String,
        /// What it said.
        failure: Box<Failure>,
    },
    /// It comes out of more host tools, each called by a tool that the one before it called, than may
    /// be. It had no effect.
    #[error("the call comes through more than {limit} host tools")]
    TooDeep {
        /// How many may be.
        limit: u8,
    },
    /// It comes out of a host tool, and every worker that could run it waits for a host tool itself and
    /// can run nothing more meanwhile. It had no effect.
    #[error("every worker waits for a host tool, and none can run the call meanwhile")]
    WouldDeadlock,
    /// No such tool.
    #[error("there is no tool {tool}")]
    UnknownTool {
        /// What was asked for.
        tool: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The incarnation that the session was pinned to is dead, and the call had not started.
    #[error("the session is lost with incarnation {incarnation} of worker {worker}: {cause}")]
    SessionLost {
        /// The worker.
        worker: WorkerId,
        /// The dead incarnation.
        incarnation: Incarnation,
        /// How it died.
        cause: Death,
    },
    /// The session was closed, or it expired.
    #[error("the session takes no more calls: {end}")]
    SessionEnded {
        /// Which of the two.
        end: SessionEnd,
    },
    /// The session's worker has no free place, and the session does not wait for one.
    #[error("worker {worker} of the session is busy")]
    WorkerBusy {
        /// The worker.
        worker: WorkerId,
    },
    /// As many sessions are there as may be.
    #[error("there are {limit} sessions already")]
    SessionQuota {
        /// The limit.
        limit: usize,
    },
    /// No session may have this name.
    #[error("a session cannot have this name: {rule}")]
    BadSessionName {
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// A session of this name is there and behaves otherwise.
    #[error("session {name} exists with another affinity or time to live")]
    SessionConflict {
        /// The name.
        name: String,
    },
    /// The arguments cannot travel.
    #[error("the arguments cannot be sent: {0}")]
    BadArguments(ValueError),
    /// The result is not a value.
    #[error("the result of tool {tool} cannot be read: {error}")]
    BadResult {
        /// The tool.
        tool: String,
        /// What is wrong with it.
        error: ValueError,
    },
    /// The result, or an item, is of another type than the Rust side declares.
    #[error("tool {tool} gave something else than Rust declares: {error}")]
    ResultType {
        /// The tool.
        tool: String,
        /// What is wrong with it.
        error: ConvertError,
    },
    /// An item of a stream is not a value.
    #[error("an item of tool {tool} cannot be read: {error}")]
    BadItem {
        /// The tool.
        tool: String,
        /// What is wrong with it.
        error: ValueError,
    },
    /// Nothing more can be sent: the stream is over, or was told that nothing more comes.
    #[error("the stream takes no more items")]
    StreamOver,
    /// The pool is stopped.
    #[error("the pool is stopped")]
    Stopped,
    /// Something of the host panicked while it read the result, which is lost with that.
    #[error("the host failed with the call: {what}")]
    Panicked {
        /// What, and what it said.
        what: String,
    },
    /// Workers died of the calls before this one, and the pool's breaker lets none through for now.
    #[error("workers keep dying; the next call may go in {retry_in:?}")]
    BreakerOpen {
        /// When another call may be let through.
        retry_in: Duration,
    },
}

impl CallError {
    /// Work of the pool's own that was not done: it panicked, or the pool stops.
    pub(crate) fn of_lane(error: &LaneError) -> Self {
        match error {
            LaneError::Panicked { .. } => Self::Panicked { what: error.to_string() },
            _ => Self::Stopped,
        }
    }

    /// Whether nothing of the call can have run.
    pub fn is_without_effect(&self) -> bool {
        match self {
            Self::WorkerDied { started, .. } => !started,
            Self::Deadline { at } => *at == Where::Queue,
            Self::NoWorker { .. }
            | Self::Saturated { .. }
            | Self::TooDeep { .. }
            | Self::WouldDeadlock
            | Self::UnknownTool { .. }
            | Self::SessionLost { .. }
            | Self::SessionEnded { .. }
            | Self::WorkerBusy { .. }
            | Self::SessionQuota { .. }
            | Self::BadSessionName { .. }
            | Self::SessionConflict { .. }
            | Self::BadArguments(_)
            | Self::BreakerOpen { .. } => true,
            _ => false,
        }
    }
}

impl Coded for CallError {
    fn kind(&self) -> Kind {
        match self {
            Self::WorkerDied { .. } => Kind::WorkerDied,
            Self::OutcomeUnknown { .. } => Kind::OutcomeUnknown,
            Self::Deadline { .. } | Self::NoWorker { .. } => Kind::Deadline,
            Self::Cancelled => Kind::Cancelled,
            Self::Saturated { .. }
            | Self::WouldDeadlock
            | Self::WorkerBusy { .. }
            | Self::SessionQuota { .. } => Kind::Saturated,
            Self::BadSessionName { .. } | Self::TooDeep { .. } => Kind::InvalidInput,
            Self::Tool { failure, .. } => failure.kind,
            Self::UnknownTool { .. } => Kind::NotFound,
            Self::SessionLost { .. }
            | Self::SessionEnded { .. }
            | Self::Stopped
            | Self::BreakerOpen { .. } => Kind::Unavailable,
            Self::BadArguments(error) => error.kind(),
            Self::BadResult { .. } | Self::BadItem { .. } => Kind::Corrupt,
            Self::ResultType { error, .. } => error.kind(),
            Self::StreamOver | Self::SessionConflict { .. } => Kind::Conflict,
            Self::Panicked { .. } => Kind::Internal,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::WorkerDied { .. } => "worker_died",
            Self::OutcomeUnknown { .. } => "outcome_unknown",
            Self::Deadline { .. } => "deadline",
            Self::NoWorker { .. } => "no_worker",
            Self::Cancelled => "cancelled",
            Self::Saturated { .. } => "saturated",
            Self::TooDeep { .. } => "too_deep",
            Self::WouldDeadlock => "would_deadlock",
            Self::Tool { .. } => "tool_failed",
            Self::UnknownTool { .. } => "unknown_tool",
            Self::BreakerOpen { .. } => "breaker_open",
            Self::SessionLost { .. } => "session_lost",
            Self::SessionEnded { .. } => "session_ended",
            Self::WorkerBusy { .. } => "worker_busy",
            Self::SessionQuota { .. } => "session_quota",
            Self::BadSessionName { .. } => "bad_session_name",
            Self::SessionConflict { .. } => "session_conflict",
            Self::BadArguments(error) => error.code(),
            Self::BadResult { .. } => "bad_result",
            Self::ResultType { .. } => "result_type",
            Self::BadItem { .. } => "bad_item",
            Self::StreamOver => "stream_over",
            Self::Stopped => "pool_stopped",
            Self::Panicked { .. } => "lane_panicked",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::WorkerDied { started: false, .. } => Some(
                "nothing of it ran; the call itself may be what ends them: try smaller arguments"
                    .to_owned(),
            ),
            Self::NoWorker { .. } => Some(
                "workers are started again by themselves; look for the cause in their output"
                    .to_owned(),
            ),
            Self::WorkerDied { started: true, .. } => Some(
                "a new incarnation starts by itself; repeat the call if repeating is harmless"
                    .to_owned(),
            ),
            Self::OutcomeUnknown { .. } => {
                Some("find out whether it took effect before repeating it".to_owned())
            }
            Self::Deadline { at: Where::Queue } => {
                Some("the workers are busy: add workers or send less".to_owned())
            }
            Self::Deadline { at: Where::Worker } => Some("give the call more time".to_owned()),
            Self::Saturated { .. } => Some("send less at once, or try later".to_owned()),
            Self::TooDeep { .. } => {
                Some("does a tool call itself through the host for ever?".to_owned())
            }
            Self::WouldDeadlock => Some("add workers, or call back less deep".to_owned()),
            Self::Tool { failure, .. } => failure.hint.clone(),
            Self::UnknownTool { known, .. } => Some(match known.as_slice() {
                [] => "the worker offers no tools; mark functions with @tool".to_owned(),
                known => format!("there are: {}", known.join(", ")),
            }),
            Self::BreakerOpen { .. } => Some(
                "find out what the workers die of (`pool stats` counts the causes), or wait"
                    .to_owned(),
            ),
            Self::SessionLost { .. } => {
                Some("re-create the session and set its state up again".to_owned())
            }
            Self::SessionEnded { .. } => {
                Some("open it again, if need be with a longer time to live".to_owned())
            }
            Self::WorkerBusy { .. } => {
                Some("try again, or let the session's calls wait: affinity queue".to_owned())
            }
            Self::SessionQuota { .. } => {
                Some("close sessions, let them expire sooner, or raise the limit".to_owned())
            }
            Self::SessionConflict { .. } => {
                Some("open it with the options it was made with, or close it first".to_owned())
            }
            Self::BadArguments(error) => error.hint(),
            Self::StreamOver => Some("its result says how it ended".to_owned()),
            Self::ResultType { .. } => Some(
                "give the Python function a return annotation: it is checked at the start".into(),
            ),
            Self::Panicked { .. } => {
                Some("that is a fault of the pool's own: report it".to_owned())
            }
            Self::BadSessionName { .. }
            | Self::Cancelled
            | Self::BadResult { .. }
            | Self::BadItem { .. }
            | Self::Stopped => None,
        }
    }
}

/// A call on its way. It is in exactly one place at a time, and whoever has it must finish it.
#[derive(Debug)]
pub(crate) struct Call {
    /// Its name in the pool, which orders the queue; kept when a call goes back to it.
    pub(crate) ticket: Ticket,
    pub(crate) tool: String,
    /// The tool's number at the worker it was given to.
    pub(crate) number: u16,
    pub(crate) body: Body,
    pub(crate) options: CallOptions,
    /// Its session, if it is of one.
    pub(crate) session: Option<Arc<Tag>>,
    /// Whether it is a stream.
    pub(crate) stream: bool,
    /// Workers that died with it as the next call to start.
    pub(crate) deaths: u32,
    /// Where it stands in a chain of calls.
    pub(crate) chain: Place,
    /// The chain that it was made in.
    pub(crate) outer: Option<Chain>,
    pub(crate) reply: Reply,
}

/// Where the outcome goes to. A caller that is gone does not mind.
#[derive(Debug)]
pub(crate) enum Reply {
    Once(oneshot::Sender<Result<Bytes, CallError>>),
    Stream(FlowHold),
}

impl From<oneshot::Sender<Result<Bytes, CallError>>> for Reply {
    fn from(sender: oneshot::Sender<Result<Bytes, CallError>>) -> Self {
        Self::Once(sender)
    }
}

impl Call {
    /// Whether it is a stream: it starts at once where it is sent, and lasts as long as its parties
    /// like.
    pub(crate) const fn is_stream(&self) -> bool {
        self.stream
    }

    /// Whether nobody waits for the outcome any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        match &self.reply {
            Reply::Once(sender) => sender.is_closed(),
            Reply::Stream(hold) => hold.0.is_abandoned(),
        }
    }

    /// What a stream shares with its caller.
    pub(crate) fn flow(&self) -> Option<&Arc<Flow>> {
        match &self.reply {
            Reply::Once(_) => None,
            Reply::Stream(hold) => Some(&hold.0),
        }
    }

    /// Gives the caller the one outcome.
    pub(crate) fn finish(self, outcome: Result<Bytes, CallError>) {
        match self.reply {
            Reply::Once(sender) => {
                let _ = sender.send(outcome);
            }
            Reply::Stream(hold) => hold.0.finish(outcome),
        }
    }

    /// What an error frame means for this call. A tool of a program chooses kind and code: only both
    /// together are the call's own end, and a kind alone may be about something that the tool did.
    pub(crate) fn failed(self, failure: Failure) {
        let error = match (failure.kind, failure.code.as_str()) {
            (Kind::Deadline, "deadline") => CallError::Deadline { at: Where::Worker },
            (Kind::Cancelled, "cancelled") => CallError::Cancelled,
            _ => CallError::Tool { tool: self.tool.clone(), failure: Box::new(failure) },
        };
        self.finish(Err(error));
    }
}
