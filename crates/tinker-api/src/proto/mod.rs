//! The protobuf messages of package `tinker_public`, by hand.
//!
//! No code generator and no `protoc`: the few messages stand here with the protocol's tags. All
//! arrays of numbers are little-endian bytes. Conversions to and from their meaning live beside
//! the types of that meaning, such as [`Tensor`](crate::Tensor).

mod input;
mod output;
mod tensor;

pub use input::{
    Chunk, ChunkKind, Datum, DmelChunk, EncodedTextChunk, ForwardBackwardHeader,
    ForwardBackwardRequest, ImageChunk, ImageDimensions, LossConfigValue, LossConfigValueKind,
    PromptProvenanceSpan, ProvenanceSpan, ProvenanceSpanKind, SampledProvenanceSpan,
};
pub use output::{
    ArrayRecord, BatchedTensor, ForwardBackwardOutput, PromptAltTokens, SampleResponse,
    SampledSequence, StopReason, TopkLogprobs,
};
pub use tensor::{Dtype, SparseCsr, Tensor, TensorStorage};

#[cfg(test)]
mod tests;
