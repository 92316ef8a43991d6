//! The training service: a durable HTTP API over a supervised engine.
//!
//! Two rooms: [`core`] accepts operations, keeps them and has them done exactly once; [`http`]
//! speaks the Tinker protocol to clients. [`Service`] is both together.

pub mod core;
pub mod http;

pub use http::{ServeError, Service, ServiceConfig};
