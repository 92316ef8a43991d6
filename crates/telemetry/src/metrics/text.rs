//! The numbers of pools as Prometheus reads them (text format 0.0.4).
//!
//! Counters are the fields of the pool's own statistics under their own names, so that a new count is
//! here without anybody's doing. Durations are in seconds.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;
use snakehouse_pool::{LatencyBucket, PoolStats};

use crate::otlp::OtlpCounts;

/// The upper ends of the buckets of durations, in microseconds.
const BOUNDS_US: [u64; 19] = [
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    5_000_000,
    15_000_000,
    60_000_000,
    300_000_000,
];

/// What is shown of one pool.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) stats: PoolStats,
    pub(super) sessions: usize,
    pub(super) latency: Vec<LatencyBucket>,
}

/// The page.
pub(super) fn page(pools: &[Shown], otlp: Option<OtlpCounts>) -> String {
    let mut page = Page::default();
    page.gauge("workers", "Workers that have a process.", pools, |pool| pool.stats.workers);
    page.gauge("in_flight", "Calls that workers have.", pools, |pool| pool.stats.in_flight);
    page.gauge("waiting", "Calls that wait for a worker.", pools, |pool| pool.stats.waiting);
    page.gauge("sessions", "Sessions that are bound to a worker.", pools, |pool| {
        pool.sessions as u64
    });
    page.head("oldest_wait_seconds", "gauge", "How long the first waiting call has waited.");
    for pool in pools {
        let waited = pool.stats.oldest_wait_us.unwrap_or(0);
        page.sample("oldest_wait_seconds", &[("pool", &pool.stats.pool)], &seconds(waited));
    }
    page.counts(
        "calls_total",
        "Calls and streams by what came of them.",
        "outcome",
        pools,
        |pool| numbers(&pool.stats.outcomes),
    );
    page.counts(
        "deaths_total",
        "Deaths of workers that nobody asked for.",
        "cause",
        pools,
        |pool| {
            pool.stats.deaths.iter().map(|(cause, count)| ((*cause).to_owned(), *count)).collect()
        },
    );
    page.counts("events_total", "What the pool did.", "event", pools, |pool| {
        let mut events = numbers(&pool.stats.counters);
        events.push(("repeated".to_owned(), pool.stats.repeated));
        events
    });
    page.counts("output_total", "What became of what workers printed.", "what", pools, |pool| {
        numbers(&pool.stats.output)
    });
    page.counts("telemetry_total", "What became of telemetry.", "what", pools, |pool| {
        numbers(&pool.stats.telemetry)
    });
    page.latencies(pools);
    if let Some(otlp) = otlp {
        page.head_of("snakehouse_otlp_total", "counter", "What became of exported telemetry.");
        for (what, count) in numbers(&otlp) {
            page.sample_of("snakehouse_otlp_total", &[("what", &what)], &count.to_string());
        }
    }
    page.text
}

/// The fields that are numbers.
fn numbers(counts: &impl Serialize) -> Vec<(String, u64)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(counts) else { return Vec::new() };
    fields.into_iter().filter_map(|(name, count)| Some((name, count.as_u64()?))).collect()
}

fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.head_of(&format!("snakehouse_pool_{name}"), kind, help);
    }

    fn head_of(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a text cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        self.sample_of(&format!("snakehouse_pool_{name}"), labels, value);
    }

    fn sample_of(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        let escaped =
            |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<_> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
        let _ = writeln!(self.text, "{name}{{{}}} {value}", labels.join(","));
    }

    fn gauge(&mut self, name: &str, help: &str, pools: &[Shown], value: impl Fn(&Shown) -> u64) {
        self.head(name, "gauge", help);
        for pool in pools {
            self.sample(name, &[("pool", &pool.stats.pool)], &value(pool).to_string());
        }
    }

    fn counts(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        pools: &[Shown],
        counts: impl Fn(&Shown) -> Vec<(String, u64)>,
    ) {
        self.head(name, "counter", help);
        for pool in pools {
            for (what, count) in counts(pool) {
                let labels = [("pool", pool.stats.pool.as_str()), (label, what.as_str())];
                self.sample(name, &labels, &count.to_string());
            }
        }
    }

    /// The pool's buckets are finer than these; one that lies across a bound counts above it.
    fn latencies(&mut self, pools: &[Shown]) {
        let name = "call_duration_seconds";
        self.head(name, "histogram", "From the call to its answer, of calls that a tool answered.");
        for Shown { stats, latency, .. } in pools {
            let within = |bound: u64| -> u64 {
                let below = latency.iter().filter(|bucket| bucket.upper_us <= bound);
                below.map(|bucket| bucket.count).sum()
            };
            let total = within(u64::MAX);
            let bounds = BOUNDS_US.iter().map(|bound| (seconds(*bound), within(*bound)));
            for (bound, count) in bounds.chain([("+Inf".to_owned(), total)]) {
                let labels = [("pool", stats.pool.as_str()), ("le", &bound)];
                self.sample(&format!("{name}_bucket"), &labels, &count.to_string());
            }
            let sum = latency.iter().map(|bucket| bucket.count.saturating_mul(bucket.middle_us));
            let pool = [("pool", stats.pool.as_str())];
            self.sample(&format!("{name}_sum"), &pool, &seconds(sum.sum()));
            self.sample(&format!("{name}_count"), &pool, &total.to_string());
        }
    }
}
