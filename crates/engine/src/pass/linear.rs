//! A frozen linear layer with an optional adapter.

use super::tape::sized;
use crate::adapter::{PackedSlot, Slot};
use crate::kernel::{Cpu, Into, Packed, matmul, matmul_transposed, scale};
use crate::model::Frozen;

/// `y = x·Wᵀ + z·Bᵀ` for `rows` rows, with `z = factor·x·Aᵀ` left in `z`.
pub(crate) fn apply(
    cpu: Cpu,
    frozen: &Frozen,
    adapter: Option<(&PackedSlot, f32)>,
    rows: usize,
    x: &[f32],
    y: &mut [f32],
    z: &mut Vec<f32>,
) {
    let (inputs, outputs) = (frozen.inputs(), frozen.outputs());
    let shape = (rows, inputs, outputs);
    matmul(cpu, shape, x, inputs, frozen.forward(), y, outputs, Into::Set);
    if let Some((slot, factor)) = adapter {
        let rank = slot.b_transposed.k();
        let z = sized(z, rows * rank);
        let down = (rows, inputs, rank);
        matmul(cpu, down, x, inputs, &slot.a_transposed, z, rank, Into::Set);
        scale(cpu, z, factor);
        let up = (rows, rank, outputs);
        matmul(cpu, up, z, rank, &slot.b_transposed, y, outputs, Into::Add);
    }
}

/// The adapter of a linear layer on the way back.
#[derive(Debug)]
pub(super) struct Trained<'a> {
    /// Its matrices.
    pub(super) packed: &'a PackedSlot,
    /// Where its gradients go.
    pub(super) slot: &'a Slot,
    /// `α/r`.
    pub(super) factor: f32,
    /// `z` of the forward pass.
    pub(super) z: &'a [f32],
}

/// The gradients of [`apply`]: those of the adapter are added to `gradient`, that of the input is
/// written or added to `dx` if anyone needs it. `x` is packed by rows.
#[expect(clippy::too_many_arguments, reason = "a product with everything around it")]
pub(super) fn apply_backward(
    cpu: Cpu,
    frozen: &Frozen,
    trained: Option<&Trained<'_>>,
    rows: usize,
    dy: &[f32],
    x: &Packed,
    dx: Option<(&mut [f32], Into)>,
    (u, packed_z): (&mut Vec<f32>, &mut Packed),
    gradient: &mut [f32],
) {
    let (inputs, outputs) = (frozen.inputs(), frozen.outputs());
    if let Some(t) = trained {
        let rank = t.packed.b.n();
        let u = sized(u, rows * rank);
        matmul(cpu, (rows, outputs, rank), dy, outputs, &t.packed.b, u, rank, Into::Set);
        scale(cpu, u, t.factor);
        let da = &mut gradient[t.slot.a.clone()];
        matmul_transposed(cpu, (rank, rows, inputs), u, rank, x, da, inputs, Into::Add);
        packed_z.fill(t.z, rows, rank, rank);
        let db = &mut gradient[t.slot.b.clone()];
        matmul_transposed(cpu, (outputs, rows, rank), dy, outputs, packed_z, db, rank, Into::Add);
    }
    if let Some((dx, into)) = dx {
        matmul(cpu, (rows, outputs, inputs), dy, outputs, frozen.backward(), dx, inputs, into);
        if let Some(t) = trained {
            let rank = t.packed.b.n();
            let u = &u[..rows * rank];
            matmul(cpu, (rows, rank, inputs), u, rank, &t.packed.a, dx, inputs, Into::Add);
        }
    }
}
