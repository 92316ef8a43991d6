//! The whole core on a deterministic engine in this process.

mod bench;
mod clients;
mod crashes;
mod deaths;
mod fake_engine;
mod keeping;
mod saving;
