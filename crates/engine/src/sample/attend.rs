//! Attention of new queries over cached keys and values.
//!
//! The same products in the same order as the training pass: scores per key, one softmax over the
//! row, one chain over the values from the first key to the last, whatever segments they lie in.

use super::cache::Segment;
use crate::kernel::{Cpu, Into, matmul, scale, softmax_row};
use crate::pass::Heads;

/// Attends with `rows` queries, the first of which sees `first + 1` keys. The last segment may
/// hold keys that are written and not yet counted: `seen` says how many there are in all.
#[expect(clippy::too_many_arguments, reason = "inlined into its two callers")]
pub(super) fn attend_cached<'a>(
    cpu: Cpu,
    heads: Heads,
    layer: usize,
    segments: impl Iterator<Item = &'a Segment> + Clone,
    (first, rows): (usize, usize),
    q: &[f32],
    out: &mut [f32],
    scores: &mut Vec<f32>,
) {
    let (size, wide, seen) = (heads.size, heads.queries * heads.size, first + rows);
    scores.resize(rows * seen, 0.0);
    for head in 0..heads.queries {
        let group = head / heads.group();
        let q = &q[head * size..];
        let runs = || {
            let mut start = 0;
            segments.clone().map(move |segment| {
                let run = (start, segment.len().min(seen - start));
                start += run.1;
                (run, segment)
            })
        };
        // The rows being written are not counted yet: they belong to the last segment.
        let last = runs().count().saturating_sub(1);
        let counted = move |i: usize, (start, len): (usize, usize)| {
            (start, if i == last { seen - start } else { len })
        };
        for (i, (run, segment)) in runs().enumerate() {
            let (start, len) = counted(i, run);
            let keys = &segment.head(layer, group).keys;
            matmul(cpu, (rows, size, len), q, wide, keys, &mut scores[start..], seen, Into::Set);
        }
        let mut sums = [0.0f32; crate::pass::ROWS];
        for (i, row) in scores.chunks_exact_mut(seen).enumerate() {
            sums[i] = softmax_row(cpu, row, first + i + 1, heads.scale()).1;
        }
        let out = &mut out[head * size..];
        for (i, (run, segment)) in runs().enumerate() {
            let (start, len) = counted(i, run);
            let values = &segment.head(layer, group).values;
            let into = if i == 0 { Into::Set } else { Into::Add };
            matmul(cpu, (rows, len, size), &scores[start..], seen, values, out, wide, into);
        }
        for (row, sum) in out.chunks_mut(wide).zip(sums).take(rows) {
            scale(cpu, &mut row[..size], 1.0 / sum);
        }
    }
}
