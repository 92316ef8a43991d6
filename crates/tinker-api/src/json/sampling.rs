//! Sampling sessions and samples.

use serde::{Deserialize, Serialize};

use crate::{InvalidInput, ModelBounds, limits};

/// Body of `create_sampling_session`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "create_sampling_session")]
pub struct CreateSamplingSession {
    /// The session it lives in.
    pub session_id: String,
    /// The client's count of sampling sessions, from 0.
    pub sampling_session_seq_id: u64,
    /// Sample from this base model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// Or from these saved weights, a `tinker://` path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_path: Option<String>,
}

/// Answer of `create_sampling_session`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplingSessionCreated {
    /// The new sampling session.
    pub sampling_session_id: String,
}

/// Answer of `samplers/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplerInfo {
    /// The sampling session.
    pub sampler_id: String,
    /// Its base model.
    pub base_model: String,
    /// Its weights, a `tinker://` path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_path: Option<String>,
}

/// Body of `asample`; answered by a promise of a protobuf
/// [`SampleOutput`](crate::SampleOutput).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "sample")]
pub struct Sample {
    /// How many samples.
    #[serde(default = "one")]
    pub num_samples: u32,
    /// What to continue.
    pub prompt: SamplingPrompt,
    /// How to draw.
    #[serde(default)]
    pub sampling_params: SamplingParams,
    /// The sampling session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling_session_id: Option<String>,
    /// The client's count of samples in that session.
    #[serde(default)]
    pub seq_id: u64,
    /// Another addressing; not available here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// Another addressing; not available here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_path: Option<String>,
    /// Also return log-probabilities of the prompt.
    #[serde(default)]
    pub prompt_logprobs: bool,
    /// Also return the most likely tokens of each prompt position; 0 is off.
    #[serde(default)]
    pub topk_prompt_logprobs: u32,
    /// Also return the most likely tokens of each drawn position; 0 is off.
    #[serde(default)]
    pub topk_sample_logprobs: u32,
    /// Also return log-probabilities of these tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_prompt_logprobs: Option<serde_json::Value>,
    /// Also draw tokens at each prompt position; 0 is off.
    #[serde(default)]
    pub prompt_alt_tokens_k: u32,
    /// Log-probabilities of the last n prompt tokens only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs_last_n: Option<u32>,
    /// Remember what a stabilised loss needs later.
    #[serde(default)]
    pub record_stability_info: bool,
}

const fn one() -> u32 {
    1
}

impl Sample {
    /// Checks the request against what the model can take and returns the prompt's tokens.
    ///
    /// # Errors
    /// [`InvalidInput`] names the first rule that the request breaks.
    pub fn check(&self, bounds: &ModelBounds) -> Result<Vec<u32>, InvalidInput> {
        for (asked, name) in [
            (self.topk_prompt_logprobs > 0, "topk_prompt_logprobs"),
            (self.topk_sample_logprobs > 0, "topk_sample_logprobs"),
            (self.target_prompt_logprobs.is_some(), "target_prompt_logprobs"),
            (self.prompt_alt_tokens_k > 0, "prompt_alt_tokens_k"),
            (self.prompt_logprobs_last_n.is_some(), "prompt_logprobs_last_n"),
            (self.record_stability_info, "record_stability_info"),
            (self.base_model.is_some(), "base_model of asample"),
            (self.model_path.is_some(), "model_path of asample"),
        ] {
            if asked {
                return Err(InvalidInput::UnsupportedOption { name });
            }
        }
        if !(1..=limits::SAMPLES).contains(&self.num_samples) {
            return Err(InvalidInput::OutOfRange {
                name: "num_samples",
                rule: "between 1 and 128",
                value: self.num_samples.to_string(),
            });
        }
        self.sampling_params.check(bounds)?;
        let tokens = self.prompt.tokens()?;
        bounds.check_length(0, tokens.len())?;
        if tokens.len() >= bounds.max_context {
            return Err(InvalidInput::TooLong {
                datum: 0,
                length: tokens.len() + 1,
                most: bounds.max_context,
            });
        }
        bounds.check_tokens(0, "prompt", &tokens)
    }
}

