//! The guards around every call that can fail: one of each, shared by all rooms.
//!
//! **What for.** A call to something remote needs to be repeated, paced, bounded and sometimes not
//! made at all. Written once here, exactly, so that no other crate has a retry, a limiter, a
//! breaker or a poll loop of its own.
//!
//! **What it owns.** [`Retry`] repeats an attempt within a deadline, a patience, a [`Budget`] and a
//! pool-wide [`Progress`] limit; [`Poller`] asks until something is done; [`http`] reads what a
//! server says about trying again; [`Breaker`] stops calling what is down; [`Window`] is the shared
//! "not now"; [`by`] ends a wait at its deadline; [`Limit`] bounds a rate and [`Permits`] bound what is in flight; [`Dispatch`] puts
//! count, bytes and the window behind one guard; [`Registry`] keeps one of them per key; what they
//! do is told as [`event`]s. Nothing here starts a task: each guard is a value around the caller's
//! own future.
//!
//! **How it fails.** With typed errors that keep the last cause. Every held resource is a guard
//! object that gives itself back when dropped, at any await point.
//!
//! **How it is tested.** Each guard is a pure core with time and chance as arguments, compared with
//! a naive reference by property tests; the cores' locking is explored by loom, the asynchronous
//! shells by shuttle; hours of outage run on a virtual clock.

mod admission;
mod breaker;
mod breaker_core;
mod budget;
mod by;
mod dispatch;
pub mod event;
mod gate;
pub mod http;
mod http_date;
mod limit;
mod permits;
mod poller;
mod progress;
mod registry;
mod retry;
mod retry_core;
mod sync;
mod window;

pub use breaker::{Breaker, BreakerOpen, BreakerPermit};
pub use breaker_core::{BreakerConfig, BreakerState, Trip, Verdict};
pub use budget::Budget;
pub use by::by;
pub use dispatch::{Dispatch, DispatchConfig, DispatchMode};
pub use gate::Permit;
pub use limit::{KeyedLimit, Limit, LimitError, Rate};
pub use permits::Permits;
pub use poller::{Poll, PollProfile, Poller};
pub use progress::Progress;
pub use registry::{Registry, RegistryError};
pub use retry::Retry;
pub use retry_core::{Advice, GaveUp, Reason};
pub use window::{Generation, Window};

/// A configuration that breaks a rule; the message names the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(crate) &'static str);

impl snakehouse_base::Coded for ConfigError {
    fn kind(&self) -> snakehouse_base::Kind {
        snakehouse_base::Kind::InvalidInput
    }

    fn code(&self) -> &'static str {
        "guard_config"
    }
}
