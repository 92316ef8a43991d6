//! What the service says about itself, and telemetry.

use axum::Json;
use axum::extract::State;
use snakehouse_tinker_api::json::{
    Capabilities, ClientConfig, ConfigRequest, DynamicConfig, Health, SupportedModel, Telemetry,
    TelemetryAccepted,
};

use super::body::JsonBody;
use super::refusal::Refusal;
use super::routes::Api;
use crate::core::CoreError;

pub(crate) async fn healthz(State(api): State<Api>) -> Result<Json<Health>, Refusal> {
    match api.core.ready() {
        true => Ok(Json(Health { status: "ok".to_owned() })),
        false => Err(Refusal::from(CoreError::NotReady)),
    }
}

pub(crate) async fn config(_: JsonBody<ConfigRequest>) -> Json<ClientConfig> {
    Json(ClientConfig::default())
}

pub(crate) async fn dynamic_config(_: JsonBody<ConfigRequest>) -> Json<DynamicConfig> {
    Json(DynamicConfig::default())
}

pub(crate) async fn capabilities(State(api): State<Api>) -> Json<Capabilities> {
    let supported_models = api
        .core
        .models()
        .into_iter()
        .map(|model| SupportedModel {
            model_name: Some(model.name),
            max_context_length: Some(model.max_context.into()),
            trainable: Some(true),
            sampleable: Some(true),
        })
        .collect();
    Json(Capabilities { supported_models })
}

/// Read, counted in the log, not kept: events may quote what users trained on.
pub(crate) async fn telemetry(body: JsonBody<Telemetry>) -> Json<TelemetryAccepted> {
    tracing::debug!(
        events = body.value.events.len(),
        session = body.value.session_id,
        sdk = body.value.sdk_version,
        "telemetry"
    );
    Json(TelemetryAccepted { status: "accepted".to_owned() })
}
