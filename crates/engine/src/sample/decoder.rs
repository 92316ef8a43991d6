//! The decoder over a cache: a prompt in blocks, then one token per sequence.

use std::sync::Arc;

use super::attend::attend_cached;
use super::cache::{Cache, Segment};
use crate::kernel::{add_into, log_sum_exp, rms_norm, rotate, swiglu};
use crate::model::Linear;
use crate::pass::{Heads, Pass, ROWS, apply};

/// Scratch space of one decoding thread.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    x: Vec<f32>,
    normed: Vec<f32>,
    factors: Vec<f32>,
    raw: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    act: Vec<f32>,
    z: Vec<f32>,
    scores: Vec<f32>,
    logits: Vec<f32>,
}

/// A prompt that has been read.
#[derive(Debug)]
pub(super) struct Prompt {
    /// Its keys and values.
    pub(super) segment: Arc<Segment>,
    /// Logits of the token after it.
    pub(super) logits: Vec<f32>,
    /// If asked: log-probability of each token but the first.
    pub(super) logprobs: Vec<f32>,
}

impl Decoder {
    /// Reads a prompt.
    pub(super) fn prompt(&mut self, pass: Pass<'_>, tokens: &[u32], logprobs: bool) -> Prompt {
        let config = &pass.base.config;
        let (vocab, hidden) = (config.vocab_size, config.hidden);
        let mut segment = Segment::new(config, tokens.len());
        let mut scored = Vec::new();
        let mut logits = Vec::new();
        for (block, part) in tokens.chunks(ROWS).enumerate() {
            let (first, rows) = (block * ROWS, part.len());
            let (cos, sin) = pass.base.rope.positions(first, rows);
            self.layers(pass, part, (cos, sin), |me, layer| {
                segment.write(layer, &me.k, &me.v, config.head);
                let one = std::iter::once(&segment);
                let at = (first, rows);
                let (heads, scores) = (Heads::of(config), &mut me.scores);
                attend_cached(pass.cpu, heads, layer, one, at, &me.q, &mut me.attended, scores);
            });
            segment.advance(rows);
            let done = first + rows == tokens.len();
            if logprobs {
                self.head(pass, 0, rows);
                let targets = tokens[first + 1..].iter().take(rows);
                for (row, &target) in self.logits.chunks_exact(vocab).zip(targets) {
                    scored.push(logprob(pass, row, target));
                }
                if done {
                    logits = self.logits[(rows - 1) * vocab..].to_vec();
                }
            } else if done {
                self.head(pass, (rows - 1) * hidden, 1);
                logits.clone_from(&self.logits);
            }
        }
        Prompt { segment: Arc::new(segment), logits, logprobs: scored }
    }

    /// Appends one token to each sequence, all of which stand at `position`. The logits of the
    /// next tokens follow row by row.
    pub(super) fn step(
        &mut self,
        pass: Pass<'_>,
        tokens: &[u32],
        position: usize,
        caches: &mut [Cache],
    ) -> &[f32] {
        let config = &pass.base.config;
        let (cos, sin) = pass.base.rope.repeated(position, tokens.len());
        let (wide, narrow) = (config.query_width(), config.key_width());
        self.layers(pass, tokens, (&cos, &sin), |me, layer| {
            let rows = me.k.chunks_exact(narrow).zip(me.v.chunks_exact(narrow));
            let lines = me.q.chunks_exact(wide).zip(me.attended.chunks_exact_mut(wide));
            for ((cache, (k, v)), (q, out)) in caches.iter_mut().zip(rows).zip(lines) {
                if let Some(tail) = cache.tail(config) {
                    tail.write(layer, k, v, config.head);
                }
                let (heads, all, at) = (Heads::of(config), cache.segments(), (position, 1));
                attend_cached(pass.cpu, heads, layer, all, at, q, out, &mut me.scores);
            }
        });
        for cache in caches {
            if let Some(tail) = cache.tail(config) {
                tail.advance(1);
            }
        }
        self.head(pass, 0, tokens.len());
        &self.logits
    }

