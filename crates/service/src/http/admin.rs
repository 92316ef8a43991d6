//! Routes of our own, under `/api/v1/snakehouse/`: for the command line and for tests.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use snakehouse_base::Kind;
use snakehouse_base::id::ModelId;
use snakehouse_tinker_api::json::ErrorDetail;

use super::body::JsonBody;
use super::error::RequestError;
use super::refusal::{Refusal, status_of};
use super::routes::Api;
use super::workers::ToolCall;

/// Numbers of the core, and the processes around it.
pub(crate) async fn status(State(api): State<Api>) -> Json<Value> {
    let workers = api.workers.as_deref();
    let mut status = json!({
        "ready": api.core.ready(),
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "reaper_pid": workers.and_then(|w| w.reaper_pid()),
        "run_token": workers.map(|w| w.run_token()),
        "workers": workers.map(|w| w.list()).unwrap_or_default(),
    });
    if let (Value::Object(all), Ok(Value::Object(core))) =
        (&mut status, serde_json::to_value(api.core.status()))
    {
        all.extend(core);
    }
    Json(status)
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
    let call = api.workers.as_deref().and_then(|w| w.call(tool, body.value));
    match call.ok_or(RequestError::NoTools)?.await {
        Ok(value) => Ok(Json(json!({ "value": value }))),
        Err(detail) => Err(Refusal::new(status_of(kind_of(&detail)), detail)),
    }
}

fn kind_of(detail: &ErrorDetail) -> Kind {
    Kind::ALL.into_iter().find(|k| k.as_str() == detail.kind).unwrap_or(Kind::Internal)
}
