//! Pools over gRPC: a front door for programs in any language, and workers on other hosts.
//!
//! **What for.** Inside a machine a worker speaks frames over a socket pair. Between machines, and to
//! programs that are no Rust, a pool speaks gRPC: `snakehouse.v1.Pool` is its front door, and
//! `snakehouse.v1.Worker` carries the frames of a worker that runs elsewhere in one stream.
//!
//! **What it owns.** A [`Server`] listens and serves both, with its connections and requests in one
//! scope; [`Channel`] is one connection to such a server, for the generated clients of [`proto`]; an
//! [`Agent`] keeps a worker of this host attached to a pool of another.
//!
//! **How it fails.** [`GrpcError`] for what cannot be started or reached. A refused request has a
//! gRPC status and, in the trailer [`ERROR_TRAILER`], a [`proto::Error`] with kind, code and hint.
//!
//! **How it is tested.** Over two addresses of the loopback device with real Python workers; every
//! refusal by name; the conformance suite of workers through the stream.

mod access;
mod agent;
mod attach;
mod budget;
mod channel;
mod error;
mod farewell;
mod front_door;
mod listen;
mod payload;
mod refusal;
mod running;
mod server;
mod stream;
mod tls;
mod trace;

/// The messages, clients and services of `proto/`, generated.
// audit(lint): generated code
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code, which the test `generated` keeps current"
)]
pub mod proto {
    include!("generated/snakehouse.v1.rs");
}

pub use agent::{Agent, AgentConfig};
pub use channel::{Channel, Dial};
pub use error::GrpcError;
pub use refusal::{ERROR_TRAILER, error_of};
pub use server::{Server, ServerConfig, Services};
pub use tls::{ClientTls, ServerTls};
