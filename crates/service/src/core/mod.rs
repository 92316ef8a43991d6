//! The durable heart of the training service: what was accepted is done exactly once.
//!
//! **What for.** A client hands over an operation and may then crash, retry or poll; the service
//! may be killed, and so may the engine. [`Core`] makes all of that invisible: an operation is
//! durable before its promise is given, runs once in the client's order, and its result is durable
//! before anybody hears of it.
//!
//! **What it owns.** The state directory: sessions, models, samplers, the operation journal,
//! results, snapshots and saved weights. One engine process, which runs one operation at a time.
//!
//! **How it fails.** Requests that cannot be accepted are a [`CoreError`]. Operations that were
//! accepted and then failed are an [`Outcome::Failed`]. A dead engine is replaced and brought back
//! to the last durable operation from a snapshot and the journal; nobody sees it except by
//! latency and in [`CoreStatus`]. If the database or the disk fails, the owner task ends with the
//! error, is restarted by its supervisor, and begins as if the service had just started.
//!
//! **How it is tested.** The queue's ordering rules are a pure value. The whole core runs on a
//! deterministic in-process engine, on a disk that forgets unsynced writes, with the engine or
//! the core killed at every [`FaultPoint`]; system tests repeat that with real processes.

mod accept;
mod config;
mod departure;
mod engine;
mod error;
mod execute;
mod fault;
mod handle;
mod info;
mod journal;
mod life;
mod load;
mod op;
mod open;
mod outcome;
mod owner;
mod plan;
mod pool_engine;
mod queue;
mod revive;
mod schema;
mod shared;
mod snapshots;
mod status;
mod submit;
mod vault;

pub use config::{CoreConfig, Limits, ModelSource};
pub use engine::{
    Engine, EngineConnector, EngineError, EngineFuture, EngineIdentity, EngineSource,
};
pub use error::CoreError;
pub use fault::{Fault, FaultPoint, Victim};
pub use handle::Core;
pub use info::{BaseModel, ModelInfo, SamplerInfo, WeightsInfo};
pub use outcome::{Category, OpResult, Outcome};
pub use pool_engine::PoolEngine;
pub use status::{CoreStatus, EngineState};
pub use submit::{
    FinishReason, LoadTarget, LoraRequest, NewSampler, NewSession, Promise, SampleRequest,
    SamplerWeights, Submit, Target,
};

#[cfg(test)]
mod tests;
