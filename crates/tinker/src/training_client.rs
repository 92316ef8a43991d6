//! Training one model.

use std::sync::Arc;

use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use snakehouse_base::Deadline;
use snakehouse_base::id::{ModelId, SeqId};
use snakehouse_tinker_api::json::{self, AdamParams};
use snakehouse_tinker_api::{
    CheckpointName, CheckpointPath, Datum, ForwardBackwardOutput, ForwardBackwardRequest,
    InvalidInput, LossFn,
};
use tokio::sync::Mutex;

use crate::chunk::split;
use crate::error::ClientError;
use crate::merge::merge;
use crate::pending::Pending;
use crate::promise::{Accepted, Operation, settle};
use crate::sampling_client::SamplingClient;
use crate::session::{Session, read, request};
use crate::transport::Request;

/// Chunks of one batch that are being sent at once; each is at most 5 MB.
const CHUNKS_AT_ONCE: usize = 8;

/// A training model. Cheap to clone; clones share the model and its order.
///
/// Operations run in the service in the order in which the methods were first polled. Each method
/// returns when the service has *accepted* the operation, durably, with a [`Pending`] result; so
/// several can be under way:
///
/// ```
/// use snakehouse_tinker::{AdamParams, ClientError, Datum, LossFn, TrainingClient};
///
/// async fn one_step(model: &TrainingClient, batch: Vec<Datum>) -> Result<f64, ClientError> {
///     let gradients = model.forward_backward(batch, LossFn::CrossEntropy).await?;
///     let step = model.optim_step(AdamParams::default()).await?;
///     // Both are under way.
///     let loss = gradients.await?.metrics["loss:sum"];
///     step.await?;
///     Ok(loss)
/// }
/// ```
///
/// All methods are cancel safe: once an operation has taken its place in the order it is submitted
/// by a task of the session, whether or not the caller still waits, so the order has no holes.
#[derive(Clone, Debug)]
pub struct TrainingClient {
    session: Arc<Session>,
    info: Arc<json::ModelInfo>,
    model: ModelId,
    /// The next place in the order. Held while an operation is submitted; waiters queue in order.
    turn: Arc<Mutex<u64>>,
}

/// Requests of one operation, made when their places in the order are known.
type Make = Box<dyn FnMut(usize, SeqId) -> Result<Request, ClientError> + Send>;

impl TrainingClient {
    pub(crate) fn new(session: Arc<Session>, info: json::ModelInfo) -> Self {
        let model = ModelId::new(info.model_id.clone());
        Self { session, info: Arc::new(info), model, turn: Arc::new(Mutex::new(1)) }
    }

    /// The model's id.
    pub const fn model_id(&self) -> &ModelId {
        &self.model
    }

    /// What the service said about the model when this client was made.
    pub fn info(&self) -> &json::ModelInfo {
        &self.info
    }

    /// Computes the loss of `data` and adds its gradient to the accumulated gradient.
    ///
    /// A large batch is split into several requests that the service runs one after the other; the
    /// result is one. If a part of it fails, the gradients of the other parts have been added:
    /// continue from the last saved state.
    ///
    /// # Errors
    /// [`ClientError::InvalidInput`] for an empty batch; else what the service or the way to it
    /// says. Data that the model cannot take fails in the service.
    pub async fn forward_backward(
        &self,
        data: Vec<Datum>,
        loss: LossFn,
    ) -> Result<Pending<ForwardBackwardOutput>, ClientError> {
        self.run_data(data, loss, Operation::ForwardBackward).await
    }

    /// Computes the loss of `data` and leaves gradients alone.
    ///
    /// # Errors
    /// Those of [`forward_backward`](Self::forward_backward).
    pub async fn forward(
        &self,
        data: Vec<Datum>,
        loss: LossFn,
    ) -> Result<Pending<ForwardBackwardOutput>, ClientError> {
        self.run_data(data, loss, Operation::Forward).await
    }

    /// Applies the accumulated gradient and clears it.
    ///
    /// # Errors
    /// [`ClientError::InvalidInput`] for a number outside its range.
    pub async fn optim_step(
        &self,
        adam: AdamParams,
    ) -> Result<Pending<json::OptimStepDone>, ClientError> {
        adam.check()?;
        let model_id = self.model.to_string();
        self.run(Operation::OptimStep, "optim_step", move |seq| json::OptimStep {
            model_id: model_id.clone(),
            seq_id: seq.0,
            adam_params: Some(adam),
            optimizer_params: None,
        })
        .await
    }

    /// Saves weights and optimizer under a name, for
    /// [`create_training_client_from_state`](crate::ServiceClient::create_training_client_from_state).
    ///
    /// # Errors
    /// [`ClientError::InvalidInput`] for a name that no checkpoint can have;
    /// [`ClientError::Failed`], from the result, when the name is taken.
    pub async fn save_state(&self, name: &str) -> Result<Pending<CheckpointPath>, ClientError> {
        let name = CheckpointName::new(name)?.as_str().to_owned();
        let model_id = self.model.to_string();
        let saved: Pending<json::WeightsSaved> = self
            .run(Operation::SaveWeights, "save_weights", move |seq| json::SaveWeights {
                model_id: model_id.clone(),
                seq_id: seq.0,
                path: Some(name.clone()),
                overwrite: false,
                ttl_seconds: None,
                user_metadata: None,
            })
            .await?;
        Ok(Pending::new(async move {
            let path = saved.await?.path;
            path.parse().map_err(|error: InvalidInput| {
                ClientError::protocol("save_weights", error.to_string())
            })
        }))
    }

