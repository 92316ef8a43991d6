//! Base models: a Qwen3-family decoder read from a Hugging Face directory.

mod base;
mod config;
mod rope;
mod text;
mod tiny;
mod weights;

pub(crate) use base::{BaseModel, Frozen, Linear};
pub use config::ModelConfig;
pub(crate) use config::object as json_object;
pub(crate) use text::Text;
pub use tiny::{TINY_SEED, bench_config, make_random, make_tiny, tiny_config};
pub(crate) use weights::Tensors;
