//! Sampling.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use snakehouse_base::id::SamplerId;

use crate::Request;

/// Draws continuations of a prompt. Draw `n` of a request depends on (weights, prompt, params, n)
/// only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// A loaded sampler.
    pub sampler: SamplerId,
    /// Prompt tokens, `i32` little-endian, at least one.
    pub prompt: Bytes,
    /// How many continuations, at least one.
    pub num_samples: u32,
    /// How to draw.
    pub params: SampleParams,
    /// Also return the log-probability of each prompt token.
    pub prompt_logprobs: bool,
}

impl Request for Sample {
    const TOOL: &'static str = "sample";
    type Reply = Sampled;
}

/// How to draw tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleParams {
    /// Most tokens to draw; `None` fills the context.
    pub max_tokens: Option<u32>,
    /// Seed of the draws. Always present here: the service draws a missing one and records it.
    pub seed: u64,
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Keep the k most likely; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set with this mass; 1 keeps all.
    pub top_p: f32,
    /// When to end.
    pub stop: Stop,
}

/// What ends a sample before `max_tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The base model's end-of-sequence tokens.
    Eos,
    /// Any of these tokens (none = never).
    Tokens(Vec<u32>),
    /// Any of these texts.
    Texts(Vec<String>),
}

/// Why a sample ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// A stop token or text, which is the last of the tokens.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
}

/// The result of a [`Sample`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// One per requested sample, in order.
    pub sequences: Vec<SampledSequence>,
    /// If asked: `f32` little-endian per prompt token, NaN for the first.
    pub prompt_logprobs: Option<Bytes>,
}

/// One continuation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampledSequence {
    /// The drawn tokens, `i32` little-endian.
    pub tokens: Bytes,
    /// Log-probability of each under the unscaled distribution, `f32` little-endian.
    pub logprobs: Bytes,
    /// Why it ended.
    pub stop: StopReason,
}
