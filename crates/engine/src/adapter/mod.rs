//! LoRA: low-rank matrices added to frozen linear layers.
//!
//! `y = x·Wᵀ + (α/r)·(x·Aᵀ)·Bᵀ` with `A` r × inputs and `B` outputs × r. `A` starts uniform in
//! ±1/√inputs, `B` at zero, so a fresh adapter changes nothing. All numbers of an adapter lie in
//! one vector, slot after slot, `A` before `B`: gradients, moments and digests share that layout.

mod layout;
mod packed;
mod weights;

pub(crate) use layout::{ALPHA, Layout, Slot};
pub(crate) use packed::{PackedAdapter, PackedSlot};
pub(crate) use weights::Adapter;
