//! What can be asked about models, samplers and checkpoints.

use serde_json::{Map, Value};
use snakehouse_base::id::{ModelId, SamplerId, SessionId};
use snakehouse_engine_api::LoraSpec;

/// A served base model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseModel {
    /// The name clients use.
    pub name: String,
    /// Longest sequence in tokens.
    pub max_context: u32,
    /// Token ids below this are valid.
    pub vocab_size: u32,
    /// Number of weights.
    pub parameters: u64,
    /// The directory with its tokenizer.
    pub dir: std::path::PathBuf,
}

/// A training model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// The model.
    pub model_id: ModelId,
    /// The session that made it.
    pub session: SessionId,
    /// Its base model.
    pub base_model: String,
    /// Its adapters.
    pub lora: LoraSpec,
    /// What the user wants to find it by.
    pub user_metadata: Option<Map<String, Value>>,
}

/// A sampling session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SamplerInfo {
    /// The sampling session.
    pub sampler: SamplerId,
    /// Its base model.
    pub base_model: String,
    /// The checkpoint it was opened from, if from one.
    pub model_path: Option<String>,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightsInfo {
    /// The base model its adapters belong to.
    pub base_model: String,
    /// The adapters.
    pub lora: LoraSpec,
    /// Bytes on disk.
    pub bytes: u64,
}
