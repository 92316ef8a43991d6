//! Sampling: continuations of a prompt, one token at a time.
//!
//! **What for.** Text out of a base model or of an adapter over it, with log-probabilities equal,
//! bit for bit, to those of the training pass over the same tokens.
//!
//! **What it owns.** A [`Sampler`] holds weights only; caches of keys and values live as long as a
//! request. The samples of one request share the prompt's cache and are decoded together.
//!
//! **How it fails.** A request that does not make sense is refused before any work.
//!
//! **How it is tested.** Bit equality with the training pass, alone and among others, with short
//! and long segments; the laws of drawing on known distributions.

mod attend;
mod cache;
mod decoder;
mod draw;
mod request;
mod stop;

pub(crate) use request::Sampler;
