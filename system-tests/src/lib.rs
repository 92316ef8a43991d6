//! The harness of the whole-system tests: the real binary, real processes, a home of its own for
//! each test.
//!
//! Every wait is on a condition (a line of output, an exit, an empty process list) with a bound;
//! nothing sleeps for a fixed time and hopes.

#![expect(clippy::panic, reason = "a harness fails its test by panicking")]

mod binary;
pub mod chaos;
mod http;
mod processes;
mod up;

pub use binary::{Ran, binary, command, run};
pub use http::{InFlight, Response, begin_post, get, post_json};
pub use processes::{
    Survivor, Usage, descendants, survivors, usage_of, wait_gone, wait_no_survivors,
};
pub use up::Up;
