//! Frames between host and worker, typed values, and the worker side in Rust.
