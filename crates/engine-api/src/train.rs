//! Training: gradients and optimizer steps.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use snakehouse_base::id::ModelId;

use crate::Request;

/// One training example: tokens, what should follow each, and how much each counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Datum {
    /// Input tokens, `i32` little-endian, length T ≥ 1.
    pub tokens: Bytes,
    /// Target tokens, `i32` little-endian, length T.
    pub targets: Bytes,
    /// Weight per target, `f32` little-endian, length T, finite.
    pub weights: Bytes,
}

/// The loss of a [`ForwardBackward`]. All losses are sums over tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Loss {
    /// `Σ −log p(target) · weight`.
    CrossEntropy,
}

/// Computes the loss and, unless `forward_only`, adds its gradient to the accumulated gradient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForwardBackward {
    /// The model.
    pub model: ModelId,
    /// At least one datum. Gradients are added in this order.
    pub data: Vec<Datum>,
    /// The loss.
    pub loss: Loss,
    /// Leave gradients alone.
    pub forward_only: bool,
}

impl Request for ForwardBackward {
    const TOOL: &'static str = "forward_backward";
    type Reply = ForwardBackwardOutput;
}

/// The result of a [`ForwardBackward`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForwardBackwardOutput {
    /// One per datum, in order.
    pub outputs: Vec<DatumOutput>,
    /// The loss over all datums.
    pub loss_sum: f64,
}

/// The result for one datum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatumOutput {
    /// Log-probability of each target, `f32` little-endian, length T.
    pub logprobs: Bytes,
}

/// AdamW with decoupled weight decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adam {
    /// Step size, finite, ≥ 0.
    pub learning_rate: f64,
    /// Decay of the first moment, in `[0, 1)`.
    pub beta1: f64,
    /// Decay of the second moment, in `[0, 1)`.
    pub beta2: f64,
    /// Added to the root of the second moment, > 0.
    pub eps: f64,
    /// Decoupled decay, ≥ 0.
    pub weight_decay: f64,
    /// Largest global gradient norm; 0 turns clipping off.
    pub grad_clip_norm: f64,
}

/// Applies the accumulated gradient and clears it. Without gradients it is a step with zeros.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimize {
    /// The model.
    pub model: ModelId,
    /// The optimizer's numbers for this step.
    pub adam: Adam,
}

impl Request for Optimize {
    const TOOL: &'static str = "optimize";
    type Reply = OptimizeOutput;
}

/// The result of an [`Optimize`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimizeOutput {
    /// Steps taken so far, this one included.
    pub step: u64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
}
