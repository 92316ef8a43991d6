//! The decoder, forward, keeping what the way back needs.

use super::Pass;
use super::attention::{Heads, Inputs, Outputs, attend};
use super::linear::apply;
use super::tape::{LayerTape, Scratch, Workspace, sized};
use crate::adapter::PackedSlot;
use crate::kernel::{add_into, rms_norm, rotate, swiglu};
use crate::model::Linear;

impl Pass<'_> {
    /// Fills the workspace with the activations of `tokens`, up to the last norm.
    pub(super) fn forward(&self, tokens: &[u32], work: &mut Workspace) {
        let config = &self.base.config;
        work.shape(config, tokens.len());
        let Workspace { layers, x, x_factors, final_in, scratch } = work;
        for (row, &token) in x.chunks_exact_mut(config.hidden).zip(tokens) {
            row.copy_from_slice(self.base.embed(token));
        }
        for (i, tape) in layers.iter_mut().enumerate() {
            tape.x.copy_from_slice(x);
            self.attention_block(i, tokens.len(), tape, scratch);
            self.mlp_block(i, tokens.len(), tape, x);
        }
        rms_norm(self.cpu, x, &self.base.final_norm, config.eps, final_in, x_factors);
    }

    /// `middle = x + o(attention(norm(x)))`.
    fn attention_block(&self, i: usize, rows: usize, tape: &mut LayerTape, scratch: &mut Scratch) {
        let (config, layer) = (&self.base.config, &self.base.layers[i]);
        let (cpu, eps, heads) = (self.cpu, config.eps, Heads::of(config));
        let LayerTape { x, x_factors, attention_in, q_raw, q_factors, k_raw, k_factors, .. } = tape;
        rms_norm(cpu, x, &layer.attention_norm, eps, attention_in, x_factors);
        let [zq, zk, zv, zo, ..] = &mut tape.z;
        self.linear(i, Linear::Q, rows, attention_in, q_raw, zq);
        self.linear(i, Linear::K, rows, attention_in, k_raw, zk);
        self.linear(i, Linear::V, rows, attention_in, &mut tape.v, zv);
        rms_norm(cpu, q_raw, &layer.query_norm, eps, &mut tape.q, q_factors);
        rms_norm(cpu, k_raw, &layer.key_norm, eps, &mut tape.k, k_factors);
        let angles = self.base.rope.positions(0, rows);
        rotate(cpu, &mut tape.q, config.query_width(), config.head, angles, 1.0);
        rotate(cpu, &mut tape.k, config.key_width(), config.head, angles, 1.0);
        let inputs = Inputs { q: &tape.q, k: &tape.k, v: &tape.v };
        let outputs =
            Outputs { out: &mut tape.attended, tops: &mut tape.tops, sums: &mut tape.sums };
        attend(cpu, heads, rows, inputs, outputs, &mut scratch.attention);
        self.linear(i, Linear::O, rows, &tape.attended, &mut tape.middle, zo);
        add_into(cpu, &mut tape.middle, x);
    }

    /// `x = middle + down(silu(gate)·up)` of the normed middle.
    fn mlp_block(&self, i: usize, rows: usize, tape: &mut LayerTape, x: &mut Vec<f32>) {
        let (config, layer) = (&self.base.config, &self.base.layers[i]);
        let LayerTape { middle, middle_factors, mlp_in, gate, up, act, .. } = tape;
        rms_norm(self.cpu, middle, &layer.mlp_norm, config.eps, mlp_in, middle_factors);
        let [.., zg, zu, zd] = &mut tape.z;
        self.linear(i, Linear::Gate, rows, mlp_in, gate, zg);
        self.linear(i, Linear::Up, rows, mlp_in, up, zu);
        swiglu(self.cpu, gate, up, act);
        self.linear(i, Linear::Down, rows, act, sized(x, rows * config.hidden), zd);
        add_into(self.cpu, x, middle);
    }

    /// The adapter of a linear layer, with its factor.
    pub(crate) fn adapter(&self, i: usize, which: Linear) -> Option<(&PackedSlot, f32)> {
        let adapter = self.adapter?;
        adapter.slot(i, which).map(|(_, slot)| (slot, adapter.layout.scale()))
    }

    /// One linear layer with its adapter.
    pub(crate) fn linear(
        &self,
        i: usize,
        which: Linear,
        rows: usize,
        x: &[f32],
        y: &mut [f32],
        z: &mut Vec<f32>,
    ) {
        let frozen = self.base.layers[i].linear(which);
        apply(self.cpu, frozen, self.adapter(i, which), rows, x, y, z);
    }
}
