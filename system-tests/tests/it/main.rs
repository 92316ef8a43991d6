//! Whole-system tests, one binary: the real `snakehouse`, real processes, real Python.

mod bad_input;
mod lifecycle;
mod pool_author;
mod pool_ends;
mod pool_stream;
mod remote;
mod rust_client;
mod watched;
mod worker_author;
