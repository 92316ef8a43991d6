//! The engine's gates, through its public operations only.

#![allow(clippy::unwrap_used, reason = "a test fails where it is wrong")]

mod common;
mod determinism;
mod golden;
mod recipe;
mod refusals;
mod sampling;
