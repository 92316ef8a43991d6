//! Who watches a pool of tools: a collector, and whoever reads the page of numbers.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize, Serializer};
use snakehouse_base::redact::redact;
use snakehouse_pool::{Pool, PoolConfig, TelemetryConfig};
use snakehouse_supervise::Scope;
use snakehouse_telemetry::{Metrics, Otlp, OtlpConfig};

use crate::config::{Config, Origin};
use crate::error::CliError;

/// A collector's URL. What it shows has no password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct CollectorUrl(String);

impl From<String> for CollectorUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl fmt::Display for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.0))
    }
}

impl fmt::Debug for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", redact(&self.0))
    }
}

impl Serialize for CollectorUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&redact(&self.0))
    }
}

/// What was asked for, and started before the pool: it hears the pool's last words.
pub(crate) struct Watch {
    otlp: Option<Otlp>,
    metrics: Option<SocketAddr>,
}

impl Watch {
    /// Starts the exporter, if there is to be one.
    pub(crate) fn start(scope: &Scope, config: &Config) -> Result<Self, CliError> {
        let start = |url: &CollectorUrl| Otlp::start(scope, OtlpConfig::new(&*url.0));
        let otlp = config.otlp.value.as_ref().map(start).transpose()?;
        Ok(Self { otlp, metrics: config.metrics.value })
    }

    /// Of a command that ends: it shows its numbers only if its own command line says where. The
    /// address that is configured is that of a running `up`.
    pub(crate) fn of_a_command(mut self, config: &Config) -> Self {
        self.metrics = self.metrics.filter(|_| config.metrics.origin == Origin::Flag);
        self
    }

    /// For the pool that is watched.
    pub(crate) fn pool_config(&self) -> PoolConfig {
        let telemetry = self.otlp.as_ref().map(|otlp| TelemetryConfig::new(otlp.sink()));
        PoolConfig { telemetry, ..PoolConfig::default() }
    }

    /// Serves the page of numbers, if there is to be one; where.
    pub(crate) async fn serve(
        self,
        scope: &Scope,
        pool: &Pool,
    ) -> Result<Option<String>, CliError> {
        let Some(addr) = self.metrics else { return Ok(None) };
        let metrics = Metrics::start(scope, addr, vec![pool.clone()], self.otlp).await?;
        Ok(Some(format!("http://{}/metrics", metrics.local_addr())))
    }
}
