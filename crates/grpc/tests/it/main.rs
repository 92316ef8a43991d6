//! Pools over gRPC, with real Python workers and real connections between two loopback addresses.
//!
//! Needs `python3` of version 3.11 or newer on `PATH` (or in `SNAKEHOUSE_PYTHON`), nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this is test code, helpers outside of test functions included"
)]

mod attach;
mod budget;
mod elsewhere;
mod front_door;
mod half_open;
mod refusals;
mod streams;
mod support;
mod tls;
