//! What the service shows of the worker processes around it, and offers from them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use snakehouse_base::{ByteSize, Coded, Deadline};
use snakehouse_pool::{
    Affinity, Args, CallError, CallOptions, JsonError, Pool, PoolStats, Reaper, SessionOptions,
    WorkerState, from_json, to_json,
};
use snakehouse_tinker_api::json::ErrorDetail;

use crate::core::{CoreStatus, EngineState};

/// The worker processes around a service.
#[derive(Clone, Debug)]
pub struct Workers {
    /// The parent of all of them.
    pub reaper: Reaper,
    /// Serves `POST /api/v1/snakehouse/tools/{name}`, if there are tools to offer.
    pub tools: Option<Pool>,
}

/// One worker process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct WorkerRow {
    pool: String,
    id: u64,
    incarnation: u64,
    state: WorkerState,
    pid: Option<u32>,
    calls: u64,
    in_flight: u64,
    restarts: u64,
    rss_bytes: Option<u64>,
}

impl WorkerRow {
    /// The engine, which the core keeps to itself.
    pub(crate) fn engine(status: &CoreStatus) -> Self {
        let state = match status.engine {
            EngineState::Starting => WorkerState::Starting,
            EngineState::Recovering | EngineState::Busy => WorkerState::Busy,
            EngineState::Idle => WorkerState::Ready,
            EngineState::Stopped => WorkerState::Dead,
        };
        Self {
            pool: "engine".to_owned(),
            id: 0,
            incarnation: status.engine_incarnation,
            state,
            pid: status.engine_pid,
            calls: status.finished_ops,
            in_flight: u64::from(state == WorkerState::Busy),
            restarts: status.engine_deaths,
            rss_bytes: None,
        }
    }
}

/// A call of a tool, as it arrives.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ToolCall {
    args: Vec<Value>,
    kwargs: Map<String, Value>,
    /// The deadline in seconds from now.
    timeout_s: f64,
    /// The session that it belongs to, made if there is none of this name.
    session: Option<String>,
    /// What calls of that session do when its worker is busy.
    affinity: Affinity,
    /// Whether the session is made anew if it is lost.
    recreate: bool,
}

impl Default for ToolCall {
    fn default() -> Self {
        Self {
            args: Vec::new(),
            kwargs: Map::new(),
            timeout_s: Deadline::CALL.as_secs_f64(),
            session: None,
            affinity: Affinity::default(),
            recreate: false,
        }
    }
}

/// Why a tool's answer cannot be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolCallError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the tool's result: {0}")]
    Result(#[from] JsonError),
}

impl ToolCallError {
    /// The parts of the error. A tool's own code and hint say more than that it failed.
    pub(crate) fn detail(&self) -> ErrorDetail {
        match self {
            Self::Call(error) => {
                let detail = ErrorDetail::of(error);
                match error {
                    CallError::Tool { failure, .. } => {
                        ErrorDetail { code: failure.code.clone(), ..detail }
                    }
                    _ => detail,
                }
            }
            Self::Result(error) => {
                ErrorDetail { message: self.to_string(), ..ErrorDetail::of(error) }
            }
        }
    }

    pub(crate) fn kind(&self) -> snakehouse_base::Kind {
        match self {
            Self::Call(error) => error.kind(),
            Self::Result(error) => error.kind(),
        }
    }
}

impl Workers {
    /// Every worker of the pools beside the engine.
    pub(crate) fn rows(&self) -> Vec<WorkerRow> {
        let Some(pool) = &self.tools else { return Vec::new() };
        let row = |worker: snakehouse_pool::WorkerInfo| WorkerRow {
            pool: pool.name().to_owned(),
            id: worker.id.0,
            incarnation: worker.incarnation.0,
            state: worker.state,
            pid: worker.pid,
            calls: worker.calls,
            in_flight: u64::try_from(worker.in_flight).unwrap_or(u64::MAX),
            restarts: worker.restarts,
            rss_bytes: worker.rss.map(|ByteSize(bytes)| bytes),
        };
        pool.workers().into_iter().map(row).collect()
    }

    /// The numbers of the pools beside the engine.
    pub(crate) fn stats(&self) -> Vec<PoolStats> {
        self.tools.iter().map(Pool::stats).collect()
    }

    /// Calls a tool. Dropping the future cancels the call.
    pub(crate) async fn call(
        pool: &Pool,
        tool: &str,
        call: ToolCall,
    ) -> Result<Value, ToolCallError> {
        let within = Duration::try_from_secs_f64(call.timeout_s).unwrap_or(Deadline::CALL);
        let args = Args {
            args: call.args.into_iter().map(from_json).collect(),
            kwargs: call.kwargs.into_iter().map(|(name, value)| (name, from_json(value))).collect(),
        };
        let options = CallOptions::within(within);
        let value = match call.session {
            None => pool.call(tool, args, options).await?,
            Some(name) => {
                let kind = SessionOptions::default().affinity(call.affinity);
                let found = pool.named_session(&name, kind)?;
                let session = if call.recreate { found.recreate()? } else { found };
                session.call(tool, args, options).await?
            }
        };
        Ok(to_json(&value)?)
    }
}
