//! A client of the Tinker fine-tuning API, for a local Snakehouse service or any other.
//!
//! **What for.** [`ServiceClient`] opens a session; it makes [`TrainingClient`]s (LoRA training:
//! forward and backward, optimizer steps, saved states) and [`SamplingClient`]s. The same calls,
//! in the same order, as the official Python SDK, with one difference: a service that is away for
//! a while is waited for, so a restart in the middle of a training loop is not seen.
//!
//! **What it owns.** A session and its heartbeat, in a scope of the caller's supervision tree; the
//! order of each model's operations; nothing else. No process-wide state.
//!
//! **How it fails.** [`ClientError`] says whether nothing was sent (invalid input), the request
//! was refused, the accepted operation failed, or the service was out of reach for the whole
//! [patience](ClientConfig::patience). Broken connections and "not now" answers are retried with
//! the same idempotency key; a poll never is the end of an operation.
//!
//! **How it is tested.** On a virtual clock against a scripted service in memory (order of chunks,
//! long polls, outages, every answer of the protocol), and over real sockets against a server that
//! comes up late.
//!
//! ```no_run
//! use snakehouse_base::Secret;
//! use snakehouse_supervise::Root;
//! use snakehouse_tinker::{AdamParams, ClientConfig, ClientError, Datum, FinishStatus};
//! use snakehouse_tinker::{LoraConfig, LossFn, SamplingParams, ServiceClient};
//!
//! # fn main() -> Result<(), ClientError> {
//! snakehouse_supervise::run(async {
//!     let root = Root::new("training");
//!     let config = ClientConfig::new("http://127.0.0.1:8400", Secret::new("tml-local"));
//!     let service = ServiceClient::connect(root.scope(), config).await?;
//!     let lora = LoraConfig { rank: 8, ..LoraConfig::default() };
//!     let model = service.create_lora_training_client("tiny", lora).await?;
//!
//!     // `tiny` reads bytes: predict each next byte.
//!     let text: Vec<i32> = "to be or not to be".bytes().map(i32::from).collect();
//!     let targets: Vec<i64> = text[1..].iter().copied().map(i64::from).collect();
//!     let weights = vec![1.0; targets.len()];
//!     let datum = Datum::supervised(text[..text.len() - 1].to_vec(), targets, weights);
//!     for _ in 0..10 {
//!         // Both are under way before either is awaited.
//!         let gradients = model.forward_backward(vec![datum.clone()], LossFn::CrossEntropy).await?;
//!         let step = model.optim_step(AdamParams::default()).await?;
//!         let loss = gradients.await?.metrics["loss:sum"];
//!         step.await?;
//!         assert!(loss.is_finite());
//!     }
//!
//!     let saved = model.save_state("ten-steps").await?.await?;
//!     let sampler = model.save_weights_and_get_sampling_client().await?;
//!     let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
//!     let answer = sampler.sample(&text[..5], greedy, 1).await?.await?;
//!     assert_eq!(answer.sequences.len(), 1);
//!     assert!(saved.to_string().starts_with("tinker://"));
//!     service.close(FinishStatus::Success).await?;
//!     root.stop().await;
//!     Ok(())
//! })
//! # }
//! ```

mod chunk;
mod config;
mod error;
mod heartbeat;
mod http;
mod link;
mod local;
mod merge;
mod pending;
mod promise;
mod sampling_client;
#[cfg(test)]
mod scripted;
mod service_client;
mod session;
#[cfg(test)]
mod tests;
mod training_client;
mod transport;

pub use config::{ClientConfig, ConfigError, ENV_API_KEY, ENV_BASE_URL, ENV_PROJECT_ID, ENV_TAGS};
pub use error::{ClientError, Outage};
pub use local::LocalService;
pub use pending::Pending;
pub use sampling_client::SamplingClient;
pub use service_client::ServiceClient;
pub use snakehouse_tinker_api::json::{
    AdamParams, Category, FinishStatus, LoraConfig, ModelInfo, OptimStepDone, SamplingParams, Stop,
    SupportedModel,
};
pub use snakehouse_tinker_api::{
    CheckpointPath, Datum, ForwardBackwardOutput, InvalidInput, LossFn, SampleOutput,
    SampledSequence, StopReason, Tensor,
};
pub use training_client::TrainingClient;
pub use transport::TransportError;
