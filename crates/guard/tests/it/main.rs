//! Guards as callers use them, on a virtual clock with the constants of production.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod breaker;
mod chaos;
mod codes;
mod dispatch;
mod events;
mod failure;
mod limit;
mod outages;
mod permits;
mod poller;
mod retry;
mod window;
