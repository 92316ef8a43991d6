//! What a host tool knows about the call that it serves.

use std::fmt;
use std::sync::Arc;

use snakehouse_base::Deadline;
use snakehouse_wire::{TraceContext, Value};

use super::chain::Chain;
use super::convert::AnswerRoom;
use crate::call::{Args, CallError, CallOptions};
use crate::pool::{Shared, call_value};
use crate::worker::WorkerRef;

/// One call of a host tool. Cheap to clone.
#[derive(Clone)]
pub struct HostCall {
    pub(crate) shared: Arc<Shared>,
    pub(crate) chain: Chain,
    pub(crate) worker: WorkerRef,
    pub(crate) tool: Arc<str>,
    pub(crate) trace: TraceContext,
    pub(crate) answers: AnswerRoom,
}

impl HostCall {
    /// When the caller of the tool that called this one stops waiting. The host tool is dropped then.
    pub fn deadline(&self) -> Deadline {
        self.chain.deadline()
    }

    /// The worker that the call came from.
    pub fn worker(&self) -> WorkerRef {
        self.worker
    }

    /// The tool that the worker runs.
    pub fn tool(&self) -> &str {
        &self.tool
    }

    /// How many callbacks there are in the chain up to this one: 1 for a host tool that is called by
    /// the tool of an ordinary call.
    pub fn depth(&self) -> u8 {
        self.chain.depth()
    }

    /// The trace that the caller is part of, and its span.
    pub fn trace(&self) -> TraceContext {
        self.trace
    }

    /// Calls a tool of the same pool, as a part of the chain. Dropping the future cancels the call.
    ///
    /// # Errors
    /// As [`Pool::call`](crate::Pool::call).
    pub async fn call(
        &self,
        tool: &str,
        args: Args,
        options: CallOptions,
    ) -> Result<Value, CallError> {
        self.within(call_value(&self.shared, None, tool, args, options)).await
    }

    /// Runs a future as a part of the chain: for what a host tool gives to another task. What such a
    /// task calls without this waits for a worker like any other call, and not in the chain.
    pub async fn within<F: Future>(&self, future: F) -> F::Output {
        self.chain.clone().within(future).await
    }
}

impl fmt::Debug for HostCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostCall")
            .field("tool", &self.tool)
            .field("worker", &self.worker)
            .field("depth", &self.depth())
            .finish_non_exhaustive()
    }
}
