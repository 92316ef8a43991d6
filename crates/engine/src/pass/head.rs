//! The output projection and the loss, a block of rows at a time.

use super::linear::{Trained, apply, apply_backward};
use super::tape::{Workspace, sized};
use super::{Pass, ROWS};
use crate::kernel::{Into, log_sum_exp};

/// One training example, already checked: equal lengths, ids inside the vocabulary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Example<'a> {
    pub(crate) tokens: &'a [u32],
    pub(crate) targets: &'a [u32],
    pub(crate) weights: &'a [f32],
}

/// What comes out of the head.
#[derive(Debug)]
pub(crate) struct HeadOutput {
    /// `ln p(target)` per token.
    pub(crate) logprobs: Vec<f32>,
}

impl Pass<'_> {
    /// Log-probabilities of the targets. With `gradient`, also adds the gradient of the output
    /// projection's adapter and leaves that of the residual stream's last norm in `scratch.dh`.
    pub(super) fn head(
        &self,
        example: &Example<'_>,
        work: &mut Workspace,
        mut gradient: Option<&mut [f32]>,
    ) -> HeadOutput {
        let (cpu, head, hidden) = (self.cpu, &self.base.head, self.base.config.hidden);
        let vocab = head.outputs();
        let adapter = self.adapter.and_then(|a| Some((a.head()?, a)));
        let packed = adapter.map(|((_, slot), a)| (slot, a.layout.scale()));
        let tokens = example.targets.len();
        let mut logprobs = Vec::with_capacity(tokens);
        let Workspace { final_in, scratch, .. } = work;
        if gradient.is_some() {
            sized(&mut scratch.dh, tokens * hidden);
        }
        for first in (0..tokens).step_by(ROWS) {
            let rows = ROWS.min(tokens - first);
            let x = &final_in[first * hidden..][..rows * hidden];
            let logits = sized(&mut scratch.head.logits, rows * vocab);
            apply(cpu, head, packed, rows, x, logits, &mut scratch.head.z);
            let (targets, weights) =
                (&example.targets[first..][..rows], &example.weights[first..][..rows]);
            for ((row, &target), &weight) in
                logits.chunks_exact_mut(vocab).zip(targets).zip(weights)
            {
                let chosen = row[target as usize];
                let (top, sum, log) = log_sum_exp(cpu, row);
                logprobs.push(chosen - top - log);
                if gradient.is_some() {
                    crate::kernel::scale(cpu, row, weight / sum);
                    row[target as usize] -= weight;
                }
            }
            let Some(gradient) = gradient.as_deref_mut() else { continue };
            let dh = &mut scratch.dh[first * hidden..][..rows * hidden];
            if weights.iter().all(|&w| w == 0.0) {
                // Nothing to learn here: every term is a zero.
                dh.fill(0.0);
                continue;
            }
            let trained = adapter.map(|((number, slot), a)| Trained {
                packed: slot,
                slot: &a.layout.slots[number],
                factor: a.layout.scale(),
                z: &scratch.head.z,
            });
            scratch.packed_x.fill(x, rows, hidden, hidden);
            apply_backward(
                cpu,
                head,
                trained.as_ref(),
                rows,
                logits,
                &scratch.packed_x,
                Some((dh, Into::Set)),
                (&mut scratch.u, &mut scratch.packed_z),
                gradient,
            );
        }
        HeadOutput { logprobs }
    }
}
