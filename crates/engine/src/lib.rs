//! The embedded engine: LoRA training and sampling of Qwen3-family models on the CPU.
//!
//! **What for.** It computes what `snakehouse-engine-api` asks for, with no accelerator, no Python
//! and no system math library, and always with the same bits: a result depends on weights and
//! operation only, not on threads, batch mates, restarts or the width of the vector unit. ADR 0004
//! says why it is written by hand and what that costs.
//!
//! **What it owns.** Base models read from Hugging Face directories (and [`make_tiny`], which makes
//! one), adapters in training with their gradients and optimizer state, samplers, and checkpoint
//! directories in PEFT layout. [`Engine`] is all of it in this process; [`worker_main`] serves one
//! over the worker protocol.
//!
//! **How it fails.** Every refusal is an [`EngineError`] and has no effect.
//!
//! **How it is tested.** Finite differences, golden vectors of an independent implementation, and
//! bit equality: one thread against two, forward against sampling, saved against never stopped.

mod adapter;
mod checkpoint;
mod engine;
mod error;
mod fault;
mod kernel;
mod model;
mod pass;
mod sample;
mod train;
mod worker;

pub use engine::{Engine, EngineConfig};
pub use error::EngineError;
pub use fault::{BadFault, Fault, Point};
pub use model::{ModelConfig, TINY_SEED, bench_config, make_random, make_tiny, tiny_config};
pub use worker::worker_main;
