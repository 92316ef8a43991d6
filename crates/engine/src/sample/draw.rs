//! Choosing a token from logits.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use snakehouse_engine_api::SampleParams;

use crate::EngineError;
use crate::kernel::{Cpu, highest, softmax_row};

/// How to choose.
///
/// Draw `n` of sample `s` comes from block `n` of stream `s` of a counter-based generator keyed
/// with the seed: it does not depend on other samples or on how many draws came before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    seed: u64,
    temperature: f32,
    top_k: usize,
    top_p: f32,
}

impl Draw {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`EngineError::NotFinite`] or [`EngineError::BadParameter`] naming the parameter.
    pub(super) fn new(params: &SampleParams) -> Result<Self, EngineError> {
        let SampleParams { temperature, top_p, .. } = *params;
        for (name, x) in [("temperature", temperature), ("top_p", top_p)] {
            if !x.is_finite() {
                return Err(EngineError::NotFinite(format!("{name} = {x}")));
            }
        }
        if temperature < 0.0 {
            return Err(EngineError::BadParameter(format!(
                "temperature = {temperature} is below 0"
            )));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(EngineError::BadParameter(format!("top_p = {top_p} is not in (0, 1]")));
        }
        Ok(Self { seed: params.seed, temperature, top_k: params.top_k as usize, top_p })
    }

    /// The token of draw `n` of sample `sample`.
    pub(super) fn choose(&self, cpu: Cpu, logits: &[f32], sample: u64, n: u64) -> u32 {
        // A temperature this small is a maximum; dividing by it would overflow.
        let token = if self.temperature < 1e-4 {
            highest(logits)
        } else {
            self.random(cpu, logits, self.unit(sample, n))
        };
        u32::try_from(token).unwrap_or(u32::MAX)
    }

    fn random(&self, cpu: Cpu, logits: &[f32], unit: f64) -> usize {
        let mut p = logits.to_vec();
        softmax_row(cpu, &mut p, logits.len(), 1.0 / self.temperature);
        let keeps_all = self.top_k == 0 && self.top_p >= 1.0;
        let mut order: Vec<usize> = (0..p.len()).collect();
        if !keeps_all {
            // Stable: equals stay in the order of their ids.
            order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
            if self.top_k > 0 {
                order.truncate(self.top_k);
            }
            let mass: f64 = order.iter().map(|&i| f64::from(p[i])).sum();
            let wanted = mass * f64::from(self.top_p);
            let mut sum = 0.0;
            let kept = order.iter().position(|&i| {
                sum += f64::from(p[i]);
                sum >= wanted
            });
            order.truncate(kept.map_or(order.len(), |i| i + 1));
        }
        let mass: f64 = order.iter().map(|&i| f64::from(p[i])).sum();
        let mut left = unit * mass;
        for &i in &order {
            left -= f64::from(p[i]);
            if left < 0.0 {
                return i;
            }
        }
        // Rounding can leave a trace of mass: the last token that has any takes it.
        order.iter().rev().copied().find(|&i| p[i] > 0.0).unwrap_or(0)
    }

    /// A number in `[0, 1)`.
    fn unit(&self, sample: u64, n: u64) -> f64 {
        let mut rng = ChaCha12Rng::seed_from_u64(self.seed);
        rng.set_stream(sample);
        rng.set_word_pos(u128::from(n) * 16);
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
        let bits = (rng.next_u64() >> 11) as f64;
        bits / 9_007_199_254_740_992.0
    }
}

#[cfg(test)]
mod tests {
    use snakehouse_engine_api::Stop;

    use super::*;

    fn params() -> SampleParams {
        SampleParams {
            max_tokens: None,
            seed: 3,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            stop: Stop::Eos,
        }
    }

    fn counts(params: &SampleParams, logits: &[f32]) -> Vec<usize> {
        let draw = Draw::new(params).unwrap();
        let mut counts = vec![0; logits.len()];
        for n in 0..4000 {
            counts[draw.choose(Cpu::detect(), logits, n % 7, n) as usize] += 1;
        }
        counts
    }

    #[test]
    fn frequencies_follow_the_distribution() {
        let logits = [0.0, 2.0f32.ln(), f32::NEG_INFINITY, 5.0f32.ln()];
        let found = counts(&params(), &logits);
        for (found, expected) in found.iter().zip([500.0, 1000.0, 0.0, 2500.0]) {
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let found = *found as f64;
            assert!((found - expected).abs() < 120.0, "{found} {expected}");
        }
    }

    #[test]
    fn a_high_temperature_flattens_and_a_zero_one_takes_the_first_maximum() {
        let logits = [1.0, 3.0, 3.0, 0.0];
        let hot = counts(&SampleParams { temperature: 1000.0, ..params() }, &logits);
        assert!(hot.iter().all(|&c| c > 850), "{hot:?}");
        let cold = counts(&SampleParams { temperature: 0.0, ..params() }, &logits);
        assert_eq!(cold, [0, 4000, 0, 0]);
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [0.4f32.ln(), 0.3f32.ln(), 0.2f32.ln(), 0.1f32.ln()];
        let k = counts(&SampleParams { top_k: 2, ..params() }, &logits);
        assert!(k[0] > 0 && k[1] > 0 && k[2..] == [0, 0], "{k:?}");
        let p = counts(&SampleParams { top_p: 0.75, ..params() }, &logits);
        assert!(p[2] > 0 && p[3] == 0, "{p:?}");
        let least = counts(&SampleParams { top_p: 1e-6, ..params() }, &logits);
        assert_eq!(least, [4000, 0, 0, 0]);
    }

    #[test]
    fn a_draw_depends_on_its_own_numbers_only() {
        let draw = Draw::new(&params()).unwrap();
        let early = draw.unit(2, 5);
        let all: Vec<f64> = (0..10).map(|n| draw.unit(2, n)).collect();
        assert_eq!(early, all[5]);
        assert_ne!(draw.unit(1, 5), early);
        assert!(all.iter().all(|u| (0.0..1.0).contains(u)));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            SampleParams { temperature: -1.0, ..params() },
            SampleParams { temperature: f32::NAN, ..params() },
            SampleParams { top_p: 0.0, ..params() },
            SampleParams { top_p: 1.5, ..params() },
        ] {
            assert!(Draw::new(&bad).is_err(), "{bad:?}");
        }
    }
}
