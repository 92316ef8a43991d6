//! The handle that everything outside the core uses.

use std::time::Duration;

use snakehouse_base::id::{ModelId, SamplerId, SessionId};
use snakehouse_engine_api::StateDigest;
use snakehouse_supervise::Scope;

use super::{
    BaseModel, CoreConfig, CoreError, CoreStatus, FinishReason, ModelInfo, NewSampler, NewSession,
    Outcome, Promise, SamplerInfo, Submit, WeightsInfo,
};

/// The durable heart of the service. Cheap to clone; the scope it was started in owns everything.
#[derive(Clone, Debug)]
pub struct Core {}

impl Core {
    /// Opens the state directory and begins to bring back what it holds. Returns once requests can
    /// be accepted; [`ready`](Core::ready) tells when the engine serves.
    ///
    /// # Errors
    /// [`CoreError::Store`] if the directory is held by another process, is not writable or was
    /// written by a newer version.
    pub async fn start(_scope: &Scope, _config: CoreConfig) -> Result<Self, CoreError> {
        Err(CoreError::NotReady)
    }

    /// Tells a second opener of the state directory which port this process serves.
    ///
    /// # Errors
    /// [`CoreError::Store`] if the lock file cannot be written.
    pub fn record_port(&self, _port: u16) -> Result<(), CoreError> {
        Err(CoreError::NotReady)
    }

    /// Whether the engine serves every base model and every model is back.
    pub fn ready(&self) -> bool {
        false
    }

    /// Waits for [`ready`](Core::ready). Cancel safe.
    ///
    /// # Errors
    /// [`CoreError::BadBaseModel`] if a base model cannot be loaded; [`CoreError::Engine`] if no
    /// engine can be started; [`CoreError::Stopping`].
    pub async fn wait_ready(&self) -> Result<(), CoreError> {
        Err(CoreError::NotReady)
    }

    /// The base models, once the engine has loaded them for the first time; empty before.
    pub fn models(&self) -> Vec<BaseModel> {
        Vec::new()
    }

    /// Opens a session. Durable when it returns.
    ///
    /// # Errors
    /// [`CoreError::Saturated`], [`CoreError::Store`].
    pub async fn create_session(&self, _new: NewSession) -> Result<SessionId, CoreError> {
        Err(CoreError::NotReady)
    }

    /// Says that a session's client is there.
    ///
    /// # Errors
    /// [`CoreError::UnknownSession`]; [`CoreError::SessionFinished`].
    pub async fn heartbeat(&self, _session: &SessionId) -> Result<(), CoreError> {
        Err(CoreError::NotReady)
    }

    /// Ends a session. Nothing more is accepted from it; what was accepted is still done.
    ///
    /// # Errors
    /// [`CoreError::UnknownSession`]. Ending it again changes nothing.
    pub async fn finish_session(
        &self,
        _session: &SessionId,
        _reason: FinishReason,
        _detail: Option<String>,
    ) -> Result<(), CoreError> {
        Err(CoreError::NotReady)
    }

    /// Accepts an operation. It is durable when this returns, and stays so if the future is dropped
    /// after the commit.
    ///
    /// # Errors
    /// Unknown ids, [`CoreError::SessionFinished`], [`CoreError::Conflict`],
    /// [`CoreError::Saturated`], [`CoreError::Store`]. Nothing is recorded then.
    pub async fn submit(&self, _op: Submit) -> Result<Promise, CoreError> {
        Err(CoreError::NotReady)
    }

    /// Waits up to `hold` for an operation to end. Wakes the moment its result is durable; asking
    /// again gives the same outcome. Dropping the future is free.
    ///
    /// # Errors
    /// [`CoreError::UnknownRequest`]; [`CoreError::ResultGone`] if the result was kept long enough
    /// and has been removed.
    pub async fn wait(&self, _request_id: &str, _hold: Duration) -> Result<Outcome, CoreError> {
        Err(CoreError::NotReady)
    }

    /// Opens a sampling session. The same number with the same weights gives the same id.
    ///
    /// # Errors
    /// Unknown session, base model or checkpoint; [`CoreError::Conflict`].
    pub async fn create_sampling_session(&self, _new: NewSampler) -> Result<SamplerId, CoreError> {
        Err(CoreError::NotReady)
    }

    /// A sampling session.
    ///
    /// # Errors
    /// [`CoreError::UnknownSampler`].
    pub async fn sampler(&self, _sampler: &SamplerId) -> Result<SamplerInfo, CoreError> {
        Err(CoreError::NotReady)
    }

    /// A training model.
    ///
    /// # Errors
    /// [`CoreError::UnknownModel`].
    pub async fn model_info(&self, _model: &ModelId) -> Result<ModelInfo, CoreError> {
        Err(CoreError::NotReady)
    }

    /// A checkpoint, by `tinker://<model>/<kind>/<name>`.
    ///
    /// # Errors
    /// [`CoreError::BadName`]; [`CoreError::UnknownCheckpoint`].
    pub async fn weights_info(&self, _path: &str) -> Result<WeightsInfo, CoreError> {
        Err(CoreError::NotReady)
    }

    /// SHA-256 of a model's state after everything accepted so far that can run.
    ///
    /// # Errors
    /// [`CoreError::UnknownModel`]; [`CoreError::Stopping`].
    pub async fn digest(&self, _model: &ModelId) -> Result<StateDigest, CoreError> {
        Err(CoreError::NotReady)
    }

    /// Numbers at this moment.
    pub fn status(&self) -> CoreStatus {
        CoreStatus::default()
    }
}
