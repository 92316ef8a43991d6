//! Keys and values of the tokens so far.

use std::sync::Arc;

use crate::kernel::Packed;
use crate::model::ModelConfig;

/// Tokens per segment that grows. A constant, and harmless: bits do not depend on it.
const SEGMENT: usize = 256;

/// Keys and values of one head, for some consecutive tokens.
#[derive(Debug)]
pub(super) struct HeadCache {
    /// Size × tokens.
    pub(super) keys: Packed,
    /// Tokens × size.
    pub(super) values: Packed,
}

/// A run of consecutive tokens: all layers, all key heads.
#[derive(Debug)]
pub(super) struct Segment {
    len: usize,
    capacity: usize,
    key_heads: usize,
    heads: Vec<HeadCache>,
}

impl Segment {
    /// Room for `capacity` tokens.
    pub(super) fn new(config: &ModelConfig, capacity: usize) -> Self {
        let cache = || HeadCache {
            keys: Packed::zeros(config.head, capacity),
            values: Packed::zeros(capacity, config.head),
        };
        let heads = (0..config.layers * config.kv_heads).map(|_| cache()).collect();
        Self { len: 0, capacity, key_heads: config.kv_heads, heads }
    }

    /// Tokens in it.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// One head of one layer.
    pub(super) fn head(&self, layer: usize, head: usize) -> &HeadCache {
        &self.heads[layer * self.key_heads + head]
    }

    /// Writes the keys and values of rows `len..` of one layer.
    pub(super) fn write(&mut self, layer: usize, k: &[f32], v: &[f32], size: usize) {
        let width = self.key_heads * size;
        for (row, (k, v)) in k.chunks_exact(width).zip(v.chunks_exact(width)).enumerate() {
            let heads = &mut self.heads[layer * self.key_heads..][..self.key_heads];
            let parts = k.chunks_exact(size).zip(v.chunks_exact(size));
            for (head, (k, v)) in heads.iter_mut().zip(parts) {
                head.keys.set_column(self.len + row, k);
                head.values.set_row(self.len + row, v);
            }
        }
    }

    /// Counts rows that were written to every layer.
    pub(super) fn advance(&mut self, rows: usize) {
        self.len += rows;
        assert!(self.len <= self.capacity, "a segment is not overfilled");
    }
}

/// The tokens of one sequence: a shared prompt and what was drawn.
#[derive(Debug)]
pub(super) struct Cache {
    prompt: Arc<Segment>,
    drawn: Vec<Segment>,
}

impl Cache {
    /// A sequence that so far is the prompt.
    pub(super) fn new(prompt: Arc<Segment>) -> Self {
        Self { prompt, drawn: Vec::new() }
    }

    /// The segment that takes the next token.
    pub(super) fn tail(&mut self, config: &ModelConfig) -> Option<&mut Segment> {
        if self.drawn.last().is_none_or(|s| s.len == s.capacity) {
            self.drawn.push(Segment::new(config, SEGMENT));
        }
        self.drawn.last_mut()
    }

    /// All segments, in order.
    pub(super) fn segments(&self) -> impl Iterator<Item = &Segment> + Clone {
        std::iter::once(&*self.prompt).chain(&self.drawn)
    }
}
