//! The wire types of the Tinker fine-tuning API: JSON, protobuf, tensors, validation.
//!
//! Both sides use them: the service reads requests and writes answers, the client writes requests
//! and reads answers, so every type goes both ways. Nothing here does I/O and nothing knows HTTP;
//! the crate owns the *shape* of the protocol and the rules that input must keep.
//!
//! - [`json`]: request and answer bodies, absent fields left out;
//! - [`proto`]: the protobuf messages, written by hand with the protocol's tags;
//! - [`Tensor`], [`Datum`], [`ForwardBackwardRequest`], [`ForwardBackwardOutput`],
//!   [`SampleOutput`]: what the messages mean, with conversions in both directions;
//! - [`CheckpointPath`]: `tinker://run/kind/name`, safe to use as a directory name;
//! - [`limits`]: the caps on every input.
//!
//! Input that breaks a rule is an [`InvalidInput`], with a stable code and a hint. Tested against
//! byte vectors made by the official client, in both directions.

pub mod json;
pub mod limits;
pub mod proto;

mod checkpoint_path;
mod cross_entropy;
mod datum;
mod forward_backward;
mod forward_backward_output;
mod invalid_input;
mod loss;
mod sample_output;
mod tensor;

pub use checkpoint_path::{CheckpointKind, CheckpointName, CheckpointPath};
pub use cross_entropy::{CrossEntropyDatum, ModelBounds};
pub use datum::Datum;
pub use forward_backward::ForwardBackwardRequest;
pub use forward_backward_output::{ForwardBackwardOutput, LossOutput};
pub use invalid_input::InvalidInput;
pub use loss::{LossConfigValue, LossFn};
pub use sample_output::{SampleOutput, SampledSequence, StopReason, TopkRow};
pub use tensor::{Tensor, TensorData};

/// The content type of protobuf bodies.
pub const PROTOBUF: &str = "application/x-protobuf";
