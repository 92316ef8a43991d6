//! What the service shows of the worker processes around it, and offers from them.

use std::fmt;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use snakehouse_tinker_api::json::ErrorDetail;

/// One worker process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// The pool it belongs to.
    pub pool: String,
    /// Its place in the pool.
    pub id: u64,
    /// Which life it is in.
    pub incarnation: u64,
    /// `starting`, `ready`, `busy`, ...
    pub state: String,
    /// Its process, once there is one.
    pub pid: Option<u32>,
    /// Calls it has finished.
    pub calls: u64,
    /// How often it was replaced.
    pub restarts: u64,
    /// Its resident memory in bytes, if known.
    pub rss_bytes: Option<u64>,
}

/// One call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ToolCall {
    /// Positional arguments.
    pub args: Vec<Value>,
    /// Named arguments.
    pub kwargs: Map<String, Value>,
}

/// The worker processes around a service. Whoever starts the pools implements it, so that the
/// service need not know how they are wired.
pub trait Workers: fmt::Debug + Send + Sync + 'static {
    /// The process above all workers.
    fn reaper_pid(&self) -> Option<u32>;
    /// The token that marks every process of this run.
    fn run_token(&self) -> String;
    /// Every worker of every pool.
    fn list(&self) -> Vec<WorkerRow>;
    /// Calls a tool of the tools pool; `None` if the service offers none.
    fn call(
        &self,
        tool: String,
        call: ToolCall,
    ) -> Option<BoxFuture<'_, Result<Value, ErrorDetail>>>;
}
