//! Instruments for tests: virtual time, seeds, probes for leaks and processes, waiting.
//!
//! **What for.** A test states what must become true; this crate owns time, chance, isolation and
//! the verdict. Two kinds of test exist and never mix. *Simulated*: [`virtual_time`], everything in
//! memory, hours pass in milliseconds, no descriptor can be opened. *Real*: [`real_time`] or a plain
//! test, real processes and files, waiting on conditions with [`wait_until`] or [`eventually`].
//!
//! **What it owns.** Runtimes of tests, the [`LeakProbe`], the [`Process`] probe, [seeds](for_each_seed),
//! [own processes](in_own_process) for tests of process-wide things, [programs](executable) that a
//! test writes, [poll counting](counted), and
//! a [`Transport`] in memory that lives through a [`Timeline`] of outages and keeps a [`Ledger`],
//! [points of failure](Faults) that follow a seeded plan of [`Chaos`], a
//! [runtime](virtual_time_prompt) that finds polls which hold everybody up, and a [`Recorder`] of
//! `tracing` events.
//!
//! **How it fails.** By panicking with a sentence that names the culprit: it is only ever a
//! development dependency.
//!
//! **How it is tested.** Each instrument must find a planted fault.
//!
//! # Guide
#![doc = include_str!("../README.md")]
#![expect(clippy::panic, reason = "a test's verdict is a panic")]

mod counted;
mod faults;
mod isolate;
mod leaks;
mod process;
mod program;
mod prompt;
mod race;
mod recorder;
mod runtime;
mod seed;
mod timeline;
mod transport;
mod wait;

pub use counted::{Counted, Polls, counted};
pub use faults::{Chaos, Fault, Faults, Injected};
pub use isolate::in_own_process;
pub use leaks::{LeakProbe, Leaks};
pub use process::Process;
pub use program::executable;
pub use prompt::{SlowPoll, Watch, Watched, virtual_time_prompt};
pub use race::race;
pub use recorder::{Recorder, Told};
pub use runtime::{Jumps, real_time, virtual_time, virtual_time_counted};
pub use seed::for_each_seed;
pub use timeline::{Timeline, Weather};
pub use transport::{Entry, Fate, Ledger, Transport, TransportError};
pub use wait::{eventually, settle, wait_until};
