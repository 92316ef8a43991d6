//! The result of `asample`.

use bytes::Bytes;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::{InvalidInput, proto, tensor};

/// The log-probability in an unused cell of a top-k table.
const UNUSED: f32 = -99999.0;

/// Why a sample ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// A stop token or text.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
}

/// The most likely tokens of one position, best first; `None` where not computed.
pub type TopkRow = Option<Vec<(i32, f32)>>;

/// One sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampledSequence {
    /// Why it ended.
    pub stop_reason: StopReason,
    /// The drawn tokens.
    pub tokens: Vec<i32>,
    /// Log-probability of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<f32>>,
    /// The most likely tokens of each position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topk_logprobs: Option<Vec<TopkRow>>,
}

/// The samples of one prompt. Serialises to the JSON form that clients before 0.25 read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleOutput {
    /// One per requested sample, in order.
    pub sequences: Vec<SampledSequence>,
    /// Log-probability of each prompt token, `None` where not computed (always the first).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<Vec<Option<f32>>>,
    /// The most likely tokens of each prompt position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topk_prompt_logprobs: Option<Vec<TopkRow>>,
    /// How many prompt tokens were not computed again.
    #[serde(default)]
    pub prompt_cache_hit_tokens: i32,
}

impl SampleOutput {
    /// The protobuf body.
    pub fn encode(&self) -> Bytes {
        let sequences = self
            .sequences
            .iter()
            .map(|sequence| proto::SampledSequence {
                stop_reason: match sequence.stop_reason {
                    StopReason::Stop => proto::StopReason::Stop as i32,
                    StopReason::Length => proto::StopReason::Length as i32,
                },
                tokens: sequence.tokens.iter().flat_map(|t| t.to_le_bytes()).collect(),
                logprobs: sequence.logprobs.as_deref().map(floats),
                topk_sampled_logprobs: sequence.topk_logprobs.as_deref().map(table),
            })
            .collect();
        let prompt_logprobs = self.prompt_logprobs.as_deref().map(|values| {
            let values: Vec<f32> = values.iter().map(|v| v.unwrap_or(f32::NAN)).collect();
            floats(&values)
        });
        let message = proto::SampleResponse {
            sequences,
            prompt_logprobs,
            topk_prompt_logprobs: self.topk_prompt_logprobs.as_deref().map(table),
            prompt_cache_hit_tokens: self.prompt_cache_hit_tokens,
            target_prompt_logprobs: None,
            prompt_alt_tokens: None,
        };
        Bytes::from(message.encode_to_vec())
    }

    /// Reads a protobuf body. Answers about target or alternative tokens are left out.
    ///
    /// # Errors
    /// [`InvalidInput`] when the bytes are no such message or an array has a wrong size.
    pub fn decode(body: Bytes) -> Result<Self, InvalidInput> {
        let message = proto::SampleResponse::decode(body)
            .map_err(|e| InvalidInput::MalformedBody { reason: e.to_string() })?;
        let sequences = message
            .sequences
            .into_iter()
            .map(|sequence| {
                let stop_reason = match proto::StopReason::try_from(sequence.stop_reason) {
                    Ok(proto::StopReason::Stop) => StopReason::Stop,
                    Ok(proto::StopReason::Length) => StopReason::Length,
                    Err(e) => return Err(tensor::malformed(e.to_string())),
                };
                Ok(SampledSequence {
                    stop_reason,
                    tokens: tensor::read(&sequence.tokens, i32::from_le_bytes)?,
                    logprobs: sequence
                        .logprobs
                        .filter(|bytes| !bytes.is_empty())
                        .map(|bytes| tensor::read(&bytes, f32::from_le_bytes))
                        .transpose()?,
                    topk_logprobs: rows(sequence.topk_sampled_logprobs)?,
                })
            })
            .collect::<Result<_, InvalidInput>>()?;
        let prompt_logprobs = message
            .prompt_logprobs
            .map(|bytes| {
                tensor::read(&bytes, |b| Some(f32::from_le_bytes(b)).filter(|v| !v.is_nan()))
            })
            .transpose()?;
        Ok(Self {
            sequences,
            prompt_logprobs,
            topk_prompt_logprobs: rows(message.topk_prompt_logprobs)?,
            prompt_cache_hit_tokens: message.prompt_cache_hit_tokens,
        })
    }
}

fn floats(values: &[f32]) -> Bytes {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn table(rows: &[TopkRow]) -> proto::TopkLogprobs {
    let k = rows.iter().flatten().map(Vec::len).max().unwrap_or(0);
    let cells: Vec<(i32, f32)> = rows
        .iter()
        .flat_map(|row| {
            let row = row.as_deref().unwrap_or(&[]);
            row.iter().copied().chain(std::iter::repeat_n((0, UNUSED), k - row.len()))
        })
        .collect();
    proto::TopkLogprobs {
        token_ids: cells.iter().flat_map(|(token, _)| token.to_le_bytes()).collect(),
        logprobs: cells.iter().flat_map(|(_, logprob)| logprob.to_le_bytes()).collect(),
        k: u32::try_from(k).unwrap_or(u32::MAX),
        length: u32::try_from(rows.len()).unwrap_or(u32::MAX),
    }
}

fn rows(message: Option<proto::TopkLogprobs>) -> Result<Option<Vec<TopkRow>>, InvalidInput> {
    let Some(table) = message.filter(|t| t.k > 0 && t.length > 0) else { return Ok(None) };
    let bad = || tensor::malformed("a top-k table contradicts its size");
    let tokens = tensor::read(&table.token_ids, i32::from_le_bytes)?;
    let logprobs = tensor::read(&table.logprobs, f32::from_le_bytes)?;
    let k = usize::try_from(table.k).map_err(|_| bad())?;
    let length = usize::try_from(table.length).map_err(|_| bad())?;
    if k.checked_mul(length) != Some(tokens.len()) || tokens.len() != logprobs.len() {
        return Err(bad());
    }
    let cells: Vec<(i32, f32)> = tokens.into_iter().zip(logprobs).collect();
    let used = |row: &[(i32, f32)]| {
        let end = row.iter().rposition(|cell| *cell != (0, UNUSED)).map_or(0, |last| last + 1);
        Some(row[..end].to_vec()).filter(|_| row[0] != (0, UNUSED))
    };
    Ok(Some(cells.chunks_exact(k).map(used).collect()))
}
