//! The decoder, backward.

use super::Pass;
use super::attention::{Gradients, Heads, Inputs, attend_backward};
use super::linear::{Trained, apply_backward};
use super::tape::{LayerTape, Scratch, Workspace, sized, zeroed};
use crate::kernel::{Into, Packed, rms_norm_backward, rotate, swiglu_backward};
use crate::model::Linear;

impl Pass<'_> {
    /// From the gradient of the last norm's output (in `scratch.dh`) to all adapters of the layers.
    pub(super) fn backward(&self, rows: usize, work: &mut Workspace, gradient: &mut [f32]) {
        let hidden = self.base.config.hidden;
        let Workspace { layers, x, x_factors, scratch, .. } = work;
        let dx = zeroed(&mut scratch.dx, rows * hidden);
        rms_norm_backward(self.cpu, &scratch.dh, x, &self.base.final_norm, x_factors, dx);
        for (i, tape) in layers.iter_mut().enumerate().rev() {
            self.mlp_backward(i, rows, tape, scratch, gradient);
            self.attention_backward(i, rows, tape, scratch, gradient);
        }
    }

    fn mlp_backward(
        &self,
        i: usize,
        rows: usize,
        tape: &mut LayerTape,
        scratch: &mut Scratch,
        gradient: &mut [f32],
    ) {
        let (config, layer, cpu) = (&self.base.config, &self.base.layers[i], self.cpu);
        let Scratch { dx, dh, d_act, u, packed_x, packed_z, .. } = scratch;
        let d_act = sized(d_act, rows * config.ffn);
        let LayerTape { act, gate, up, mlp_in, z, .. } = tape;
        packed_x.fill(act, rows, config.ffn, config.ffn);
        let out = Some((&mut *d_act, Into::Set));
        self.linear_backward(i, Linear::Down, rows, dx, packed_x, z, out, (u, packed_z), gradient);
        swiglu_backward(cpu, d_act, gate, up);
        packed_x.fill(mlp_in, rows, config.hidden, config.hidden);
        let dh = sized(dh, rows * config.hidden);
        let out = Some((&mut *dh, Into::Set));
        self.linear_backward(
            i,
            Linear::Gate,
            rows,
            gate,
            packed_x,
            z,
            out,
            (u, packed_z),
            gradient,
        );
        let out = Some((&mut *dh, Into::Add));
        self.linear_backward(i, Linear::Up, rows, up, packed_x, z, out, (u, packed_z), gradient);
        rms_norm_backward(cpu, dh, &tape.middle, &layer.mlp_norm, &tape.middle_factors, dx);
    }

    fn attention_backward(
        &self,
        i: usize,
        rows: usize,
        tape: &mut LayerTape,
        scratch: &mut Scratch,
        gradient: &mut [f32],
    ) {
        let (config, layer, cpu) = (&self.base.config, &self.base.layers[i], self.cpu);
        let (wide, narrow) = (config.query_width(), config.key_width());
        let Scratch { dx, dh, d_attended, dq, dk, dv, d_raw, u, packed_x, packed_z, .. } = scratch;
        let z = &tape.z;
        packed_x.fill(&tape.attended, rows, wide, wide);
        let d_attended = sized(d_attended, rows * wide);
        let out = Some((&mut *d_attended, Into::Set));
        self.linear_backward(i, Linear::O, rows, dx, packed_x, z, out, (u, packed_z), gradient);
        attend_backward(
            cpu,
            Heads::of(config),
            rows,
            Inputs { q: &tape.q, k: &tape.k, v: &tape.v },
            (&tape.attended, &tape.tops, &tape.sums),
            d_attended,
            Gradients { dq, dk, dv },
            &mut scratch.attention,
        );
        let angles = self.base.rope.positions(0, rows);
        rotate(cpu, dq, wide, config.head, angles, -1.0);
        rotate(cpu, dk, narrow, config.head, angles, -1.0);
        // Nothing below the first layer is trained: its input needs no gradient.
        let needed = i > 0;
        let dh = sized(dh, rows * config.hidden);
        packed_x.fill(&tape.attention_in, rows, config.hidden, config.hidden);

        let raw = zeroed(d_raw, rows * wide);
        rms_norm_backward(cpu, dq, &tape.q_raw, &layer.query_norm, &tape.q_factors, raw);
        let out = needed.then_some((&mut *dh, Into::Set));
        self.linear_backward(i, Linear::Q, rows, raw, packed_x, z, out, (u, packed_z), gradient);

        let raw = zeroed(d_raw, rows * narrow);
        rms_norm_backward(cpu, dk, &tape.k_raw, &layer.key_norm, &tape.k_factors, raw);
        let out = needed.then_some((&mut *dh, Into::Add));
        self.linear_backward(i, Linear::K, rows, raw, packed_x, z, out, (u, packed_z), gradient);

        let out = needed.then_some((&mut *dh, Into::Add));
        self.linear_backward(i, Linear::V, rows, dv, packed_x, z, out, (u, packed_z), gradient);
        if needed {
            rms_norm_backward(cpu, dh, &tape.x, &layer.attention_norm, &tape.x_factors, dx);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a product with everything around it")]
    fn linear_backward(
        &self,
        i: usize,
        which: Linear,
        rows: usize,
        dy: &[f32],
        x: &Packed,
        z: &[Vec<f32>; 7],
        dx: Option<(&mut [f32], Into)>,
        scratch: (&mut Vec<f32>, &mut Packed),
        gradient: &mut [f32],
    ) {
        let trained = self.adapter.and_then(|adapter| {
            let (number, packed) = adapter.slot(i, which)?;
            let slot = &adapter.layout.slots[number];
            let factor = adapter.layout.scale();
            Some(Trained { packed, slot, factor, z: &z[which as usize] })
        });
        let frozen = self.base.layers[i].linear(which);
        apply_backward(self.cpu, frozen, trained.as_ref(), rows, dy, x, dx, scratch, gradient);
    }
}
