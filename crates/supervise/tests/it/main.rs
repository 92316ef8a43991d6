//! Trees as a user builds them: on a virtual clock wherever nothing blocks, for real elsewhere.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accept;
mod chaos;
mod codes;
mod dynamic;
mod every;
mod group;
mod interpreter;
mod journal;
mod lane;
mod restart;
mod stop;
mod stress;
mod thread;
