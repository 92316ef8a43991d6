//! The way from a running call to the tools of the host.
//!
//! A handler that waits for the host holds itself, so it gives itself along: calls that come out of the
//! callback run on it meanwhile, one on top of the other. Owns what is known of the host's tools and of
//! callbacks; the loop in `serve` reads and writes. Tested in `tests/worker.rs` and by the conformance
//! check.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use snakehouse_base::Kind;

use super::{CallContext, Handler};
use crate::failure::Failure;
use crate::frame::{FrameError, FrameKind};
use crate::value::Value;

/// What a handler calls tools of the host by, for as long as its call runs.
pub struct Host<'a> {
    pub(super) link: &'a mut dyn Link,
    pub(super) call: CallContext,
    pub(super) depth: u8,
}

/// The loop, as a running call sees it.
pub(super) trait Link {
    /// Asks the host and waits for the answer.
    fn ask(
        &mut self,
        handler: &mut dyn Handler,
        call: &CallContext,
        depth: u8,
        tool: &str,
        body: Bytes,
    ) -> Result<Bytes, Failure>;
}

impl Host<'_> {
    /// Calls a tool of the host with the body `[args, kwargs]` and gives the bytes of its result. Blocks
    /// until the host answers, which it does by the deadline of the running call at the latest.
    /// `handler` is the one that runs the call: what the host tool calls in this worker runs on it
    /// meanwhile.
    ///
    /// # Errors
    /// The host's [`Failure`]; `unknown_host_tool` if it has no such tool; `cancelled` as soon as the
    /// running call is; `host_gone` if nobody will answer.
    pub fn call(
        &mut self,
        handler: &mut dyn Handler,
        tool: &str,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        self.link.ask(handler, &self.call, self.depth, tool, body)
    }
}

impl std::fmt::Debug for Host<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("call", &self.call.stream).finish_non_exhaustive()
    }
}

/// The host's tools, and the callbacks that are not answered.
#[derive(Debug, Default)]
pub(super) struct Callbacks {
    /// A tool's number is its place.
    tools: Vec<String>,
    newest: u32,
    open: HashSet<u32>,
    /// Those of them that nobody waits for any more.
    abandoned: HashSet<u32>,
    answers: HashMap<u32, Result<Bytes, Failure>>,
}

impl Callbacks {
    /// What the settings say about tools, if they do.
    pub(super) fn learn(&mut self, settings: &Bytes) {
        let settings = Value::decode(settings).ok();
        let tools = settings.as_ref().and_then(|map| map.get("host_tools")?.as_slice());
        let name = |tool: &Value| tool.get("name").and_then(Value::as_str).map(str::to_owned);
        if let Some(tools) = tools {
            self.tools = tools.iter().map(|tool| name(tool).unwrap_or_default()).collect();
        }
    }

    /// The number of a tool.
    pub(super) fn find(&self, tool: &str) -> Result<u16, Failure> {
        let at = self.tools.iter().position(|name| name == tool);
        at.and_then(|at| u16::try_from(at).ok()).ok_or_else(|| {
            let message = format!("the host has no tool {tool}");
            Failure::new(Kind::NotFound, "unknown_host_tool", message)
        })
    }

    /// The number of a new callback.
    pub(super) fn open(&mut self) -> u32 {
        loop {
            self.newest = self.newest.checked_add(1).unwrap_or(1);
            if self.open.insert(self.newest) {
                return self.newest;
            }
        }
    }

    /// The host answered.
    ///
    /// # Errors
    /// There is no such callback.
    pub(super) fn answered(
        &mut self,
        callback: u32,
        answer: Result<Bytes, Failure>,
    ) -> Result<(), FrameError> {
        if !self.open.remove(&callback) {
            let kind = FrameKind::CallbackLast;
            return Err(FrameError::OutOfPlace { kind, stream: callback });
        }
        if !self.abandoned.remove(&callback) {
            self.answers.insert(callback, answer);
        }
        Ok(())
    }

    /// The answer, if it is there.
    pub(super) fn take(&mut self, callback: u32) -> Option<Result<Bytes, Failure>> {
        self.answers.remove(&callback)
    }

    /// Nobody waits for the answer any more, which will come all the same.
    pub(super) fn abandon(&mut self, callback: u32) {
        self.abandoned.insert(callback);
    }
}
