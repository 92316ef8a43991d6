//! JSON bodies.
//!
//! Written as the official client writes them: absent values are left out, values with a default
//! are sent, and requests say their own `type` (which readers ignore). Unknown fields are ignored,
//! so newer peers stay understood.

mod failure;
mod future;
mod model;
mod sampling;
mod server;
mod session;
mod training;
mod weights;

pub use failure::{ErrorBody, ErrorDetail};
pub use future::{
    CancelFuture, Category, Failed, FutureAnswer, Pending, Promise, QueueState, RetrieveFuture,
};
pub use model::{CreateModel, GetInfo, LoraConfig, ModelCreated, ModelData, ModelInfo};
pub use sampling::{
    CreateSamplingSession, PromptChunk, Sample, SamplerInfo, SamplingParams, SamplingPrompt,
    SamplingSessionCreated, Stop,
};
pub use server::{
    Capabilities, ClientConfig, ConfigRequest, DynamicConfig, Health, SupportedModel, Telemetry,
    TelemetryAccepted,
};
pub use session::{
    CreateSession, FinishReason, FinishSession, FinishStatus, Heartbeat, SessionCreated,
};
pub use training::{AdamParams, OptimStep, OptimStepDone};
pub use weights::{
    LoadTarget, LoadWeights, SaveForSamplerTarget, SaveWeights, SaveWeightsForSampler,
    SavedForSampler, SaverKind, WeightsInfo, WeightsInfoRequest, WeightsLoaded, WeightsSaved,
};

/// Free data that the user attaches.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

#[cfg(test)]
mod tests;
