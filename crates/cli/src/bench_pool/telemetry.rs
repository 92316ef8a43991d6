//! Rows of telemetry: 10,000 small calls a second in a pool that is watched and in one that is not.
//!
//! Watched as `--otlp` and `--metrics` do it, with the defaults: spans go to a collector in this process, the
//! page of numbers is read once per measurement. What counts is the CPU time of host and workers together.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::try_join_all;
use serde::Serialize;
use snakehouse_base::{Clock, Kind, SystemClock};
use snakehouse_pool::{CallError, Pool, PoolConfig, TelemetryConfig, Value};
use snakehouse_supervise::Scope;
use snakehouse_telemetry::{Metrics, Otlp, OtlpConfig};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::calls::Callee;
use super::payload::Payload;
use super::rig::Rig;
use super::sample::Sample;
use super::watcher::{Collector, scrape};
use crate::error::CliError;
use crate::output::Output;

const PAYLOAD: usize = 64;
/// The calls of a second come in so many groups, by one timer.
const TICK: Duration = Duration::from_millis(1);
const PER_TICK: u32 = 10;
/// After its last call a measurement goes on until the last telemetry was exported.
const AFTERWARDS: Duration = Duration::from_millis(1200);

/// One row, as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct TelemetryRow {
    row: &'static str,
    payload_bytes: usize,
    workers: u16,
    /// Calls of one tick that are made at once; the others follow.
    in_flight: u32,
    calls_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    plain_p50_us: f64,
    plain_p99_us: f64,
    /// Of host and workers.
    telemetry_cpu_us_per_call: f64,
    plain_cpu_us_per_call: f64,
    /// By which part the first is more than the second: the median of the rounds' own.
    overhead_ratio: f64,
    /// The same of the workers alone.
    worker_overhead_ratio: f64,
    /// Spans that were exported, of all calls of all rounds.
    spans: u64,
    calls: u64,
}

/// The rows of so many workers; `plain` tells nobody.
pub(crate) async fn rows(
    rig: &Rig,
    scope: &Scope,
    plain: &Pool,
    workers: u16,
    out: Output,
) -> Result<Vec<TelemetryRow>, CliError> {
    let scope = scope.open("watched");
    let collector = Collector::start(&scope).await.map_err(|error| not_watched(&error))?;
    let otlp = Otlp::start(&scope, OtlpConfig::new(collector.url()))?;
    let telemetry = Some(TelemetryConfig::new(otlp.sink()));
    let config = PoolConfig { telemetry, ..PoolConfig::default() };
    let pool = rig.pool_with(&scope, workers, config).await?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let metrics = Metrics::start(&scope, addr, vec![pool.clone()], Some(otlp.clone())).await?;
    let mut rows = Vec::new();
    for in_flight in [1, PER_TICK] {
        let value = Payload::blob(PAYLOAD).map_or(Value::None, |payload| payload.value);
        let paced = |pool: &Pool, page| {
            let load = Load { in_flight, value: value.clone(), during: rig.during, page };
            load.run(pool.clone().into())
        };
        let before = otlp.counts().sent;
        let (mut ours, mut theirs, mut calls) = (Vec::new(), Vec::new(), 0);
        for round in rig.rounds() {
            let watched = paced(&pool, Some(metrics.local_addr()));
            let watched = rig.sample(&pool, watched, Sample::paced).await?;
            let quiet = rig.sample(plain, paced(plain, None), Sample::paced).await?;
            calls += count(rig.during);
            if round.counts {
                ours.push(watched);
                theirs.push(quiet);
            }
        }
        let spans = otlp.counts().sent - before;
        if spans == 0 || collector.taken() == 0 {
            return Err(not_watched(&"nothing was exported"));
        }
        let row = TelemetryRow::new(workers, in_flight, (&ours, &theirs), (spans, calls));
        if out.is_json() {
            out.data(&row, String::new)?;
        } else {
            out.note(format!("telemetry of {workers} workers, {in_flight} at once: done"));
        }
        rows.push(row);
    }
    scope.stop().await;
    Ok(rows)
}

