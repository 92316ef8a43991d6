//! Saving and loading weights.

use serde::{Deserialize, Serialize};
use snakehouse_base::id::{ModelId, SeqId, SessionId};

use super::{Metadata, model::check_optimizer};
use crate::{CheckpointName, CheckpointPath, InvalidInput};

/// Body of `save_weights`; answered by a promise of [`WeightsSaved`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "save_weights")]
pub struct SaveWeights {
    /// The model.
    pub model_id: String,
    /// The operation's place in the model's order, from 1.
    pub seq_id: u64,
    /// The checkpoint's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Replace a checkpoint of that name.
    #[serde(default)]
    pub overwrite: bool,
    /// How long to keep it, in seconds; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Free data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_metadata: Option<Metadata>,
}

impl SaveWeights {
    /// The checkpoint's name, checked. Without one it is `step-<seq_id>`.
    ///
    /// # Errors
    /// [`InvalidInput::InvalidName`].
    pub fn name(&self) -> Result<CheckpointName, InvalidInput> {
        match &self.path {
            Some(name) => CheckpointName::new(name),
            None => CheckpointName::new(&format!("step-{}", self.seq_id)),
        }
    }
}

/// Result of `save_weights`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsSaved {
    /// Where: a `tinker://` path.
    pub path: String,
}

/// What a save for sampling promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaverKind {
    /// These weights, for ever.
    #[default]
    Snapshot,
    /// These weights or later ones.
    Inflight,
}

/// Body of `save_weights_for_sampler`; answered by a promise of [`SavedForSampler`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "save_weights_for_sampler")]
pub struct SaveWeightsForSampler {
    /// The model.
    pub model_id: String,
    /// The operation's place in the model's order, from 1.
    pub seq_id: u64,
    /// The checkpoint's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Instead of a name: the client's count of sampling sessions, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling_session_seq_id: Option<u64>,
    /// What is promised. A later save never changes a snapshot; this service treats
    /// [`Inflight`](SaverKind::Inflight) as one too, which keeps its promise.
    #[serde(default)]
    pub kind: SaverKind,
    /// How long to keep it, in seconds; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Free data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_metadata: Option<Metadata>,
}

/// What a save for sampling makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SaveForSamplerTarget {
    /// A checkpoint of this name.
    Named(CheckpointName),
    /// A sampling session at once.
    Session {
        /// The client's count of sampling sessions. A retry may carry another one.
        sampling_session_seq_id: Option<u64>,
    },
}

impl SaveWeightsForSampler {
    /// Which of both forms this is.
    ///
    /// # Errors
    /// [`InvalidInput::InvalidName`].
    pub fn target(&self) -> Result<SaveForSamplerTarget, InvalidInput> {
        Ok(match &self.path {
            Some(name) => SaveForSamplerTarget::Named(CheckpointName::new(name)?),
            None => SaveForSamplerTarget::Session {
                sampling_session_seq_id: self.sampling_session_seq_id,
            },
        })
    }
}

/// Result of `save_weights_for_sampler`: one of both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedForSampler {
    /// Of a named save: a `tinker://` path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Of an unnamed save: the new sampling session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling_session_id: Option<String>,
}

/// Body of `load_weights`; answered by a promise of [`WeightsLoaded`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "load_weights")]
pub struct LoadWeights {
    /// Makes a new model in this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The client's count of models in the session, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_seq_id: Option<u64>,
    /// Instead: loads into this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// The operation's place in that model's order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq_id: Option<u64>,
    /// The base model; must be the checkpoint's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// Free data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_metadata: Option<Metadata>,
    /// The optimizer's family; an object with `type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_config: Option<serde_json::Value>,
    /// A `tinker://` path of training weights.
    pub path: String,
    /// Restore the optimizer's state too.
    #[serde(default)]
    pub optimizer: bool,
    /// Opens checkpoints of another account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_access_token: Option<String>,
}

/// Where [`LoadWeights`] puts the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadTarget {
    /// Into a new model.
    New {
        /// The session it will live in.
        session: SessionId,
        /// The client's count of models in the session.
        model_seq_id: u64,
    },
    /// Into a model that exists.
    Existing {
        /// The model.
        model: ModelId,
        /// The operation's place in its order.
        seq: SeqId,
    },
}

impl LoadWeights {
    /// Which of both addressings this is.
    ///
    /// # Errors
    /// [`InvalidInput`] when it is neither, or asks for what this service does not have.
    pub fn target(&self) -> Result<LoadTarget, InvalidInput> {
        match (&self.session_id, self.model_seq_id, &self.model_id, self.seq_id) {
            (Some(session), Some(model_seq_id), None, None) => {
                Ok(LoadTarget::New { session: SessionId::new(session), model_seq_id })
            }
            (None, None, Some(model), Some(seq)) => {
                Ok(LoadTarget::Existing { model: ModelId::new(model), seq: SeqId(seq) })
            }
            _ => Err(InvalidInput::InconsistentFields {
                reason: "give either session_id and model_seq_id, or model_id and seq_id",
            }),
        }
    }

    /// The checkpoint to load, with everything else checked that needs no look-up.
    ///
    /// # Errors
    /// [`InvalidInput`] names the first rule that the request breaks.
    pub fn source(&self) -> Result<CheckpointPath, InvalidInput> {
        if self.optimizer && self.optimizer_config.is_some() {
            return Err(InvalidInput::InconsistentFields {
                reason: "optimizer_config cannot be combined with restored optimizer state",
            });
        }
        check_optimizer(self.optimizer_config.as_ref())?;
        self.path.parse()
    }
}

/// Result of `load_weights`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsLoaded {
    /// What was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The model that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
}

/// Body of `weights_info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsInfoRequest {
    /// A `tinker://` path.
    pub tinker_path: String,
}

/// Answer of `weights_info`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightsInfo {
    /// The base model.
    pub base_model: String,
    /// The optimizer's family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_config: Option<serde_json::Value>,
    /// Whether it holds adapters.
    pub is_lora: bool,
    /// Their rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_rank: Option<u32>,
    /// The output projection has adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_unembed: Option<bool>,
    /// The feed-forward layers have adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_mlp: Option<bool>,
    /// The attention layers have adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_attn: Option<bool>,
}
