//! Splitting a batch into requests that a service takes.

use snakehouse_tinker_api::{Datum, TensorData};

/// How large one `forward_backward` request may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkLimits {
    /// Datums.
    pub(crate) datums: usize,
    /// Estimated bytes.
    pub(crate) bytes: usize,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self { datums: 1024, bytes: 5_000_000 }
    }
}

/// Packs datums in order. A chunk ends before the datum that would exceed a limit; a single
/// datum that is too large is a chunk of its own. No chunk is empty.
pub(crate) fn split(data: Vec<Datum>, limits: ChunkLimits) -> Vec<Vec<Datum>> {
    let mut chunks: Vec<Vec<Datum>> = Vec::new();
    let mut bytes = 0usize;
    for datum in data {
        let size = estimate(&datum);
        match chunks.last_mut() {
            Some(chunk)
                if chunk.len() < limits.datums && bytes.saturating_add(size) <= limits.bytes =>
            {
                chunk.push(datum);
                bytes += size;
            }
            _ => {
                chunks.push(vec![datum]);
                bytes = size;
            }
        }
    }
    chunks
}

/// The protocol's estimate: token and array bytes, without any framing.
fn estimate(datum: &Datum) -> usize {
    let arrays = datum.loss_inputs.values().map(|tensor| match tensor.data() {
        TensorData::Int64(values) => 8 * values.len(),
        TensorData::Float32(values) => 4 * values.len(),
    });
    4 * datum.tokens.len() + arrays.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn datum(tokens: usize) -> Datum {
        Datum { tokens: vec![1; tokens], ..Datum::default() }
    }

    #[test]
    fn the_estimate_is_that_of_the_golden_vector() {
        let mut golden = datum(2);
        golden
            .loss_inputs
            .insert("target_tokens".to_owned(), snakehouse_tinker_api::Tensor::int64(vec![2, 3]));
        assert_eq!(estimate(&golden), 24);
    }

    #[test]
    fn a_count_of_2500_makes_three_chunks() {
        let chunks = split(vec![datum(1); 2500], ChunkLimits::default());
        assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), [1024, 1024, 452]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_every_limit_holds(
            sizes in prop::collection::vec(0usize..40, 0..60),
            datums in 1usize..8,
            bytes in 1usize..200,
        ) {
            let data: Vec<_> = sizes.iter().map(|&size| datum(size)).collect();
            let chunks = split(data.clone(), ChunkLimits { datums, bytes });
            prop_assert_eq!(chunks.concat(), data);
            for chunk in &chunks {
                let size: usize = chunk.iter().map(estimate).sum();
                prop_assert!(!chunk.is_empty() && chunk.len() <= datums);
                prop_assert!(size <= bytes || chunk.len() == 1);
            }
            // Greedy: the head of each chunk did not fit into the one before.
            for pair in chunks.windows(2) {
                let size: usize = pair[0].iter().map(estimate).sum();
                prop_assert!(pair[0].len() == datums || size + estimate(&pair[1][0]) > bytes);
            }
        }
    }
}
