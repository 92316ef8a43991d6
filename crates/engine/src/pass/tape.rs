//! The activations of one datum, and scratch space.

use crate::kernel::Packed;
use crate::model::ModelConfig;

/// What one layer's backward pass needs of its forward pass. Rows are tokens.
#[derive(Debug, Default)]
pub(super) struct LayerTape {
    /// The residual stream on entry.
    pub(super) x: Vec<f32>,
    /// Factors of the first norm, one per token.
    pub(super) x_factors: Vec<f32>,
    /// Normed input of q, k and v.
    pub(super) attention_in: Vec<f32>,
    /// Queries before their norm, and its factors.
    pub(super) q_raw: Vec<f32>,
    pub(super) q_factors: Vec<f32>,
    /// Keys before their norm, and its factors.
    pub(super) k_raw: Vec<f32>,
    pub(super) k_factors: Vec<f32>,
    /// Queries, keys and values as attention sees them.
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    /// Largest score and sum of numerators, per head and token.
    pub(super) tops: Vec<f32>,
    pub(super) sums: Vec<f32>,
    /// What attention returns: the input of o.
    pub(super) attended: Vec<f32>,
    /// The residual stream after attention.
    pub(super) middle: Vec<f32>,
    pub(super) middle_factors: Vec<f32>,
    /// Normed input of gate and up.
    pub(super) mlp_in: Vec<f32>,
    pub(super) gate: Vec<f32>,
    pub(super) up: Vec<f32>,
    /// `silu(gate)·up`: the input of down.
    pub(super) act: Vec<f32>,
    /// `(α/r)·x·Aᵀ` of each adapted linear layer.
    pub(super) z: [Vec<f32>; 7],
}

/// Buffers that no two uses overlap in.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Gradient of the residual stream.
    pub(super) dx: Vec<f32>,
    /// Gradient of a normed input.
    pub(super) dh: Vec<f32>,
    /// Gradient of attention's output.
    pub(super) d_attended: Vec<f32>,
    pub(super) dq: Vec<f32>,
    pub(super) dk: Vec<f32>,
    pub(super) dv: Vec<f32>,
    /// Gradients through the norms of queries and keys.
    pub(super) d_raw: Vec<f32>,
    /// Gradient of `act`.
    pub(super) d_act: Vec<f32>,
    /// Gradient of `z`.
    pub(super) u: Vec<f32>,
    pub(super) packed_x: Packed,
    pub(super) packed_z: Packed,
    pub(super) attention: AttentionScratch,
    pub(super) head: HeadScratch,
}

/// Scratch of attention, for one head and one block of queries.
#[derive(Debug, Default)]
pub(crate) struct AttentionScratch {
    pub(super) scores: Vec<f32>,
    pub(super) d_scores: Vec<f32>,
    pub(super) means: Vec<f32>,
    pub(super) keys: Packed,
    pub(super) values: Packed,
    pub(super) keys_back: Packed,
    pub(super) values_back: Packed,
    pub(super) block: Packed,
    pub(super) block_gradient: Packed,
}

/// Scratch of the output projection, for one block of rows.
#[derive(Debug, Default)]
pub(super) struct HeadScratch {
    pub(super) logits: Vec<f32>,
    pub(super) z: Vec<f32>,
}

/// The memory of one running datum. Grows to the largest datum it has seen.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    pub(super) layers: Vec<LayerTape>,
    /// The residual stream at the end, and its norm.
    pub(super) x: Vec<f32>,
    pub(super) x_factors: Vec<f32>,
    pub(super) final_in: Vec<f32>,
    pub(super) scratch: Scratch,
}

/// Gives a buffer this length. Contents are whatever they are.
pub(super) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.resize(len, 0.0);
    buffer
}

/// Gives a buffer this length, all zeros.
pub(super) fn zeroed(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.clear();
    buffer.resize(len, 0.0);
    buffer
}

impl Workspace {
    /// Makes room for `tokens` tokens of a model of this shape.
    pub(super) fn shape(&mut self, config: &ModelConfig, tokens: usize) {
        let (t, hidden, ffn) = (tokens, config.hidden, config.ffn);
        let (queries, keys) = (config.query_width(), config.key_width());
        self.layers.resize_with(config.layers, LayerTape::default);
        for layer in &mut self.layers {
            for (buffer, len) in [
                (&mut layer.x, t * hidden),
                (&mut layer.x_factors, t),
                (&mut layer.attention_in, t * hidden),
                (&mut layer.q_raw, t * queries),
                (&mut layer.q_factors, t * config.heads),
                (&mut layer.k_raw, t * keys),
                (&mut layer.k_factors, t * config.kv_heads),
                (&mut layer.q, t * queries),
                (&mut layer.k, t * keys),
                (&mut layer.v, t * keys),
                (&mut layer.tops, t * config.heads),
                (&mut layer.sums, t * config.heads),
                (&mut layer.attended, t * queries),
                (&mut layer.middle, t * hidden),
                (&mut layer.middle_factors, t),
                (&mut layer.mlp_in, t * hidden),
                (&mut layer.gate, t * ffn),
                (&mut layer.up, t * ffn),
                (&mut layer.act, t * ffn),
            ] {
                sized(buffer, len);
            }
        }
        sized(&mut self.x, t * hidden);
        sized(&mut self.x_factors, t);
        sized(&mut self.final_in, t * hidden);
    }
}
