//! Workers on other hosts: both ends of a pool's connection to one, without the network between.
//!
//! On the host that has the pool, [`Attachments`] is where workers come from whose
//! [spec](crate::WorkerSpec::attached) says so. Whatever carries frames (`snakehouse-grpc`) offers a
//! worker there and gets an [`Attached`]: what the pool says to it, and what it says. The pool's own
//! end is a local socket like that of every worker, so the rest of the pool does not know; what stays
//! away is what needs shared memory or a signal: the page, the doorbell, shared buffers. On the host
//! that has the worker, [`Hosted`] starts it below that host's reaper and is its host in everything
//! that cannot travel: it rings for cancels and reads from the page what was started.
//!
//! Fails with [`AttachError`] when there is no room. Tested with real workers in
//! `tests/it/attached.rs`, and over the network in `crates/grpc`.

mod attachments;
mod hosted;
mod tether;

pub use attachments::{AttachError, Attached, Attachments, FromPool, PoolSays, Taken, ToPool};
pub use hosted::{Hosted, HostedSays, ToHosted};

pub(crate) use tether::Tether;

use crate::death::Death;

/// The last word about a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// How it died.
    pub death: Death,
    /// The call that it started last, 0 before the first; `None` if nobody knows.
    pub started: Option<u32>,
}
