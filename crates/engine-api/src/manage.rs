//! Models: making, saving, restoring, comparing.

use serde::{Deserialize, Serialize};
use snakehouse_base::id::{ModelId, SamplerId};

use crate::Request;

/// Loads a base model from a Hugging Face directory. Loading the same name and directory again
/// changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadBase {
    /// The name clients use.
    pub name: String,
    /// Directory with `config.json`, safetensors and `tokenizer.json`.
    pub dir: String,
}

impl Request for LoadBase {
    const TOOL: &'static str = "load_base";
    type Reply = BaseInfo;
}

/// What a loaded base model is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaseInfo {
    /// The name clients use.
    pub name: String,
    /// Token ids below this are valid.
    pub vocab_size: u32,
    /// Longest sequence.
    pub max_context: u32,
    /// Number of weights.
    pub parameters: u64,
    /// Tokens that end a sample unless the request says otherwise.
    pub eos_tokens: Vec<u32>,
    /// SHA-256 of the weights, hex.
    pub digest: String,
}

/// Which linear layers get adapters, and how large they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoraSpec {
    /// Rank, 1 to 256.
    pub rank: u32,
    /// Seed of the initial weights.
    pub seed: u64,
    /// Adapt q, k, v and o.
    pub train_attn: bool,
    /// Adapt gate, up and down.
    pub train_mlp: bool,
    /// Adapt the output projection.
    pub train_unembed: bool,
}

/// Makes a model with fresh adapters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreateModel {
    /// The new model.
    pub model: ModelId,
    /// A loaded base.
    pub base: String,
    /// The adapters.
    pub lora: LoraSpec,
}

impl Request for CreateModel {
    const TOOL: &'static str = "create_model";
    type Reply = Loaded;
}

/// Makes, or overwrites, a model from a saved training checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadModel {
    /// The model.
    pub model: ModelId,
    /// A loaded base.
    pub base: String,
    /// A directory written by [`Save`] with [`SaveKind::Training`].
    pub dir: String,
    /// Restore moments and step too; otherwise the optimizer starts anew.
    pub optimizer: bool,
}

impl Request for LoadModel {
    const TOOL: &'static str = "load_model";
    type Reply = Loaded;
}

/// What is in the engine after making a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    /// Its adapters.
    pub lora: LoraSpec,
    /// Number of trained weights.
    pub parameters: u64,
}

/// What a [`Save`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaveKind {
    /// Adapter and optimizer state, to train on.
    Training,
    /// Adapter only, to sample from.
    Sampler,
}

/// Writes the model to `dir` in PEFT layout. If `dir` exists and is whole, nothing is rewritten; a
/// damaged one is replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Save {
    /// The model.
    pub model: ModelId,
    /// The directory to make; its parent exists.
    pub dir: String,
    /// What for.
    pub what: SaveKind,
}

impl Request for Save {
    const TOOL: &'static str = "save";
    type Reply = Saved;
}

/// Writes everything needed to go on: adapter, moments, step, accumulated gradients, manifest.
/// If `dir` exists and is whole, nothing is rewritten; a damaged one is replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The model.
    pub model: ModelId,
    /// The directory to make; its parent exists.
    pub dir: String,
}

impl Request for Snapshot {
    const TOOL: &'static str = "snapshot";
    type Reply = Saved;
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Bytes on disk.
    pub bytes: u64,
    /// SHA-256 over the written tensors, hex.
    pub digest: String,
}

/// Puts a model back exactly as [`Snapshot`] wrote it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restore {
    /// The model.
    pub model: ModelId,
    /// A loaded base.
    pub base: String,
    /// A directory written by [`Snapshot`].
    pub dir: String,
}

impl Request for Restore {
    const TOOL: &'static str = "restore";
    type Reply = Restored;
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Optimizer steps taken so far.
    pub step: u64,
}

/// Asks for the SHA-256 of everything a model is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Digest {
    /// The model.
    pub model: ModelId,
}

impl Request for Digest {
    const TOOL: &'static str = "digest";
    type Reply = StateDigest;
}

/// SHA-256 (hex) of each part of a model's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDigest {
    /// Adapter weights.
    pub adapter: String,
    /// Both moments.
    pub moments: String,
    /// Accumulated gradients.
    pub gradients: String,
    /// Optimizer steps taken.
    pub step: u64,
}

/// Forgets a model. Forgetting an unknown one changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unload {
    /// The model.
    pub model: ModelId,
}

impl Request for Unload {
    const TOOL: &'static str = "unload";
    type Reply = ();
}

/// Loads weights to sample from. Loading the same sampler again changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadSampler {
    /// The sampler.
    pub sampler: SamplerId,
    /// A loaded base.
    pub base: String,
    /// A directory written by [`Save`] of either kind, or `None` for the bare base.
    pub dir: Option<String>,
}

impl Request for LoadSampler {
    const TOOL: &'static str = "load_sampler";
    type Reply = ();
}

/// Forgets a sampler. Forgetting an unknown one changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnloadSampler {
    /// The sampler.
    pub sampler: SamplerId,
}

impl Request for UnloadSampler {
    const TOOL: &'static str = "unload_sampler";
    type Reply = ();
}
