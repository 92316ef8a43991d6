//! The service over HTTP: the Tinker protocol on a loopback port.
//!
//! **What for.** Lets the unmodified official client, our own client and the command line reach a
//! [`Core`](crate::core::Core). Handlers translate and validate; they hold no state.
//!
//! **What it owns.** A listening socket, one task per connection (all in one scope, bounded in
//! number), one lane for decoding large bodies.
//!
//! **How it fails.** A request that cannot be accepted is answered with a 4xx or 5xx and a JSON body
//! `{"detail", "error": {code, kind, message, hint}}`. An operation that was accepted and failed is
//! a 200 with `{"error", "category"}`, because the official client takes any other status of
//! `retrieve_future` for a failure of transport and polls again. An operation with a place in its
//! model's order that breaks a rule is *accepted and failed*, so that its number is used and what
//! follows does not wait for it.
//!
//! **How it is tested.** Translation in both directions as pure functions; the router on a real
//! core with an engine inside the process; the whole over sockets with the official client.

mod access;
mod admin;
mod body;
mod convert;
mod error;
mod future;
mod refusal;
mod routes;
mod sampling;
mod serve;
mod server;
mod service;
mod session;
mod training;
mod weights;
mod workers;

#[cfg(test)]
mod tests;

pub use error::{RequestError, ServeError};
pub use service::{Service, ServiceConfig};
pub use workers::Workers;
