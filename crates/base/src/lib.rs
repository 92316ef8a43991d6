//! The words every Snakehouse crate shares.
//!
//! A closed list: [ids](id), the [kinds of error](kind) with their one retry table, the
//! [`Deadline`] of a call, the [`Clock`] that all time comes from, [`Backoff`] as a pure law,
//! seeded [`Chance`], [byte sizes](ByteSize), [secrets](Secret) that do not
//! print, and texts [without secrets](redact). No I/O, no async: anything that
//! waits, opens or spawns lives in another room.

mod backoff;
mod byte_size;
mod chance;
mod clock;
mod deadline;
pub mod id;
pub mod kind;
pub mod redact;
mod secret;

pub use backoff::{Backoff, BackoffError, Growth, Jitter, Row};
pub use byte_size::ByteSize;
pub use chance::Chance;
pub use clock::{Clock, ManualClock, SystemClock};
pub use deadline::Deadline;
pub use kind::{Coded, Kind, Retry};
pub use secret::Secret;
