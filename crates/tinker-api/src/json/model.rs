//! Making and describing training models.

use serde::{Deserialize, Serialize};

use super::Metadata;
use crate::{InvalidInput, limits};

/// Body of `create_model`; answered by a promise of [`ModelCreated`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "create_model")]
pub struct CreateModel {
    /// The session it lives in.
    pub session_id: String,
    /// The client's own count of models in this session, from 0.
    pub model_seq_id: u64,
    /// The name of the base model.
    pub base_model: String,
    /// Free data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_metadata: Option<Metadata>,
    /// The adapters.
    #[serde(default)]
    pub lora_config: LoraConfig,
    /// The optimizer's family; an object with `type`, AdamW when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_config: Option<serde_json::Value>,
}

impl CreateModel {
    /// Checks everything that does not depend on the base model.
    ///
    /// # Errors
    /// [`InvalidInput`] names the first rule that the request breaks.
    pub fn check(&self) -> Result<(), InvalidInput> {
        check_optimizer(self.optimizer_config.as_ref())?;
        self.lora_config.check()
    }
}

/// Refuses optimizer families other than AdamW.
pub(super) fn check_optimizer(config: Option<&serde_json::Value>) -> Result<(), InvalidInput> {
    let family = config.map(|c| c.get("type").and_then(serde_json::Value::as_str));
    match family {
        None | Some(Some("adamw")) => Ok(()),
        Some(_) => Err(InvalidInput::UnsupportedOption { name: "an optimizer other than adamw" }),
    }
}

/// Which layers get adapters, and how large they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraConfig {
    /// Rank of the adapters, 1 to [`limits::LORA_RANK`].
    pub rank: u32,
    /// Seed of their first values; the service draws one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Adapt the output projection.
    pub train_unembed: bool,
    /// Adapt the feed-forward layers.
    pub train_mlp: bool,
    /// Adapt the attention layers.
    pub train_attn: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 32, seed: None, train_unembed: true, train_mlp: true, train_attn: true }
    }
}

impl LoraConfig {
    /// Checks the rank and that something is trained.
    ///
    /// # Errors
    /// [`InvalidInput`] names the first rule that the configuration breaks.
    pub fn check(&self) -> Result<(), InvalidInput> {
        if !(1..=limits::LORA_RANK).contains(&self.rank) {
            return Err(InvalidInput::OutOfRange {
                name: "rank",
                rule: "between 1 and 256",
                value: self.rank.to_string(),
            });
        }
        if !(self.train_unembed || self.train_mlp || self.train_attn) {
            return Err(InvalidInput::InconsistentFields {
                reason: "at least one of train_unembed, train_mlp and train_attn must be true",
            });
        }
        Ok(())
    }
}

/// Result of `create_model`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCreated {
    /// The new model: `<session>:train:<model_seq_id>`.
    pub model_id: String,
}

/// Body of `get_info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "get_info")]
pub struct GetInfo {
    /// The model.
    pub model_id: String,
}

/// Answer of `get_info`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The model.
    pub model_id: String,
    /// Its base model.
    pub model_data: ModelData,
    /// The optimizer's family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_config: Option<serde_json::Value>,
    /// Whether it trains adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_lora: Option<bool>,
    /// Their rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_rank: Option<u32>,
    /// The name of the base model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
}

/// What a base model is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelData {
    /// Its architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// Where its tokenizer is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_id: Option<String>,
}
