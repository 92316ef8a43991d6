//! Loss functions by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::InvalidInput;

/// A loss function of the protocol. [`available`](LossFn::available) says which this build runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossFn {
    /// The weighted sum of negative log-probabilities of the targets.
    CrossEntropy,
    /// Policy gradient with importance weights.
    ImportanceSampling,
    /// Clipped policy gradient.
    Ppo,
    /// Clipped importance weights without a gradient through them.
    Cispo,
    /// Direct reward optimization.
    Dro,
    /// Sequence-level clipped policy gradient.
    Gspo,
    /// The hosted service's own stabilised REINFORCE.
    StableReinforce,
    /// A traced loss that the client uploaded.
    Custom,
}

impl LossFn {
    /// Every loss of the protocol.
    pub const ALL: [LossFn; 8] = [
        LossFn::CrossEntropy,
        LossFn::ImportanceSampling,
        LossFn::Ppo,
        LossFn::Cispo,
        LossFn::Dro,
        LossFn::Gspo,
        LossFn::StableReinforce,
        LossFn::Custom,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross_entropy",
            Self::ImportanceSampling => "importance_sampling",
            Self::Ppo => "ppo",
            Self::Cispo => "cispo",
            Self::Dro => "dro",
            Self::Gspo => "gspo",
            Self::StableReinforce => "stable_reinforce",
            Self::Custom => "custom",
        }
    }

    /// Whether this build can run it.
    pub const fn available(self) -> bool {
        matches!(self, Self::CrossEntropy)
    }

    /// The names of the available losses, for hints.
    pub(crate) fn available_names() -> String {
        let names: Vec<_> =
            Self::ALL.into_iter().filter(|l| l.available()).map(Self::as_str).collect();
        names.join(", ")
    }
}

impl FromStr for LossFn {
    type Err = InvalidInput;

    fn from_str(name: &str) -> Result<Self, InvalidInput> {
        Self::ALL
            .into_iter()
            .find(|loss| loss.as_str() == name)
            .ok_or_else(|| InvalidInput::UnknownLoss { name: name.chars().take(64).collect() })
    }
}

impl fmt::Display for LossFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The value of one setting of a loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LossConfigValue {
    /// A number.
    Number(f64),
    /// Text.
    Text(String),
}
