//! Telemetry from real Python workers to a real collector, and the page of numbers.
//!
//! Needs `python3` of version 3.11 or newer on `PATH` (or in `SNAKEHOUSE_PYTHON`), nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this is test code, helpers outside of test functions included"
)]

mod collector;
mod export;
mod numbers;
mod secrets;
mod support;