/// What to continue, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SamplingPrompt {
    /// The pieces, in order.
    pub chunks: Vec<PromptChunk>,
}

impl SamplingPrompt {
    /// A prompt of text tokens.
    pub fn from_tokens(tokens: Vec<i64>) -> Self {
        Self { chunks: vec![PromptChunk::EncodedText { tokens }] }
    }

    /// The tokens of all pieces.
    ///
    /// # Errors
    /// [`InvalidInput::UnsupportedChunk`] for a piece that is not text.
    pub fn tokens(&self) -> Result<Vec<i64>, InvalidInput> {
        let mut all = Vec::new();
        for chunk in &self.chunks {
            let unsupported = |chunk| Err(InvalidInput::UnsupportedChunk { datum: 0, chunk });
            match chunk {
                PromptChunk::EncodedText { tokens } => all.extend_from_slice(tokens),
                PromptChunk::Image {} => return unsupported("image"),
                PromptChunk::ImageAssetPointer {} => return unsupported("image_asset_pointer"),
                PromptChunk::Dmel {} => return unsupported("dmel"),
                PromptChunk::Unknown => return unsupported("unknown"),
            }
        }
        Ok(all)
    }
}

/// A piece of a prompt. Only text can be used so far; the contents of other kinds are not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PromptChunk {
    /// Text.
    EncodedText {
        /// Its tokens.
        tokens: Vec<i64>,
    },
    /// A picture.
    Image {},
    /// A picture by reference.
    ImageAssetPointer {},
    /// Audio.
    Dmel {},
    /// Something newer.
    #[serde(other)]
    Unknown,
}

/// How to draw tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingParams {
    /// Most tokens to draw; fills the context when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Seed of the draws; the service draws one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// When to end; at the end-of-sequence tokens when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// 0 takes the most likely token.
    pub temperature: f64,
    /// Keep the k most likely; −1 or 0 keeps all.
    pub top_k: i64,
    /// Keep the smallest set with this mass; 1 keeps all.
    pub top_p: f64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self { max_tokens: None, seed: None, stop: None, temperature: 1.0, top_k: -1, top_p: 1.0 }
    }
}

impl SamplingParams {
    /// Checks every number, and stop tokens against the vocabulary.
    ///
    /// # Errors
    /// [`InvalidInput`] names the first rule that is broken.
    pub fn check(&self, bounds: &ModelBounds) -> Result<(), InvalidInput> {
        let rule = |holds, name, rule, value: String| match holds {
            true => Ok(()),
            false => Err(InvalidInput::OutOfRange { name, rule, value }),
        };
        let temperature = self.temperature;
        rule(
            temperature >= 0.0 && temperature.is_finite(),
            "temperature",
            "finite and at least 0",
            temperature.to_string(),
        )?;
        rule(
            self.top_p > 0.0 && self.top_p <= 1.0,
            "top_p",
            "more than 0 and at most 1",
            self.top_p.to_string(),
        )?;
        rule(self.top_k >= -1, "top_k", "-1 (off) or more", self.top_k.to_string())?;
        rule(self.max_tokens != Some(0), "max_tokens", "1 or more", "0".to_owned())?;
        let Some(stop) = &self.stop else { return Ok(()) };
        let count = match stop {
            Stop::Text(_) => 1,
            Stop::Texts(texts) => texts.len(),
            Stop::Tokens(tokens) => {
                bounds.check_tokens(0, "stop", tokens)?;
                tokens.len()
            }
        };
        rule(count <= limits::STOPS, "stop", "a list of at most 64", count.to_string())?;
        let empty = match stop {
            Stop::Text(text) => text.is_empty(),
            Stop::Texts(texts) => texts.iter().any(String::is_empty),
            Stop::Tokens(_) => false,
        };
        rule(!empty, "stop", "texts that are not empty", "\"\"".to_owned())
    }
}

/// What ends a sample. An empty list means: nothing does, not even the end-of-sequence tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stop {
    /// This text.
    Text(String),
    /// Any of these texts.
    Texts(Vec<String>),
    /// Any of these tokens.
    Tokens(Vec<i64>),
}
