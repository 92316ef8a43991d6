//! AdamW with decoupled weight decay.

use snakehouse_engine_api::Adam;

use crate::EngineError;
use crate::kernel::{Cpu, adamw};

/// The optimizer's numbers, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    adam: Adam,
    /// What the gradient is multiplied with to keep its norm in bounds.
    clip: f64,
    step: u64,
}

impl Step {
    /// Step number `step` (from 1) with a gradient of this norm.
    ///
    /// # Errors
    /// [`EngineError::BadParameter`] or [`EngineError::NotFinite`] if a number is out of range.
    pub(super) fn new(adam: Adam, step: u64, norm: f64) -> Result<Self, EngineError> {
        let numbers = [
            ("learning_rate", adam.learning_rate, 0.0..f64::MAX),
            ("beta1", adam.beta1, 0.0..1.0),
            ("beta2", adam.beta2, 0.0..1.0),
            ("eps", adam.eps, f64::MIN_POSITIVE..f64::MAX),
            ("weight_decay", adam.weight_decay, 0.0..f64::MAX),
            ("grad_clip_norm", adam.grad_clip_norm, 0.0..f64::MAX),
        ];
        for (name, value, range) in numbers {
            if !value.is_finite() {
                return Err(EngineError::NotFinite(format!("{name} = {value}")));
            }
            if !range.contains(&value) {
                let reason = format!("{name} = {value} is out of range");
                return Err(EngineError::BadParameter(reason));
            }
        }
        let clips = adam.grad_clip_norm > 0.0 && norm > adam.grad_clip_norm;
        let clip = if clips { adam.grad_clip_norm / norm } else { 1.0 };
        Ok(Self { adam, clip, step })
    }

    /// Moves the numbers and both moments.
    ///
    /// `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`,
    /// `x ← x·(1 − lr·decay) − lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)`.
    #[expect(clippy::cast_possible_truncation, reason = "state is in single precision")]
    pub(super) fn apply(
        &self,
        cpu: Cpu,
        gradient: &[f32],
        numbers: &mut [f32],
        first: &mut [f32],
        second: &mut [f32],
    ) {
        let Adam { learning_rate, beta1, beta2, eps, weight_decay, .. } = self.adam;
        let keep = (1.0 - learning_rate * weight_decay) as f32;
        let rate = (learning_rate / (1.0 - power(beta1, self.step))) as f32;
        let root = (1.0 / (1.0 - power(beta2, self.step)).sqrt()) as f32;
        let law = [
            beta1 as f32,
            (1.0 - beta1) as f32,
            beta2 as f32,
            (1.0 - beta2) as f32,
            rate,
            root,
            eps as f32,
            keep,
            self.clip as f32,
        ];
        adamw(cpu, numbers, gradient, (first, second), law);
    }
}

/// `x^n` by squaring, so that it does not depend on a math library.
fn power(x: f64, mut n: u64) -> f64 {
    let (mut result, mut square) = (1.0, x);
    while n > 0 {
        if n & 1 == 1 {
            result *= square;
        }
        square *= square;
        n >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADAM: Adam = Adam {
        learning_rate: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-12,
        weight_decay: 0.01,
        grad_clip_norm: 0.0,
    };

    #[test]
    fn follows_the_definition() {
        let (mut x, mut m, mut v) = ([1.0f32, -2.0, 0.5], [0.0f32; 3], [0.0f32; 3]);
        let (mut xs, mut ms, mut vs) = ([1.0f64, -2.0, 0.5], [0.0f64; 3], [0.0f64; 3]);
        for step in 1..=20u32 {
            let g = [0.3, -0.1 * f64::from(step), 0.0];
            let single = [0.3f32, -0.1 * step as f32, 0.0];
            Step::new(ADAM, u64::from(step), 1.0).unwrap().apply(
                Cpu::detect(),
                &single,
                &mut x,
                &mut m,
                &mut v,
            );
            for i in 0..3 {
                ms[i] = 0.9 * ms[i] + 0.1 * g[i];
                vs[i] = 0.95 * vs[i] + 0.05 * g[i] * g[i];
                let m_hat = ms[i] / (1.0 - 0.9f64.powi(step.cast_signed()));
                let v_hat = vs[i] / (1.0 - 0.95f64.powi(step.cast_signed()));
                xs[i] -= 0.1 * (m_hat / (v_hat.sqrt() + 1e-12) + 0.01 * xs[i]);
            }
        }
        for i in 0..3 {
            assert!((f64::from(x[i]) - xs[i]).abs() < 1e-5, "{x:?} {xs:?}");
        }
    }

    #[test]
    fn clipping_bounds_the_norm() {
        let adam = Adam { grad_clip_norm: 1.0, ..ADAM };
        assert_eq!(Step::new(adam, 1, 4.0).unwrap().clip, 0.25);
        assert_eq!(Step::new(adam, 1, 0.5).unwrap().clip, 1.0);
        assert_eq!(Step::new(ADAM, 1, 4.0).unwrap().clip, 1.0);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for adam in [
            Adam { learning_rate: f64::NAN, ..ADAM },
            Adam { learning_rate: -1.0, ..ADAM },
            Adam { beta1: 1.0, ..ADAM },
            Adam { beta2: -0.1, ..ADAM },
            Adam { eps: 0.0, ..ADAM },
            Adam { weight_decay: f64::INFINITY, ..ADAM },
            Adam { grad_clip_norm: -1.0, ..ADAM },
        ] {
            assert!(Step::new(adam, 1, 1.0).is_err(), "{adam:?}");
        }
    }
}
