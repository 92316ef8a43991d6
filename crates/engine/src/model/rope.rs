//! Tables of the rotary angles.

use crate::kernel::{cosine, exponential, logarithm, sine};

use super::ModelConfig;

/// Cosine and sine of every position and frequency.
#[derive(Debug)]
pub(crate) struct RopeTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// The angles of `config`. Frequencies and angles are rounded to single precision, as the
    /// reference implementations do, because models are trained with those.
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let half = config.head / 2;
        let mut cos = Vec::with_capacity(config.context * half);
        let mut sin = Vec::with_capacity(config.context * half);
        let log = logarithm(config.rope_theta);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "small whole numbers; rounding to single precision is the point"
        )]
        for position in 0..config.context {
            for i in 0..half {
                let exponent = (2 * i) as f64 / config.head as f64;
                let frequency = exponential(-exponent * log) as f32;
                let angle = f64::from(frequency * position as f32);
                cos.push(cosine(angle) as f32);
                sin.push(sine(angle) as f32);
            }
        }
        Self { half, cos, sin }
    }

    /// The angles of `rows` positions from `first` on.
    pub(crate) fn positions(&self, first: usize, rows: usize) -> (&[f32], &[f32]) {
        let range = first * self.half..(first + rows) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }

    /// The angles of one position, `rows` times.
    pub(crate) fn repeated(&self, position: usize, rows: usize) -> (Vec<f32>, Vec<f32>) {
        let (cos, sin) = self.positions(position, 1);
        (cos.repeat(rows), sin.repeat(rows))
    }
}
