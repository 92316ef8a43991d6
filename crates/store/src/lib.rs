//! Durable state on one machine: a directory with one owner, a blob log, a SQLite discipline.
//!
//! **What for.** A service that answers only after a commit needs three things from its disk: that
//! nobody else writes there ([`StateDir`]), that large bodies become durable cheaply
//! ([`BlobLog`]), and that small facts change atomically ([`Db`]). This crate knows nothing of what
//! is stored.
//!
//! **The rule it exists for.** A row never points to bytes that are not durable: append the bytes,
//! wait for the [`Appended`] that says they are synced, then write the row that holds its
//! [`BlobRef`]. Many appends share one sync, and many transactions share one commit.
//!
//! **How it fails.** Every failure is a [`StoreError`] with kind, code and hint. After a failed
//! write or sync the log never appends behind the damage: it begins a new segment.
//!
//! **How it is tested.** The log runs on a simulated disk (feature `fake`) that, at a crash, keeps
//! any subset of what was not synced, torn at any byte; the database runs on real files.

mod blob_log;
mod blob_ref;
mod db;
mod disk;
mod error;
mod real_disk;
#[cfg(feature = "fake")]
mod simulated_disk;
mod state_dir;
mod writer;

pub use blob_log::{Appended, BlobLog, BlobLogConfig, Pin};
pub use blob_ref::BlobRef;
pub use db::{Db, Schema, SqlFuture};
pub use disk::{Disk, DiskFile};
pub use error::StoreError;
pub use real_disk::RealDisk;
#[cfg(feature = "fake")]
pub use simulated_disk::SimulatedDisk;
pub use state_dir::{Holder, StateDir};
