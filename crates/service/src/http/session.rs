//! Sessions.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use snakehouse_base::id::SessionId;
use snakehouse_tinker_api::json::{
    CreateSession, FinishSession, FinishStatus, Heartbeat, SessionCreated,
};

use super::body::JsonBody;
use super::refusal::Refusal;
use super::routes::Api;
use crate::core::{FinishReason, NewSession};

pub(crate) async fn create(
    State(api): State<Api>,
    body: JsonBody<CreateSession>,
) -> Result<Json<SessionCreated>, Refusal> {
    let new = NewSession {
        tags: body.value.tags,
        user_metadata: body.value.user_metadata,
        sdk_version: body.value.sdk_version,
        project_id: body.value.project_id,
        display_name: body.value.display_name,
    };
    let session = api.core.create_session(new).await?;
    Ok(Json(SessionCreated { session_id: session.to_string(), ..SessionCreated::default() }))
}

pub(crate) async fn heartbeat(
    State(api): State<Api>,
    body: JsonBody<Heartbeat>,
) -> Result<Json<Value>, Refusal> {
    api.core.heartbeat(&SessionId::new(body.value.session_id)).await?;
    Ok(Json(json!({})))
}

pub(crate) async fn finish(
    State(api): State<Api>,
    Path(session): Path<String>,
    body: JsonBody<FinishSession>,
) -> Result<Json<Value>, Refusal> {
    let reason = match body.value.reason.status {
        FinishStatus::Success => FinishReason::Success,
        FinishStatus::Errored => FinishReason::Errored,
        FinishStatus::Interrupted => FinishReason::Interrupted,
    };
    api.core.finish_session(&SessionId::new(session), reason, body.value.detail).await?;
    Ok(Json(json!({})))
}
