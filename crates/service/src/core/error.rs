//! Why the core refuses a request.

use snakehouse_base::{Coded, Kind};
use snakehouse_store::StoreError;

/// A request that was not accepted. Nothing of it is recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoreError {
    /// The session does not exist.
    #[error("session {0} does not exist")]
    UnknownSession(String),
    /// The session was finished by its client.
    #[error("session {0} is finished")]
    SessionFinished(String),
    /// The base model is not served.
    #[error("base model {name:?} is not served; served are: {served}")]
    UnknownBaseModel {
        /// What was asked for.
        name: String,
        /// What there is, comma-separated.
        served: String,
    },
    /// The training model does not exist.
    #[error("model {0} does not exist")]
    UnknownModel(String),
    /// The sampling session does not exist.
    #[error("sampling session {0} does not exist")]
    UnknownSampler(String),
    /// The checkpoint does not exist.
    #[error("checkpoint {0} does not exist")]
    UnknownCheckpoint(String),
    /// The promise was never given.
    #[error("request {0} does not exist")]
    UnknownRequest(String),
    /// The result was kept for a while and is gone now.
    #[error("the result of request {0} is no longer kept")]
    ResultGone(String),
    /// The path or name does not have the right form.
    #[error("{0}")]
    BadName(String),
    /// The same key came with other content.
    #[error("{key} was already used for another request")]
    Conflict {
        /// The key.
        key: String,
    },
    /// A limit is reached.
    #[error("{what} is at its limit of {limit}")]
    Saturated {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The engine serves nothing yet.
    #[error("the engine is not ready")]
    NotReady,
    /// The core is stopping.
    #[error("the service is stopping")]
    Stopping,
    /// A base model cannot be loaded.
    #[error("base model {name:?} cannot be loaded: {message}")]
    BadBaseModel {
        /// The model.
        name: String,
        /// Why.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Stored state does not say what it must.
    #[error("stored state is damaged: {0}")]
    Corrupt(String),
    /// Bytes that a row points to are lost. Concerns nothing but that row.
    #[error("{what} cannot be read any more: {why}")]
    Unreadable {
        /// What they are.
        what: String,
        /// What the store or the decoder says.
        why: String,
    },
    /// No engine can be started.
    #[error("the engine cannot be started: {0}")]
    Engine(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Coded for CoreError {
    fn kind(&self) -> Kind {
        match self {
            Self::UnknownSession(_)
            | Self::UnknownBaseModel { .. }
            | Self::UnknownModel(_)
            | Self::UnknownSampler(_)
            | Self::UnknownCheckpoint(_)
            | Self::UnknownRequest(_)
            | Self::SessionFinished(_)
            | Self::ResultGone(_) => Kind::NotFound,
            Self::BadName(_) => Kind::InvalidInput,
            Self::Conflict { .. } => Kind::Conflict,
            Self::Saturated { .. } => Kind::Saturated,
            Self::NotReady | Self::Stopping => Kind::Unavailable,
            Self::Engine(_) => Kind::Environment,
            Self::BadBaseModel { .. } | Self::Corrupt(_) | Self::Unreadable { .. } => Kind::Corrupt,
            Self::Store(e) => e.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::UnknownSession(_) => "unknown_session",
            Self::SessionFinished(_) => "session_finished",
            Self::UnknownBaseModel { .. } => "unknown_base_model",
            Self::UnknownModel(_) => "unknown_model",
            Self::UnknownSampler(_) => "unknown_sampler",
            Self::UnknownCheckpoint(_) => "unknown_checkpoint",
            Self::UnknownRequest(_) => "unknown_request",
            Self::ResultGone(_) => "result_gone",
            Self::BadName(_) => "bad_name",
            Self::Conflict { .. } => "conflict",
            Self::Saturated { .. } => "saturated",
            Self::NotReady => "not_ready",
            Self::Stopping => "stopping",
            Self::BadBaseModel { .. } => "bad_model_directory",
            Self::Corrupt(_) => "corrupt_state",
            Self::Unreadable { .. } => "blob_damaged",
            Self::Engine(_) => "engine_unavailable",
            Self::Store(e) => e.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownBaseModel { .. } => {
                Some("name a served model, or start the service with --model NAME=DIR".into())
            }
            Self::UnknownCheckpoint(_) => Some(
                "use the path that save_weights returned: tinker://<model>/weights/<name>".into(),
            ),
            Self::UnknownSession(_) | Self::SessionFinished(_) => Some("open a new session".into()),
            Self::Conflict { .. } => {
                Some("use a new number for each request and repeat a number only to retry".into())
            }
            Self::Saturated { .. } | Self::NotReady => Some("try again in a moment".into()),
            Self::Unreadable { .. } => {
                Some("check the disk, and send the request again under a new number".into())
            }
            Self::BadBaseModel { hint, .. } => hint.clone(),
            Self::Store(e) => e.hint(),
            _ => None,
        }
    }
}