impl TelemetryRow {
    fn new(
        workers: u16,
        in_flight: u32,
        (watched, plain): (&[Sample], &[Sample]),
        (spans, calls): (u64, u64),
    ) -> Self {
        // The machine changes from round to round more than telemetry does: pairs are compared.
        let overhead = |cpu: fn(&Sample) -> f64| {
            let pairs = watched.iter().zip(plain);
            Sample::middle(pairs.map(|(one, other)| cpu(one) / cpu(other) - 1.0).collect())
        };
        let cpu = |sample: &Sample| sample.host_cpu_us + sample.worker_cpu_us;
        let (overhead_ratio, worker_overhead_ratio) =
            (overhead(cpu), overhead(|sample| sample.worker_cpu_us));
        let of = |samples: &[Sample]| Sample::middle(samples.iter().map(cpu).collect());
        let (ours, theirs) = (Sample::median(watched), Sample::median(plain));
        Self {
            row: "telemetry",
            payload_bytes: PAYLOAD,
            workers,
            in_flight,
            calls_per_s: ours.calls_per_s,
            p50_us: ours.p50_us,
            p99_us: ours.p99_us,
            plain_p50_us: theirs.p50_us,
            plain_p99_us: theirs.p99_us,
            telemetry_cpu_us_per_call: of(watched),
            plain_cpu_us_per_call: of(plain),
            overhead_ratio,
            worker_overhead_ratio,
            spans,
            calls,
        }
    }
}

/// The calls of a measurement.
fn count(during: Duration) -> u64 {
    u64::try_from(during.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX).max(1)
        * u64::from(PER_TICK)
}

/// Calls at a rate, whatever answers take.
struct Load {
    in_flight: u32,
    value: Value,
    during: Duration,
    /// Where the page of numbers is, which is read once, half-way.
    page: Option<SocketAddr>,
}

impl Load {
    /// How long each call took, and all of them.
    async fn run(self, callee: Callee) -> Result<(Vec<Duration>, Duration), CallError> {
        let began = SystemClock.now();
        let ticks = count(self.during) / u64::from(PER_TICK);
        let mut timer = interval(TICK);
        timer.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut latencies = Vec::with_capacity(1 << 16);
        let reading = async {
            if let Some(page) = self.page {
                sleep(self.during / 2).await;
                if let Err(error) = scrape(page).await {
                    tracing::warn!(%error, "the page of numbers was not read");
                }
            }
        };
        let calling = async {
            for _ in 0..ticks {
                timer.tick().await;
                for _ in 0..PER_TICK / self.in_flight {
                    let calls = (0..self.in_flight).map(|_| async {
                        let sent = SystemClock.now();
                        callee.echo(self.value.clone()).await?;
                        Ok::<_, CallError>(SystemClock.now() - sent)
                    });
                    latencies.extend(try_join_all(calls).await?);
                }
            }
            Ok::<_, CallError>(SystemClock.now() - began)
        };
        let (took, ()) = tokio::join!(calling, reading);
        let took = took?;
        sleep(AFTERWARDS).await;
        Ok((latencies, took))
    }
}

fn not_watched(why: &dyn std::fmt::Display) -> CliError {
    let message = format!("the pool cannot be watched: {why}");
    CliError::new(Kind::Environment, "bench_failed", message)
}

/// The rows for people.
pub(crate) fn table(rows: &[TelemetryRow]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "WORKERS",
        "AT ONCE",
        "CALLS/S",
        "WATCHED CPU us",
        "PLAIN CPU us",
        "OVERHEAD",
        "WATCHED P50 us",
        "PLAIN P50 us",
        "SPANS",
    ]);
    for row in rows {
        table.add_row([
            row.workers.to_string(),
            row.in_flight.to_string(),
            format!("{:.0}", row.calls_per_s),
            format!("{:.2}", row.telemetry_cpu_us_per_call),
            format!("{:.2}", row.plain_cpu_us_per_call),
            format!("{:+.1} %", row.overhead_ratio * 100.0),
            format!("{:.1}", row.p50_us),
            format!("{:.1}", row.plain_p50_us),
            row.spans.to_string(),
        ]);
    }
    table.to_string()
}
