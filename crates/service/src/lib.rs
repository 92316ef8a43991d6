//! The training service: a durable HTTP API over a supervised engine.

pub mod core;
