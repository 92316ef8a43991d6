//! The root of everything: a session with a training service.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use snakehouse_base::id::{ModelId, SessionId};
use snakehouse_base::{Chance, Deadline};
use snakehouse_supervise::Scope;
use snakehouse_tinker_api::json::{self, FinishStatus, LoraConfig};
use snakehouse_tinker_api::{CheckpointPath, InvalidInput};
use tokio::time::Instant;

use crate::chunk::ChunkLimits;
use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::http::HttpTransport;
use crate::link::Link;
use crate::promise::{Operation, settle};
use crate::sampling_client::SamplingClient;
use crate::session::{Session, post, read, request};
use crate::training_client::TrainingClient;
use crate::transport::{Request, Transport};

/// What this client calls itself.
const VERSION: &str = concat!("snakehouse-", env!("CARGO_PKG_VERSION"));

/// How long the farewell to a service may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// A session with a training service. Cheap to clone; clones share the session.
///
/// The session lives until [`close`](Self::close), until the scope it was opened in stops, or until
/// it and all clients made from it are dropped; then heartbeats end and the service may forget it.
#[derive(Clone, Debug)]
pub struct ServiceClient {
    session: Arc<Session>,
}

impl ServiceClient {
    /// Opens a session. Its heartbeat runs in a scope below `scope`.
    ///
    /// Waits for a service that is not up yet, for as long as the configured patience.
    ///
    /// # Errors
    /// [`ClientError::Config`] before anything is sent; else what the service or the way to it
    /// says. Cancel safe: a session that was made but not taken over ends by itself.
    pub async fn connect(scope: &Scope, config: ClientConfig) -> Result<Self, ClientError> {
        let base_url = config.checked_base_url()?;
        let transport = Arc::new(HttpTransport::new(&config, &base_url)?);
        Self::connect_over(transport, scope, &config, &base_url, Chance::from_entropy()).await
    }

    /// The same over any transport.
    pub(crate) async fn connect_over(
        transport: Arc<dyn Transport>,
        scope: &Scope,
        config: &ClientConfig,
        base_url: &str,
        chance: Chance,
    ) -> Result<Self, ClientError> {
        let link = Link::new(transport, base_url, config.patience, chance, scope.cancelled());
        // audit(deadline): bounded by the patience of the link
        let deadline = Deadline::never();
        let behaviour = server_behaviour(&link).await?;
        let limits = ChunkLimits {
            datums: usize::try_from(behaviour.fwdbwd_max_chunk_len).unwrap_or(usize::MAX).max(1),
            bytes: usize::try_from(behaviour.fwdbwd_max_chunk_bytes_count).unwrap_or(usize::MAX),
        };
        let body = json::CreateSession {
            tags: config.tags.clone(),
            user_metadata: json::Metadata::new(),
            sdk_version: VERSION.to_owned(),
            project_id: config.project_id.clone(),
            display_name: config.display_name.clone(),
        };
        let created: json::SessionCreated = post(&link, "create_session", &body, deadline).await?;
        if let Some(text) = &created.info_message {
            tracing::info!("{text}");
        }
        for text in [&created.warning_message, &created.error_message].into_iter().flatten() {
            tracing::warn!("{text}");
        }
        let id = SessionId::new(created.session_id);
        let session = Session::start(id, &link, scope, limits, config.within);
        Ok(Self { session: Arc::new(session) })
    }

    /// The session's id.
    pub fn session_id(&self) -> &SessionId {
        &self.session.id
    }

    /// The base models that the service has.
    ///
    /// # Errors
    /// What the service or the way to it says.
    pub async fn models(&self) -> Result<Vec<json::SupportedModel>, ClientError> {
        const ENDPOINT: &str = "get_server_capabilities";
        let deadline = self.session.deadline();
        let response = self.session.link.call(Request::get(ENDPOINT), deadline).await?;
        let answer: json::Capabilities = read(ENDPOINT, &response.body)?;
        Ok(answer.supported_models)
    }

    /// Makes a model with fresh adapters on `base_model`.
    ///
    /// # Errors
    /// [`ClientError::InvalidInput`] for a configuration that nothing could train,
    /// [`ClientError::Failed`] for a base model the service does not have.
    pub async fn create_lora_training_client(
        &self,
        base_model: &str,
        lora: LoraConfig,
    ) -> Result<TrainingClient, ClientError> {
        lora.check()?;
        let number = self.session.model_number();
        let body = json::CreateModel {
            session_id: self.session.id.to_string(),
            model_seq_id: number,
            base_model: base_model.to_owned(),
            user_metadata: None,
            lora_config: lora,
            optimizer_config: None,
        };
        let deadline = self.session.deadline();
        let created: json::ModelCreated =
            self.operate(Operation::CreateModel, "create_model", &body, deadline).await?;
        self.training_client(ModelId::new(created.model_id), deadline).await
    }

    /// Makes a model from saved training weights, with a fresh optimizer.
    ///
    /// # Errors
    /// [`ClientError::InvalidInput`] when `path` is no `tinker://` path, [`ClientError::Failed`]
    /// when the service cannot load it.
    pub async fn create_training_client_from_state(
        &self,
        path: &str,
    ) -> Result<TrainingClient, ClientError> {
        self.load(path, false).await
    }

