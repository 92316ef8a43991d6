//! Routes of our own, under `/api/v1/snakehouse/`: for the command line and for tests.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use snakehouse_base::Kind;
use snakehouse_base::id::ModelId;
use snakehouse_pool::{CallError, PoolStats};

use super::body::JsonBody;
use super::error::RequestError;
use super::refusal::{Refusal, status_of};
use super::routes::Api;
use super::workers::{ToolCall, ToolCallError, WorkerRow, Workers};
use crate::core::CoreStatus;

/// What `status` answers: numbers of the core, and the processes around it.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    ready: bool,
    pid: u32,
    version: &'static str,
    reaper_pid: Option<u32>,
    run_token: Option<String>,
    held_polls: u64,
    workers: Vec<WorkerRow>,
    /// Counters, queue and latencies of each pool.
    pools: Vec<PoolStats>,
    /// Processes that outlived a reaper and were found by run token. 0 unless one was killed.
    swept: u64,
    #[serde(flatten)]
    core: CoreStatus,
}

pub(crate) async fn status(State(api): State<Api>) -> Json<Status> {
    let core = api.core.status();
    let around = api.workers.as_ref();
    let mut workers = vec![WorkerRow::engine(&core)];
    workers.extend(around.map(Workers::rows).unwrap_or_default());
    Json(Status {
        ready: api.core.ready(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION"),
        reaper_pid: around.and_then(|w| w.reaper.pid()),
        run_token: around.map(|w| w.reaper.run_token().to_string()),
        held_polls: api.polls.count(),
        workers,
        pools: around.map(Workers::stats).unwrap_or_default(),
        swept: around.map_or(0, |w| w.reaper.swept()),
        core,
    })
}

/// SHA-256 of a model's state: what bit-exactness is checked with.
pub(crate) async fn digest(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let digest = api.core.digest(&ModelId::new(model)).await?;
    Ok(Json(json!({
        "adapter": digest.adapter,
        "moments": digest.moments,
        "gradients": digest.gradients,
        "step": digest.step,
    })))
}

/// Calls a tool of the file that `up --tools` names.
pub(crate) async fn call_tool(
    State(api): State<Api>,
    Path(tool): Path<String>,
    body: JsonBody<ToolCall>,
) -> Result<Json<Value>, Refusal> {
    let pool = api.workers.and_then(|w| w.tools).ok_or(RequestError::NoTools)?;
    match Workers::call(&pool, &tool, body.value).await {
        Ok(value) => Ok(Json(json!({ "value": value }))),
        Err(error) => Err(Refusal::new(status_of_call(&error), error.detail())),
    }
}

/// A call that may have run is answered with a status that no client repeats.
fn status_of_call(error: &ToolCallError) -> StatusCode {
    match (error, error.kind()) {
        // It stays lost, however often it is asked for.
        (ToolCallError::Call(CallError::SessionLost { .. }), _) => StatusCode::UNPROCESSABLE_ENTITY,
        (_, kind @ (Kind::NotFound | Kind::Saturated | Kind::Unavailable)) => status_of(kind),
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
