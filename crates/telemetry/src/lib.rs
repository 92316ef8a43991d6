//! What pools tell, for those who watch: traces and events by OTLP, numbers for Prometheus.
//!
//! [`Otlp`] is a sink for [`TelemetryConfig`](snakehouse_pool::TelemetryConfig) and sends what it
//! takes to a collector (OTLP 1, protobuf over HTTP). [`Metrics`] is a page on loopback with the
//! numbers of pools in Prometheus' text format. Both are children of a scope, have bounded queues and
//! a bounded end, and touch nothing that is global to the process: two programs in one may have
//! one each.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use snakehouse_pool::{Interpreter, Pool, PoolConfig, Reaper, TelemetryConfig, WorkerSpec};
//! # use snakehouse_telemetry::{Metrics, Otlp, OtlpConfig};
//! # async fn example(scope: &snakehouse_supervise::Scope, reaper: Reaper, spec: WorkerSpec)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! // Before the pool, so that it is stopped after it and hears all of it.
//! let otlp = Otlp::start(scope, OtlpConfig::new("http://127.0.0.1:4318"))?;
//! let telemetry = Some(TelemetryConfig::new(otlp.sink()));
//! let config = PoolConfig { telemetry, ..PoolConfig::default() };
//! let pool = Pool::start(scope, reaper, spec, config).await?;
//! let metrics = Metrics::start(scope, "127.0.0.1:9464".parse()?, vec![pool], Some(otlp)).await?;
//! println!("http://{}/metrics", metrics.local_addr());
//! # Ok(())
//! # }
//! ```

mod error;
mod metrics;
mod otlp;

pub use error::TelemetryError;
pub use metrics::Metrics;
pub use otlp::{Otlp, OtlpConfig, OtlpCounts, proto};
