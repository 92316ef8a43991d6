//! Tools of the host: Rust closures that tools in Python call.
//!
//! A [`HostTool`] is a named async closure; [`WorkerSpec::host_tool`](crate::WorkerSpec::host_tool)
//! gives it to the workers of a pool, which are told of it once in their lives. In Python it is
//! `snakehouse.host.NAME(...)`. Arguments and results are typed by serde, or raw [`Value`]s, and are as
//! exact as those of calls. It runs as a task of the worker's scope, with the deadline of the call that
//! it serves, and is dropped when that call is over, given up, or dead with its worker.
//!
//! What a host tool calls in a pool belongs to the same chain of calls (`chain`): it has the chain's
//! deadline at most, and never waits for a worker that waits for it. ADR 0014 has the cases. Tested
//! with real workers in `tests/it/callbacks.rs`.
//!
//! [`Value`]: crate::Value

mod call;
pub(crate) mod chain;
pub(crate) mod convert;
mod error;
mod tool;

pub use call::HostCall;
pub use error::HostError;
pub use tool::HostTool;
pub(crate) use tool::HostTools;
