//! One result out of the results of several chunks.

use std::collections::BTreeMap;

use snakehouse_tinker_api::ForwardBackwardOutput;

/// Joins the results of consecutive chunks: outputs in order, metrics by the rule that stands after
/// the `:` of their name. The names are those of the first chunk; one that is missing from any
/// chunk, or has a rule nobody knows, is left out.
pub(crate) fn merge(chunks: Vec<ForwardBackwardOutput>) -> ForwardBackwardOutput {
    if chunks.len() == 1 {
        return chunks.into_iter().next().unwrap_or_default();
    }
    let mut metrics = BTreeMap::new();
    for name in chunks.first().into_iter().flat_map(|first| first.metrics.keys()) {
        let found = chunks.iter().map(|chunk| {
            let weight = chunk.outputs.len();
            chunk.metrics.get(name).map(|&value| Part { value, weight })
        });
        if let Some(parts) = found.collect::<Option<Vec<_>>>() {
            reduce(name, &parts, &mut metrics);
        }
    }
    let output_type = chunks.first().map(|first| first.output_type.clone()).unwrap_or_default();
    let outputs = chunks.into_iter().flat_map(|chunk| chunk.outputs).collect();
    ForwardBackwardOutput { output_type, outputs, metrics }
}

struct Part {
    value: f64,
    weight: usize,
}

fn reduce(name: &str, parts: &[Part], into: &mut BTreeMap<String, f64>) {
    let values = || parts.iter().map(|part| part.value);
    let most = || values().fold(f64::NEG_INFINITY, f64::max);
    let reduced = match name.rsplit_once(':').map(|(_, rule)| rule) {
        Some("sum") => values().sum(),
        Some("min") => values().fold(f64::INFINITY, f64::min),
        Some("max") => most(),
        Some("mean") => mean(parts),
        Some("slack") => most() - mean(parts),
        Some("hash2") => hash(values()),
        Some("unique") => {
            for (index, value) in values().enumerate() {
                let name = match index {
                    0 => name.to_owned(),
                    more => format!("{name}_{more}"),
                };
                into.insert(name, value);
            }
            return;
        }
        _ => return,
    };
    into.insert(name.to_owned(), reduced);
}

#[expect(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^53 outputs")]
fn mean(parts: &[Part]) -> f64 {
    let total: usize = parts.iter().map(|part| part.weight).sum();
    if total == 0 {
        return 0.0;
    }
    parts.iter().map(|part| part.value * part.weight as f64).sum::<f64>() / total as f64
}

/// The protocol's order-insensitive hash: a wrapping sum of the values as 64-bit integers.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the hash travels as a double; its low bits are lost there, not here"
)]
fn hash(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value as u64).fold(0u64, u64::wrapping_add) as f64
}

#[cfg(test)]
mod tests {
    use snakehouse_tinker_api::{LossOutput, Tensor};

    use super::*;

    fn chunk(outputs: u8, metrics: &[(&str, f64)]) -> ForwardBackwardOutput {
        let output =
            |n| LossOutput::from([("logprobs".to_owned(), Tensor::float32(vec![f32::from(n)]))]);
        ForwardBackwardOutput {
            output_type: "ArrayRecord".to_owned(),
            outputs: (0..outputs).map(output).collect(),
            metrics: metrics.iter().map(|&(name, value)| (name.to_owned(), value)).collect(),
        }
    }

    #[test]
    fn every_rule_of_the_protocol() {
        let first = chunk(
            1,
            &[
                ("a:sum", 1.0),
                ("a:min", 1.0),
                ("a:max", 1.0),
                ("a:mean", 1.0),
                ("a:slack", 1.0),
                ("a:hash2", 1.0),
                ("a:unique", 1.0),
                ("a:other", 1.0),
                ("only:sum", 1.0),
            ],
        );
        let second = chunk(
            3,
            &[
                ("a:sum", 5.0),
                ("a:min", 5.0),
                ("a:max", 5.0),
                ("a:mean", 5.0),
                ("a:slack", 5.0),
                ("a:hash2", 5.0),
                ("a:unique", 5.0),
                ("a:other", 5.0),
                ("new:sum", 5.0),
            ],
        );
        let merged = merge(vec![first, second]);
        let expected = BTreeMap::from(
            [
                ("a:sum", 6.0),
                ("a:min", 1.0),
                ("a:max", 5.0),
                ("a:mean", 4.0),
                ("a:slack", 1.0),
                ("a:hash2", 6.0),
                ("a:unique", 1.0),
                ("a:unique_1", 5.0),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        assert_eq!(merged.metrics, expected);
        let firsts: Vec<_> =
            merged.outputs.iter().map(|o| o["logprobs"].as_float32().unwrap()[0]).collect();
        assert_eq!(firsts, [0.0, 0.0, 1.0, 2.0]);
    }

    #[test]
    fn one_chunk_is_left_alone() {
        let only = chunk(2, &[("strange", 1.0)]);
        assert_eq!(merge(vec![only.clone()]), only);
    }
}
