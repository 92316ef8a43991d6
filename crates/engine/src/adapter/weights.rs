//! The numbers of an adapter.

use std::sync::Arc;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::Layout;

/// An adapter's numbers, in the order of its layout.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    pub(crate) layout: Arc<Layout>,
    pub(crate) numbers: Vec<f32>,
}

impl Adapter {
    /// The start of training: `A` drawn from the seed of the layout, `B` zero.
    ///
    /// Each slot has its own stream of the counter-based generator, so its numbers do not depend
    /// on which other slots there are before it in the same layout order.
    pub(crate) fn fresh(layout: Arc<Layout>) -> Self {
        let mut numbers = vec![0.0; layout.len()];
        for (stream, slot) in (0u64..).zip(&layout.slots) {
            let mut rng = ChaCha12Rng::seed_from_u64(layout.spec.seed);
            rng.set_stream(stream);
            #[expect(clippy::cast_precision_loss, reason = "widths are small")]
            let bound = 1.0 / (slot.inputs as f32).sqrt();
            for x in &mut numbers[slot.a.clone()] {
                // 24 bits: every value is exact in single precision.
                #[expect(clippy::cast_precision_loss, reason = "24 bits fit")]
                let unit = (rng.next_u32() >> 8) as f32 / 8_388_608.0 - 1.0;
                *x = unit * bound;
            }
        }
        Self { layout, numbers }
    }
}
