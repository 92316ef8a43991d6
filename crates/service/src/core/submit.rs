//! What clients hand over.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use snakehouse_base::id::{ModelId, SamplerId, SeqId, SessionId};
use snakehouse_engine_api::{Adam, Datum, Loss, Stop};

/// A client session to be opened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NewSession {
    /// Labels.
    pub tags: Vec<String>,
    /// Whatever the user wants to find the session by.
    pub user_metadata: Map<String, Value>,
    /// The client's version.
    pub sdk_version: String,
    /// The project it belongs to.
    pub project_id: Option<String>,
    /// A name for people.
    pub display_name: Option<String>,
}

/// How a session ended, in the client's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The program ended as planned.
    Success,
    /// It failed.
    Errored,
    /// Somebody stopped it.
    Interrupted,
}

/// Which adapters a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoraRequest {
    /// Rank.
    pub rank: u32,
    /// Seed of the initial weights; a missing one is drawn at accept and recorded.
    pub seed: Option<u64>,
    /// Adapt q, k, v and o.
    pub train_attn: bool,
    /// Adapt gate, up and down.
    pub train_mlp: bool,
    /// Adapt the output projection.
    pub train_unembed: bool,
}

/// How a client asks for continuations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleRequest {
    /// Prompt tokens, `i32` little-endian, at least one.
    pub prompt: Bytes,
    /// How many continuations, at least one.
    pub num_samples: u32,
    /// Most tokens to draw; `None` fills the context.
    pub max_tokens: Option<u32>,
    /// Seed of the draws; a missing one is drawn at accept and recorded.
    pub seed: Option<u64>,
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Keep the k most likely; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set with this mass; 1 keeps all.
    pub top_p: f32,
    /// When to end.
    pub stop: Stop,
    /// Also return the log-probability of each prompt token.
    pub prompt_logprobs: bool,
}

/// The weights a sampling session draws from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplerWeights {
    /// A base model as it is.
    Base(String),
    /// A saved checkpoint, `tinker://<model>/<kind>/<name>`.
    Path(String),
}

/// A sampling session to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSampler {
    /// The client session.
    pub session: SessionId,
    /// The client's number for it.
    pub sampling_session_seq_id: u64,
    /// What to draw from.
    pub weights: SamplerWeights,
}

/// Which model a [`Submit::LoadWeights`] makes or overwrites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadTarget {
    /// A new model of the session.
    Create {
        /// The session.
        session: SessionId,
        /// The client's number for the model.
        model_seq_id: u64,
        /// Must be the checkpoint's base model if given.
        base_model: Option<String>,
        /// Whatever the user wants to find the model by.
        user_metadata: Option<Map<String, Value>>,
    },
    /// A model that exists.
    Overwrite {
        /// The model.
        model: ModelId,
        /// Its place in the model's order.
        seq: SeqId,
    },
}

/// The key under which the client will not send anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An operation of a model.
    Model(ModelId, SeqId),
    /// A model of a session.
    Session(SessionId, u64),
    /// A request of a sampling session.
    Sampler(SamplerId, u64),
}

/// An operation a client wants done.
///
/// Operations of one model run in the order of `seq`. Each variant is remembered under its key:
/// the same key with the same content gives the same promise again, with other content it is a
/// [`CoreError::Conflict`](super::CoreError).
#[derive(Clone, Debug, PartialEq)]
pub enum Submit {
    /// Makes a model. Key: (session, model_seq_id).
    CreateModel {
        /// The session.
        session: SessionId,
        /// The client's number for the model; its id is `<session>:train:<model_seq_id>`.
        model_seq_id: u64,
        /// A served base model.
        base_model: String,
        /// The adapters.
        lora: LoraRequest,
        /// Whatever the user wants to find the model by.
        user_metadata: Option<Map<String, Value>>,
    },
    /// Computes a loss and its gradient. Key: (model, seq).
    ForwardBackward {
        /// The model.
        model: ModelId,
        /// Its place in the model's order.
        seq: SeqId,
        /// The examples.
        data: Vec<Datum>,
        /// The loss.
        loss: Loss,
        /// Leave gradients alone.
        forward_only: bool,
    },
    /// Applies the accumulated gradient. Key: (model, seq).
    OptimStep {
        /// The model.
        model: ModelId,
        /// Its place in the model's order.
        seq: SeqId,
        /// The optimizer's numbers.
        adam: Adam,
    },
    /// Saves a training checkpoint. Key: (model, seq).
    SaveWeights {
        /// The model.
        model: ModelId,
        /// Its place in the model's order.
        seq: SeqId,
        /// The checkpoint's name.
        name: String,
        /// Let the name point here even if it points elsewhere now.
        overwrite: bool,
    },
    /// Saves weights to sample from. Key: (model, seq), also for the unnamed form.
    SaveForSampler {
        /// The model.
        model: ModelId,
        /// Its place in the model's order.
        seq: SeqId,
        /// The checkpoint's name; without one the result is a sampling session.
        name: Option<String>,
        /// The client's number for that sampling session. Not part of the content: a retry brings
        /// a new one and gets the first result.
        sampling_session_seq_id: Option<u64>,
    },
    /// Loads a training checkpoint. Key: that of its target.
    LoadWeights {
        /// Which model to make or overwrite.
        target: LoadTarget,
        /// `tinker://<model>/weights/<name>`.
        path: String,
        /// Restore the optimizer too.
        optimizer: bool,
    },
    /// Draws continuations. Key: (sampler, seq). No order among samples.
    Sample {
        /// The sampling session.
        sampler: SamplerId,
        /// The client's number for the request.
        seq: u64,
        /// What to draw.
        request: SampleRequest,
    },
    /// An operation that validation has refused before it came here. It is recorded as a failure
    /// of the user, so that its number counts as used and a retry gets the same answer.
    Invalid {
        /// The key it would have had.
        target: Target,
        /// What is wrong and what to do, for the client.
        message: String,
        /// The request's bytes, to tell a retry from another request.
        content: Bytes,
    },
}

/// What a client gets for an accepted operation. It is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// What to wait for.
    pub request_id: String,
    /// The model concerned, if any.
    pub model_id: Option<ModelId>,
    /// For samples, one id per continuation.
    pub sample_sequence_ids: Vec<String>,
}
