//! The whole core on a deterministic engine in this process.

mod bench;
mod clients;
mod crashes;
mod damage;
mod deaths;
mod fake_engine;
mod keeping;
mod leaving;
mod refusals;
mod saving;