    /// All layers and the last norm, for these rows. `attend` finds q, k and v and leaves
    /// `attended`.
    fn layers(
        &mut self,
        pass: Pass<'_>,
        tokens: &[u32],
        angles: (&[f32], &[f32]),
        mut attend: impl FnMut(&mut Self, usize),
    ) {
        let (base, cpu, rows) = (pass.base, pass.cpu, tokens.len());
        let config = &base.config;
        let (wide, narrow, eps) = (config.query_width(), config.key_width(), config.eps);
        self.x.clear();
        tokens.iter().for_each(|&t| self.x.extend_from_slice(base.embed(t)));
        for (buffer, width) in [
            (&mut self.normed, config.hidden),
            (&mut self.factors, config.heads),
            (&mut self.raw, wide.max(config.hidden)),
            (&mut self.q, wide),
            (&mut self.k, narrow),
            (&mut self.v, narrow),
            (&mut self.attended, wide),
            (&mut self.gate, config.ffn),
            (&mut self.up, config.ffn),
            (&mut self.act, config.ffn),
        ] {
            buffer.resize(rows * width, 0.0);
        }
        for (i, layer) in base.layers.iter().enumerate() {
            let (normed, factors, raw, z) =
                (&mut self.normed, &mut self.factors, &mut self.raw, &mut self.z);
            rms_norm(cpu, &self.x, &layer.attention_norm, eps, normed, factors);
            let raw_q = &mut raw[..rows * wide];
            pass.linear(i, Linear::Q, rows, normed, raw_q, z);
            rms_norm(cpu, raw_q, &layer.query_norm, eps, &mut self.q, factors);
            let raw_k = &mut raw[..rows * narrow];
            pass.linear(i, Linear::K, rows, normed, raw_k, z);
            rms_norm(cpu, raw_k, &layer.key_norm, eps, &mut self.k, factors);
            pass.linear(i, Linear::V, rows, normed, &mut self.v, z);
            rotate(cpu, &mut self.q, wide, config.head, angles, 1.0);
            rotate(cpu, &mut self.k, narrow, config.head, angles, 1.0);
            attend(self, i);
            let (normed, factors, z) = (&mut self.normed, &mut self.factors, &mut self.z);
            let out = &mut self.raw[..rows * config.hidden];
            pass.linear(i, Linear::O, rows, &self.attended, out, z);
            add_into(cpu, &mut self.x, out);
            rms_norm(cpu, &self.x, &layer.mlp_norm, eps, normed, factors);
            pass.linear(i, Linear::Gate, rows, normed, &mut self.gate, z);
            pass.linear(i, Linear::Up, rows, normed, &mut self.up, z);
            swiglu(cpu, &self.gate, &self.up, &mut self.act);
            pass.linear(i, Linear::Down, rows, &self.act, out, z);
            add_into(cpu, &mut self.x, out);
        }
        rms_norm(cpu, &self.x, &base.final_norm, eps, &mut self.normed, &mut self.factors);
    }

    /// Logits of `rows` rows that start at `first` in the normed stream.
    fn head(&mut self, pass: Pass<'_>, first: usize, rows: usize) {
        let base = pass.base;
        let adapter = pass.adapter.and_then(|a| Some((a.head()?.1, a.layout.scale())));
        self.logits.resize(rows * base.config.vocab_size, 0.0);
        let x = &self.normed[first..];
        apply(pass.cpu, &base.head, adapter, rows, x, &mut self.logits, &mut self.z);
    }
}

/// `ln p(token)` under these logits.
pub(super) fn logprob(pass: Pass<'_>, logits: &[f32], token: u32) -> f32 {
    let (top, _, log) = log_sum_exp(pass.cpu, &mut logits.to_vec());
    logits[token as usize] - top - log
}
