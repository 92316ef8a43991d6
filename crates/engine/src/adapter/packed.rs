//! An adapter, laid out for the products it takes part in.

use std::sync::Arc;

use super::{Adapter, Layout};
use crate::kernel::Packed;
use crate::model::Linear;

/// The matrices of one slot.
#[derive(Debug)]
pub(crate) struct PackedSlot {
    /// `Aᵀ`, for `x·Aᵀ`.
    pub(crate) a_transposed: Packed,
    /// `Bᵀ`, for `z·Bᵀ`.
    pub(crate) b_transposed: Packed,
    /// `A`, for the gradient of the input; only for training.
    pub(crate) a: Packed,
    /// `B`, for the gradient of `z`; only for training.
    pub(crate) b: Packed,
}

/// A read-only adapter that forward and backward passes multiply with.
#[derive(Debug)]
pub(crate) struct PackedAdapter {
    pub(crate) layout: Arc<Layout>,
    slots: Vec<PackedSlot>,
}

impl PackedAdapter {
    /// Packs the current numbers; `backward` adds what only training needs.
    pub(crate) fn new(adapter: &Adapter, backward: bool) -> Self {
        let rank = adapter.layout.rank();
        let slots = adapter.layout.slots.iter().map(|slot| {
            let (a, b) = (&adapter.numbers[slot.a.clone()], &adapter.numbers[slot.b.clone()]);
            PackedSlot {
                a_transposed: Packed::of_transposed(a, rank, slot.inputs),
                b_transposed: Packed::of_transposed(b, slot.outputs, rank),
                a: if backward { Packed::of(a, rank, slot.inputs) } else { Packed::default() },
                b: if backward { Packed::of(b, slot.outputs, rank) } else { Packed::default() },
            }
        });
        Self { layout: adapter.layout.clone(), slots: slots.collect() }
    }

    /// The slot of a linear layer, with its number.
    pub(crate) fn slot(&self, layer: usize, linear: Linear) -> Option<(usize, &PackedSlot)> {
        self.layout.slot(layer, linear).map(|i| (i, &self.slots[i]))
    }

    /// The slot of the output projection, with its number.
    pub(crate) fn head(&self) -> Option<(usize, &PackedSlot)> {
        self.layout.head().map(|i| (i, &self.slots[i]))
    }
}
