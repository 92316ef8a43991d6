//! The pool with real processes: real Python workers, a real reaper, real kills.
//!
//! Needs `python3` of version 3.11 or newer on `PATH` (or in `SNAKEHOUSE_PYTHON`), nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this is test code, helpers outside of test functions included"
)]

mod attached;
mod attempts;
mod buffers;
mod callback_bytes;
mod callbacks;
mod calls;
mod cancels;
mod causes;
mod cells;
mod chain_latency;
mod codes;
mod concurrent;
mod deaths;
mod devices;
mod duplex;
mod fuzz;
mod host;
mod hostile;
mod hostile_callbacks;
mod interpreters;
mod kills;
mod limits;
mod measurements;
mod named_sessions;
mod pools;
mod processes;
mod programs;
mod promptness;
mod python_environments;
mod python_streams;
mod reaper;
mod recalls;
mod recycle;
mod runs;
mod scripted;
mod scripts;
mod sessions;
mod stats;
mod streams;
mod support;
mod telemetry;
mod tree_kills;
mod turmoil;
mod typed;
mod values;
mod zygotes;