    /// Freezes the weights as they are at this place in the order and samples from them.
    ///
    /// # Errors
    /// What the service or the way to it says.
    pub async fn save_weights_and_get_sampling_client(
        &self,
    ) -> Result<SamplingClient, ClientError> {
        const ENDPOINT: &str = "save_weights_for_sampler";
        let model_id = self.model.to_string();
        let number = self.session.sampler_number();
        let saved: Pending<json::SavedForSampler> = self
            .run(Operation::SaveWeightsForSampler, ENDPOINT, move |seq| {
                json::SaveWeightsForSampler {
                    model_id: model_id.clone(),
                    seq_id: seq.0,
                    path: None,
                    sampling_session_seq_id: Some(number),
                    kind: json::SaverKind::Snapshot,
                    ttl_seconds: None,
                    user_metadata: None,
                }
            })
            .await?;
        let sampler = saved.await?.sampling_session_id.ok_or_else(|| {
            ClientError::protocol(ENDPOINT, "the result names no sampling session")
        })?;
        Ok(SamplingClient::new(Arc::clone(&self.session), sampler))
    }

    async fn run_data(
        &self,
        data: Vec<Datum>,
        loss: LossFn,
        operation: Operation,
    ) -> Result<Pending<ForwardBackwardOutput>, ClientError> {
        if data.is_empty() {
            return Err(InvalidInput::NoData.into());
        }
        let mut chunks = split(data, self.session.limits);
        let count = chunks.len();
        let model = self.model.clone();
        let make = move |index: usize, seq| {
            let request = ForwardBackwardRequest {
                model_id: model.clone(),
                seq_id: seq,
                data: chunks.get_mut(index).map(std::mem::take).unwrap_or_default(),
                loss_fn: loss.as_str().to_owned(),
                loss_fn_config: std::collections::BTreeMap::new(),
                forward_only: operation == Operation::Forward,
            };
            Ok(Request::post_protobuf("forward_backward", request.encode()))
        };
        let deadline = self.session.deadline();
        let accepted = self.submit(operation, count, Box::new(make), deadline).await?;
        let session = Arc::clone(&self.session);
        Ok(Pending::new(async move {
            let results = accepted.iter().map(|one| async {
                let body = settle(&session.link, one, deadline).await?;
                ForwardBackwardOutput::decode(body)
                    .map_err(|error| ClientError::protocol("retrieve_future", error.to_string()))
            });
            Ok(merge(try_join_all(results).await?))
        }))
    }

    /// Submits an operation of one request whose result is a JSON object.
    async fn run<B: Serialize, R: DeserializeOwned + 'static>(
        &self,
        operation: Operation,
        endpoint: &'static str,
        body: impl Fn(SeqId) -> B + Send + 'static,
    ) -> Result<Pending<R>, ClientError> {
        let make = move |_, seq| request(endpoint, &body(seq));
        let deadline = self.session.deadline();
        let accepted = self.submit(operation, 1, Box::new(make), deadline).await?;
        let session = Arc::clone(&self.session);
        Ok(Pending::new(async move {
            let one = accepted.first().ok_or_else(|| nothing_submitted(endpoint))?;
            read(endpoint, &settle(&session.link, one, deadline).await?)
        }))
    }

    /// Takes `count` places in the order and submits that many requests: all but the first at
    /// once, then the first, so that the service has the whole group when it may start.
    async fn submit(
        &self,
        operation: Operation,
        count: usize,
        mut make: Make,
        deadline: Deadline,
    ) -> Result<Vec<Accepted>, ClientError> {
        let link = &self.session.link;
        let waiting = Arc::clone(&self.turn).lock_owned();
        let mut turn = link.bounded(waiting, operation.as_str(), deadline).await?;
        let session = Arc::clone(&self.session);
        // From here on the places are taken: only a task of the session may drop the work.
        let task = self.session.scope.task("submit", async move {
            let first = *turn;
            *turn += count as u64;
            let mut send = |index: usize| {
                let request = make(index, SeqId(first + index as u64));
                let session = &session;
                // audit(deadline): a place in the order is taken; bounded by the link's patience
                async move { session.submit(operation, request?, Deadline::never()).await }
            };
            let rest: Vec<_> =
                stream::iter(1..count).map(&mut send).buffered(CHUNKS_AT_ONCE).collect().await;
            let head = send(0).await;
            drop(turn);
            std::iter::once(head).chain(rest).collect::<Result<Vec<_>, _>>()
        });
        match link.bounded(task, operation.as_str(), deadline).await? {
            Ok(accepted) => accepted,
            Err(_) => Err(ClientError::Stopped),
        }
    }
}

fn nothing_submitted(endpoint: &str) -> ClientError {
    ClientError::protocol(endpoint, "nothing was submitted")
}
