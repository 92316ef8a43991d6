//! Messages of results.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Dtype, Tensor};

/// Result of `forward_backward`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ForwardBackwardOutput {
    /// What the records are; readers show the part after the last `:`.
    #[prost(string, tag = "1")]
    pub loss_fn_output_type: String,
    /// Groups of consecutive datums.
    #[prost(message, repeated, tag = "2")]
    pub loss_fn_outputs: Vec<ArrayRecord>,
    /// Numbers over all datums; each name has exactly one `:`.
    #[prost(btree_map = "string, double", tag = "3")]
    pub metrics: BTreeMap<String, f64>,
}

/// The outputs of consecutive datums that share their trailing shapes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ArrayRecord {
    /// Ignored by readers.
    #[prost(string, tag = "1")]
    pub type_tag: String,
    /// The arrays, by name.
    #[prost(btree_map = "string, message", tag = "2")]
    pub fields: BTreeMap<String, BatchedTensor>,
    /// How many datums.
    #[prost(int64, tag = "3")]
    pub num_datums: i64,
}

/// Arrays of several datums, one after the other.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct BatchedTensor {
    /// The elements of all datums.
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
    /// `int64` each: the byte where each datum begins and the last one ends.
    #[prost(bytes = "bytes", tag = "2")]
    pub offsets: Bytes,
    /// The element type.
    #[prost(enumeration = "Dtype", tag = "3")]
    pub dtype: i32,
    /// The shape after the leading dimension.
    #[prost(int64, repeated, tag = "4")]
    pub trailing_shape: Vec<i64>,
}

/// Why a sample ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum StopReason {
    /// A stop token or text.
    Stop = 0,
    /// No more room.
    Length = 1,
}

/// Result of `asample`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SampleResponse {
    /// One per requested sample.
    #[prost(message, repeated, tag = "1")]
    pub sequences: Vec<SampledSequence>,
    /// `float32` per prompt token, NaN for none.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub prompt_logprobs: Option<Bytes>,
    /// The most likely tokens per prompt position.
    #[prost(message, optional, tag = "3")]
    pub topk_prompt_logprobs: Option<TopkLogprobs>,
    /// How many prompt tokens were not computed again.
    #[prost(int32, tag = "4")]
    pub prompt_cache_hit_tokens: i32,
    /// Log-probabilities of the tokens that were asked about.
    #[prost(message, optional, tag = "5")]
    pub target_prompt_logprobs: Option<Tensor>,
    /// Tokens drawn at each prompt position.
    #[prost(message, optional, tag = "6")]
    pub prompt_alt_tokens: Option<PromptAltTokens>,
}

/// One sample.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SampledSequence {
    /// Why it ended.
    #[prost(enumeration = "StopReason", tag = "1")]
    pub stop_reason: i32,
    /// `int32` each.
    #[prost(bytes = "bytes", tag = "2")]
    pub tokens: Bytes,
    /// `float32` each.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub logprobs: Option<Bytes>,
    /// The most likely tokens per position.
    #[prost(message, optional, tag = "4")]
    pub topk_sampled_logprobs: Option<TopkLogprobs>,
}

/// A table of `length` rows of the `k` most likely tokens, row major.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct TopkLogprobs {
    /// `int32` each; 0 in an unused cell.
    #[prost(bytes = "bytes", tag = "1")]
    pub token_ids: Bytes,
    /// `float32` each; −99999 in an unused cell.
    #[prost(bytes = "bytes", tag = "2")]
    pub logprobs: Bytes,
    /// Columns.
    #[prost(uint32, tag = "3")]
    pub k: u32,
    /// Rows.
    #[prost(uint32, tag = "4")]
    pub length: u32,
}

/// Tokens drawn at each prompt position.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PromptAltTokens {
    /// `int64`, positions × draws.
    #[prost(message, optional, tag = "1")]
    pub tokens: Option<Tensor>,
    /// `float32`, positions × draws.
    #[prost(message, optional, tag = "2")]
    pub logprobs: Option<Tensor>,
}