    /// The same, and the optimizer goes on where it was saved.
    ///
    /// # Errors
    /// Those of [`create_training_client_from_state`](Self::create_training_client_from_state).
    pub async fn create_training_client_from_state_with_optimizer(
        &self,
        path: &str,
    ) -> Result<TrainingClient, ClientError> {
        self.load(path, true).await
    }

    /// Samples from a base model as it is.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the service does not have it.
    pub async fn create_sampling_client(
        &self,
        base_model: &str,
    ) -> Result<SamplingClient, ClientError> {
        let body = json::CreateSamplingSession {
            base_model: Some(base_model.to_owned()),
            ..self.new_sampling_session()
        };
        self.sampling_client(&body).await
    }

    /// Samples from saved weights.
    ///
    /// # Errors
    /// [`ClientError::InvalidInput`] when `path` is no `tinker://` path, [`ClientError::Refused`]
    /// when the service does not have it.
    pub async fn create_sampling_client_from_path(
        &self,
        path: &str,
    ) -> Result<SamplingClient, ClientError> {
        checked(path)?;
        let body = json::CreateSamplingSession {
            model_path: Some(path.to_owned()),
            ..self.new_sampling_session()
        };
        self.sampling_client(&body).await
    }

    /// Tells the service that the session is over and stops the heartbeat. Clients of this session
    /// fail with [`ClientError::Stopped`] from now on.
    ///
    /// # Errors
    /// What the service or the way to it says, after 10 s at the latest; the heartbeat stops in any
    /// case.
    pub async fn close(self, how: FinishStatus) -> Result<(), ClientError> {
        let endpoint = format!("sessions/{}/finish", self.session.id);
        let body = json::FinishSession { reason: json::FinishReason { status: how }, detail: None };
        // A service that is away must not keep a program from ending.
        let deadline = Deadline::after(Instant::now().into_std(), CLOSE_WITHIN);
        let told = match request(&endpoint, &body) {
            Ok(request) => self.session.link.call(request, deadline).await,
            Err(error) => Err(error),
        };
        self.session.scope.stop().await;
        told.map(drop)
    }

    fn new_sampling_session(&self) -> json::CreateSamplingSession {
        json::CreateSamplingSession {
            session_id: self.session.id.to_string(),
            sampling_session_seq_id: self.session.sampler_number(),
            ..json::CreateSamplingSession::default()
        }
    }

    async fn sampling_client(
        &self,
        body: &json::CreateSamplingSession,
    ) -> Result<SamplingClient, ClientError> {
        let deadline = self.session.deadline();
        let link = &self.session.link;
        let made: json::SamplingSessionCreated =
            post(link, "create_sampling_session", body, deadline).await?;
        Ok(SamplingClient::new(Arc::clone(&self.session), made.sampling_session_id))
    }

    async fn load(&self, path: &str, optimizer: bool) -> Result<TrainingClient, ClientError> {
        checked(path)?;
        let number = self.session.model_number();
        let body = json::LoadWeights {
            session_id: Some(self.session.id.to_string()),
            model_seq_id: Some(number),
            path: path.to_owned(),
            optimizer,
            ..json::LoadWeights::default()
        };
        let deadline = self.session.deadline();
        let _loaded: json::WeightsLoaded =
            self.operate(Operation::LoadWeights, "load_weights", &body, deadline).await?;
        let model = ModelId::new(format!("{}:train:{number}", self.session.id));
        self.training_client(model, deadline).await
    }

    /// Runs an operation that belongs to no model's order.
    async fn operate<R: serde::de::DeserializeOwned>(
        &self,
        operation: Operation,
        endpoint: &str,
        body: &impl Serialize,
        deadline: Deadline,
    ) -> Result<R, ClientError> {
        let session = &self.session;
        let accepted = session.submit(operation, request(endpoint, body)?, deadline).await?;
        read(endpoint, &settle(&session.link, &accepted, deadline).await?)
    }

    async fn training_client(
        &self,
        model: ModelId,
        deadline: Deadline,
    ) -> Result<TrainingClient, ClientError> {
        let body = json::GetInfo { model_id: model.to_string() };
        let info: json::ModelInfo = post(&self.session.link, "get_info", &body, deadline).await?;
        Ok(TrainingClient::new(Arc::clone(&self.session), info))
    }
}

/// How the service wants its clients to behave; a service without an opinion gets the defaults.
async fn server_behaviour(link: &Link) -> Result<json::ClientConfig, ClientError> {
    const ENDPOINT: &str = "client/config";
    let body = json::ConfigRequest { sdk_version: VERSION.to_owned() };
    // audit(deadline): bounded by the patience of the link
    let behaviour: json::ClientConfig = match post(link, ENDPOINT, &body, Deadline::never()).await {
        Err(ClientError::Refused { status: 404, .. }) => json::ClientConfig::default(),
        other => other?,
    };
    if behaviour.pjwt_auth_enabled {
        let reason = "it wants keys exchanged for tokens, which this client does not do";
        return Err(ClientError::protocol(ENDPOINT, reason));
    }
    Ok(behaviour)
}

fn checked(path: &str) -> Result<CheckpointPath, InvalidInput> {
    path.parse()
}
