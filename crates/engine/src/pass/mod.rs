//! One datum forward and backward.
//!
//! **What for.** The loss of a sequence and the gradient of every adapter number, over frozen base
//! weights. One datum is one job of one thread; jobs are added up in datum order by the caller, so
//! results do not depend on threads or on what else is in the request.
//!
//! **What it owns.** A [`Workspace`]: the activations that the backward pass needs and scratch
//! space, reused from datum to datum. Attention keeps no probabilities: it goes over blocks of
//! [`ROWS`] queries and computes them again on the way back, so memory grows with the length, not
//! with its square. The logits exist for [`ROWS`] tokens at a time.
//!
//! **How it fails.** It does not: inputs are checked before. NaN comes out where numbers overflow;
//! the caller looks at the sums.
//!
//! **How it is tested.** Finite differences of every kind of tensor, golden vectors made by an
//! independent implementation, bit equality with sampling.

mod attention;
mod backward;
mod forward;
mod head;
mod linear;
mod tape;
#[cfg(test)]
mod tests;

pub(crate) use attention::Heads;
pub(crate) use head::{Example, HeadOutput};
pub(crate) use linear::apply;
pub(crate) use tape::Workspace;

use crate::adapter::PackedAdapter;
use crate::kernel::Cpu;
use crate::model::BaseModel;

/// Rows that attention and the output projection work on at once. A constant, because the order
/// of gradient sums follows it.
pub(crate) const ROWS: usize = 64;

/// What a pass reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass<'a> {
    pub(crate) cpu: Cpu,
    pub(crate) base: &'a BaseModel,
    pub(crate) adapter: Option<&'a PackedAdapter>,
}

impl Pass<'_> {
    /// Log-probability of each target, and no gradient.
    pub(crate) fn forward_only(&self, example: &Example<'_>, work: &mut Workspace) -> Vec<f32> {
        self.forward(example.tokens, work);
        self.head(example, work, None).logprobs
    }

    /// Log-probability of each target; adds the gradient of the weighted loss to `gradient`.
    pub(crate) fn forward_backward(
        &self,
        example: &Example<'_>,
        work: &mut Workspace,
        gradient: &mut [f32],
    ) -> Vec<f32> {
        self.forward(example.tokens, work);
        let HeadOutput { logprobs } = self.head(example, work, Some(gradient));
        self.backward(example.tokens.len(), work, gradient);
        logprobs
    }
}
