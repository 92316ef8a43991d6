//! Optimizer steps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::InvalidInput;

/// Body of `optim_step`; answered by a promise of [`OptimStepDone`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "optim_step")]
pub struct OptimStep {
    /// The model.
    pub model_id: String,
    /// The operation's place in the model's order, from 1.
    pub seq_id: u64,
    /// The step's numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adam_params: Option<AdamParams>,
    /// The numbers of another family, instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_params: Option<serde_json::Value>,
}

impl OptimStep {
    /// The numbers of this step, checked.
    ///
    /// # Errors
    /// [`InvalidInput`] for another optimizer or a number outside its range.
    pub fn adam(&self) -> Result<AdamParams, InvalidInput> {
        match (&self.adam_params, &self.optimizer_params) {
            (Some(adam), None) => {
                adam.check()?;
                Ok(*adam)
            }
            (None, Some(_)) => {
                Err(InvalidInput::UnsupportedOption { name: "an optimizer other than adamw" })
            }
            _ => Err(InvalidInput::InconsistentFields {
                reason: "exactly one of adam_params and optimizer_params must be given",
            }),
        }
    }
}

/// AdamW with decoupled weight decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdamParams {
    /// Step size, ≥ 0.
    pub learning_rate: f64,
    /// Decay of the first moment, in `[0, 1)`.
    pub beta1: f64,
    /// Decay of the second moment, in `[0, 1)`.
    pub beta2: f64,
    /// Added to the root of the second moment, > 0.
    pub eps: f64,
    /// Decoupled decay, ≥ 0.
    pub weight_decay: f64,
    /// Largest global gradient norm, ≥ 0; 0 turns clipping off.
    pub grad_clip_norm: f64,
}

impl Default for AdamParams {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-12,
            weight_decay: 0.0,
            grad_clip_norm: 0.0,
        }
    }
}

impl AdamParams {
    /// Checks that every number is finite and in its range.
    ///
    /// # Errors
    /// [`InvalidInput::OutOfRange`] for the first that is not.
    pub fn check(&self) -> Result<(), InvalidInput> {
        type Rule = (&'static str, fn(f64) -> bool);
        const NOT_NEGATIVE: Rule = ("finite and at least 0", |v| v >= 0.0 && v.is_finite());
        const DECAY: Rule = ("at least 0 and less than 1", |v| (0.0..1.0).contains(&v));
        const POSITIVE: Rule = ("finite and more than 0", |v| v > 0.0 && v.is_finite());
        for (name, value, (rule, holds)) in [
            ("learning_rate", self.learning_rate, NOT_NEGATIVE),
            ("beta1", self.beta1, DECAY),
            ("beta2", self.beta2, DECAY),
            ("eps", self.eps, POSITIVE),
            ("weight_decay", self.weight_decay, NOT_NEGATIVE),
            ("grad_clip_norm", self.grad_clip_norm, NOT_NEGATIVE),
        ] {
            if !holds(value) {
                return Err(InvalidInput::OutOfRange { name, rule, value: value.to_string() });
            }
        }
        Ok(())
    }
}

/// Result of `optim_step`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OptimStepDone {
    /// Numbers about the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<BTreeMap<String, f64>>,
}
