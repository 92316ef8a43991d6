//! Causal attention over grouped heads, in blocks of queries.

use super::ROWS;
use super::tape::{AttentionScratch, sized, zeroed};
use crate::kernel::{
    Cpu, Into, dot_rows, matmul, matmul_transposed, scale, softmax_gradient, softmax_row,
};
use crate::model::ModelConfig;

/// How queries, keys and values are laid out: rows of whole heads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    /// Query heads.
    pub(crate) queries: usize,
    /// Key and value heads.
    pub(crate) keys: usize,
    /// Numbers per head.
    pub(crate) size: usize,
}

impl Heads {
    /// Those of a model.
    pub(crate) fn of(config: &ModelConfig) -> Self {
        Self { queries: config.heads, keys: config.kv_heads, size: config.head }
    }

    /// What scores are multiplied with: `1/√size`.
    pub(crate) fn scale(&self) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
        let size = self.size as f32;
        1.0 / size.sqrt()
    }

    fn query_width(&self) -> usize {
        self.queries * self.size
    }

    fn key_width(&self) -> usize {
        self.keys * self.size
    }

    /// Query heads that share a key head.
    pub(crate) fn group(&self) -> usize {
        self.queries / self.keys
    }
}

/// Attention's inputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
}

/// What the forward pass keeps: the output, and each row's largest score and sum per head.
#[derive(Debug)]
pub(super) struct Outputs<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) tops: &'a mut [f32],
    pub(super) sums: &'a mut [f32],
}

/// The first rows of each block of queries, and how many.
fn blocks(tokens: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..tokens).step_by(ROWS).map(move |first| (first, ROWS.min(tokens - first)))
}

/// `out = softmax(q·kᵀ/√size, causal)·v`.
pub(super) fn attend(
    cpu: Cpu,
    heads: Heads,
    tokens: usize,
    inputs: Inputs<'_>,
    outputs: Outputs<'_>,
    work: &mut AttentionScratch,
) {
    let (size, wide, narrow) = (heads.size, heads.query_width(), heads.key_width());
    let factor = heads.scale();
    for group in 0..heads.keys {
        work.keys.fill_transposed(&inputs.k[group * size..], tokens, size, narrow);
        work.values.fill(&inputs.v[group * size..], tokens, size, narrow);
        for head in group * heads.group()..(group + 1) * heads.group() {
            for (first, rows) in blocks(tokens) {
                let seen = first + rows;
                let scores = sized(&mut work.scores, rows * seen);
                let q = &inputs.q[first * wide + head * size..];
                matmul(cpu, (rows, size, seen), q, wide, &work.keys, scores, seen, Into::Set);
                for (i, row) in scores.chunks_exact_mut(seen).enumerate() {
                    let (top, sum) = softmax_row(cpu, row, first + i + 1, factor);
                    outputs.tops[head * tokens + first + i] = top;
                    outputs.sums[head * tokens + first + i] = sum;
                }
                let out = &mut outputs.out[first * wide + head * size..];
                matmul(cpu, (rows, seen, size), scores, seen, &work.values, out, wide, Into::Set);
                for (i, row) in out.chunks_mut(wide).take(rows).enumerate() {
                    let sum = outputs.sums[head * tokens + first + i];
                    scale(cpu, &mut row[..size], 1.0 / sum);
                }
            }
        }
    }
}

/// The gradients of attention's inputs.
#[derive(Debug)]
pub(super) struct Gradients<'a> {
    pub(super) dq: &'a mut Vec<f32>,
    pub(super) dk: &'a mut Vec<f32>,
    pub(super) dv: &'a mut Vec<f32>,
}

/// The gradients of [`attend`], from its inputs, its outputs and the gradient of its output.
#[expect(clippy::too_many_arguments, reason = "all that attention reads and writes")]
pub(super) fn attend_backward(
    cpu: Cpu,
    heads: Heads,
    tokens: usize,
    inputs: Inputs<'_>,
    (out, tops, sums): (&[f32], &[f32], &[f32]),
    d_out: &[f32],
    gradients: Gradients<'_>,
    work: &mut AttentionScratch,
) {
    let (size, wide, narrow) = (heads.size, heads.query_width(), heads.key_width());
    let factor = heads.scale();
    let dq = sized(gradients.dq, tokens * wide);
    let dk = zeroed(gradients.dk, tokens * narrow);
    let dv = zeroed(gradients.dv, tokens * narrow);
    for group in 0..heads.keys {
        let (k, v) = (&inputs.k[group * size..], &inputs.v[group * size..]);
        work.keys.fill_transposed(k, tokens, size, narrow);
        work.keys_back.fill(k, tokens, size, narrow);
        work.values_back.fill_transposed(v, tokens, size, narrow);
        let (dk, dv) = (&mut dk[group * size..], &mut dv[group * size..]);
        for head in group * heads.group()..(group + 1) * heads.group() {
            for (first, rows) in blocks(tokens) {
                let seen = first + rows;
                let at = first * wide + head * size;
                let (q, d_out, out) = (&inputs.q[at..], &d_out[at..], &out[at..]);
                let scores = sized(&mut work.scores, rows * seen);
                let d_scores = sized(&mut work.d_scores, rows * seen);
                let means = sized(&mut work.means, rows);
                let square = (rows, size, seen);
                matmul(cpu, square, q, wide, &work.keys, scores, seen, Into::Set);
                matmul(cpu, square, d_out, wide, &work.values_back, d_scores, seen, Into::Set);
                dot_rows(cpu, d_out, out, size, wide, means);
                let lines = scores.chunks_exact_mut(seen).zip(d_scores.chunks_exact_mut(seen));
                for (i, (row, d_row)) in lines.enumerate() {
                    let at = head * tokens + first + i;
                    let known = (tops[at], sums[at], means[i]);
                    softmax_gradient(cpu, row, d_row, first + i + 1, factor, known);
                }
                let back = (rows, seen, size);
                matmul(cpu, back, d_scores, seen, &work.keys_back, &mut dq[at..], wide, Into::Set);
                work.block.fill(q, rows, size, wide);
                work.block_gradient.fill(d_out, rows, size, wide);
                let down = (seen, rows, size);
                matmul_transposed(cpu, down, d_scores, seen, &work.block, dk, narrow, Into::Add);
                let block = &work.block_gradient;
                matmul_transposed(cpu, down, scores, seen, block, dv, narrow, Into::Add);
            }
        }
    }
}
