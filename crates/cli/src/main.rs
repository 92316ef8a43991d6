//! Runs Python ML under Rust supervision: the Snakehouse command.
fn main() {}
