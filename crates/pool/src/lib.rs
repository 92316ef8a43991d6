//! Supervised external worker processes that never leave an orphan.
//!
//! **What for.** Rust code calls Python functions, or any program that speaks the frames of
//! `snakehouse-wire`, in processes of their own: a crash there is a typed error here, and nothing
//! that was started survives its owner.
//!
//! **What it owns.** A [`Reaper`] is the parent of all workers of a host. A [`Pool`] keeps workers
//! alive and gives them calls; a [`Session`] keeps calls on one life of one worker.
//! [`Interpreter::find`] finds Python, a [`Run`] is known to later ones, which end what it left.
//!
//! **How it fails.** [`PoolError`] for what cannot be started, [`CallError`] for calls: each call
//! has exactly one outcome, and a worker's [`Death`] says how it died.
//!
//! **How it is tested.** Decisions are pure values with rules checked one by one; everything else
//! runs with real processes, which are killed at every place that matters.
//!
//! ```no_run
//! use std::error::Error;
//!
//! use snakehouse_pool::{Args, CallOptions, PoolConfig, WorkerSpec, script};
//!
//! fn main() -> Result<(), Box<dyn Error>> {
//!     script(async |host| {
//!         let spec = WorkerSpec::python("tools", host.python()).module("tools.py");
//!         let pool = host.pool(spec, PoolConfig::default()).await?;
//!         let sum = pool.call("add", Args::none().arg(2).arg(40), CallOptions::default()).await?;
//!         assert_eq!(sum.as_i64(), Some(42));
//!         Ok(())
//!     })
//! }
//! ```
//!
//! [`script()`] owns a program. A library, or a program that is more than that, starts a [`Reaper`] and
//! its pools in a supervision scope of its own with [`Reaper::start`] and [`Pool::start`].

mod attach;
mod attempts;
mod call;
mod check;
mod config;
mod connection;
mod counters;
mod death;
mod devices;
mod dispatcher;
mod environment;
mod error;
mod host;
mod interpreter;
mod json;
mod keeper;
mod limits;
mod oom;
mod os;
mod output;
mod package;
mod phase;
mod pool;
mod python_environment;
mod reaper;
mod run;
mod script;
mod session;
mod slot;
mod spec;
mod start_delay;
mod starts;
mod stats;
mod stream;
mod sweep;
mod telemetry;
mod typed;
mod variables;
mod window;
mod worker;

pub use attach::{
    AttachError, Attached, Attachments, Farewell, FromPool, Hosted, HostedSays, PoolSays, Taken,
    ToHosted, ToPool,
};
pub use bytes::Bytes;
pub use call::{Args, CallError, CallOptions, Where};
pub use check::{Abilities, Kernel};
pub use config::{PoolConfig, Recycle, Start};
pub use counters::PoolCounters;
pub use death::{Death, KillReason};
pub use devices::DeviceInfo;
pub use error::PoolError;
pub use host::{HostCall, HostError, HostTool};
pub use interpreter::{Interpreter, PYTHON_ENV, Version};
pub use json::{JsonError, from_json, to_json};
pub use limits::{LimitSupport, Limits};
pub use output::{OutputCounts, OutputLine, Stream as OutputStream};
pub use package::python_path;
pub use pool::Pool;
pub use python_environment::EnvironmentError;
pub use reaper::{Reaper, ReaperConfig, ZygoteInfo, ZygoteState};
pub use run::Run;
pub use script::{Host, script};
pub use session::{
    Affinity, Session, SessionEnd, SessionInfo, SessionLimits, SessionOptions, SessionSpace,
};
pub use snakehouse_wire::buffer::SharedBuffer;
pub use snakehouse_wire::value::serde::{FitError, as_value};
pub use snakehouse_wire::{
    Array, Arrow, ArrowKind, ConvertError, Date, DateTime, Element, Failure, Order, Reference,
    Related, Shared, Time, TimeDelta, ToolInfo, TraceContext, TraceparentError, Unsupported,
    UtcOffset, Value,
};
pub use spec::{Mode, WorkerSpec};
pub use stats::{Latency, LatencyBucket, Outcomes, PoolStats};
pub use stream::Stream;
pub use sweep::{Ended, RUN_ENV, sweep};
pub use telemetry::{
    Event, Scalar, Span, SpanKind, Telemetry, TelemetryConfig, TelemetryCounts, TelemetryFilter,
    TelemetrySink,
};
pub use typed::{Bound, Items, Parameter, PythonType, Signature, ToolMismatch};
pub use worker::{Birth, WorkerInfo, WorkerRef, WorkerState};
