//! How operations end.

use serde::{Deserialize, Serialize};
use snakehouse_base::id::{ModelId, SamplerId};
use snakehouse_engine_api::{ForwardBackwardOutput, OptimizeOutput, Sampled};

/// What is known of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It has not ended yet.
    Pending,
    /// It took place.
    Done(OpResult),
    /// It failed and left nothing behind. Final.
    Failed {
        /// What happened, why, and what to do.
        error: String,
        /// Whose fault it is.
        category: Category,
    },
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// The same request fails again.
    User,
    /// The service or its machine.
    Server,
}

impl Category {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Category::User => "user",
            Category::Server => "server",
        }
    }
}

/// The result of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum OpResult {
    /// Of [`Submit::CreateModel`](super::Submit).
    ModelCreated {
        /// The new model.
        model_id: ModelId,
    },
    /// Of [`Submit::ForwardBackward`](super::Submit).
    ForwardBackward(ForwardBackwardOutput),
    /// Of [`Submit::OptimStep`](super::Submit).
    Optimized(OptimizeOutput),
    /// Of [`Submit::SaveWeights`](super::Submit) and of a named
    /// [`Submit::SaveForSampler`](super::Submit).
    Saved {
        /// `tinker://<model>/<kind>/<name>`.
        path: String,
    },
    /// Of an unnamed [`Submit::SaveForSampler`](super::Submit).
    SamplerSaved {
        /// The new sampling session.
        sampler: SamplerId,
    },
    /// Of [`Submit::LoadWeights`](super::Submit).
    Loaded {
        /// The model that has the weights now.
        model_id: ModelId,
        /// Where they came from.
        path: String,
    },
    /// Of [`Submit::Sample`](super::Submit).
    Sampled(Sampled),
}
