//! Which request goes where.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware;
use axum::routing::{get, post};
use snakehouse_base::Coded;
use snakehouse_supervise::{CancellationToken, Lane, LaneError};
use snakehouse_tinker_api::json::ErrorDetail;

use super::access::{Access, HEALTH, guard};
use super::body::BodyRoom;
use super::error::RequestError;
use super::future::HeldPolls;
use super::refusal::{Refusal, status_of};
use super::workers::Workers;
use super::{admin, future, sampling, server, session, training, weights};
use crate::core::{BaseModel, Core, CoreError};

/// How long a request waits for an engine that is starting before it is told to come back.
const START: Duration = Duration::from_secs(20);

/// What handlers share.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) core: Core,
    /// Decodes large bodies.
    pub(crate) lane: Lane,
    /// Bounds what bodies take together.
    pub(crate) bodies: BodyRoom,
    /// Fires when the service stops: polls end at once.
    pub(crate) stopping: CancellationToken,
    /// Polls in progress.
    pub(crate) polls: HeldPolls,
    /// The worker processes around the core, if there are any to show.
    pub(crate) workers: Option<Workers>,
}

impl Api {
    /// What a base model can take. Waits a while for an engine that is starting.
    ///
    /// # Errors
    /// [`CoreError::NotReady`], [`CoreError::UnknownBaseModel`].
    pub(crate) async fn base_model(&self, name: &str) -> Result<BaseModel, Refusal> {
        if self.core.models().is_empty() {
            match tokio::time::timeout(START, self.core.wait_ready()).await {
                Ok(ready) => ready?,
                Err(_) => return Err(CoreError::NotReady.into()),
            }
        }
        let models = self.core.models();
        let served = || models.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ");
        models.iter().find(|m| m.name == name).cloned().ok_or_else(|| {
            CoreError::UnknownBaseModel { name: name.to_owned(), served: served() }.into()
        })
    }
}

impl From<LaneError> for Refusal {
    fn from(error: LaneError) -> Self {
        Self::new(status_of(error.kind()), ErrorDetail::of(&error))
    }
}

/// The whole router.
pub(crate) fn router(api: Api, access: Access) -> Router {
    let v1 = Router::new()
        .route("/client/config", post(server::config))
        .route("/client/dynamic_config", post(server::dynamic_config))
        .route("/get_server_capabilities", get(server::capabilities))
        .route("/telemetry", post(server::telemetry))
        .route("/create_session", post(session::create))
        .route("/session_heartbeat", post(session::heartbeat))
        .route("/sessions/{session}/finish", post(session::finish))
        .route("/create_model", post(training::create_model))
        .route("/get_info", post(training::get_info))
        .route("/forward_backward", post(training::forward_backward))
        .route("/optim_step", post(training::optim_step))
        .route("/save_weights", post(weights::save))
        .route("/save_weights_for_sampler", post(weights::save_for_sampler))
        .route("/load_weights", post(weights::load))
        .route("/weights_info", post(weights::info))
        .route("/create_sampling_session", post(sampling::create))
        .route("/samplers/{sampler}", get(sampling::get))
        .route("/asample", post(sampling::sample))
        .route("/retrieve_future", post(future::retrieve))
        .route("/cancel_future", post(future::cancel))
        .route("/snakehouse/status", get(admin::status))
        .route("/snakehouse/models/{model}/digest", get(admin::digest))
        .route("/snakehouse/tools/{tool}", post(admin::call_tool));
    Router::new()
        .route(HEALTH, get(server::healthz))
        .nest("/api/v1", v1)
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .with_state(api)
        .layer(middleware::from_fn_with_state(Arc::new(access), guard))
}

async fn unknown(request: Request) -> Refusal {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    RequestError::UnknownRoute { method, path }.into()
}
