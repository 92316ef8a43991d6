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
mod reference_dispatch;
mod reference_retry;
mod registry;
mod retry;
mod window;

/// How often checks of memory repeat: 100,000 times, or as `SNAKEHOUSE_ITERATIONS` says (soak: a
/// million).
fn iterations() -> u64 {
    std::env::var("SNAKEHOUSE_ITERATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000)
}
