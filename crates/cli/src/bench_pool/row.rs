//! One row of the output, and the table for people.

use serde::Serialize;

use super::sample::Sample;

/// Calls that a worker runs at once.
const CAPACITY: u32 = 1;
/// Most calls that are sent to a worker ahead of its idleness.
const WINDOW: u32 = 64;

/// What is measured, the payload apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    /// Worker processes, on either side.
    pub(crate) workers: u16,
    /// Calls without an answer, over all of them.
    pub(crate) in_flight: u32,
    /// Whether both ends share one core.
    pub(crate) pinned: bool,
}

/// One cell, as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    row: &'static str,
    payload_bytes: usize,
    workers: u16,
    in_flight: u32,
    capacity: u32,
    window: u32,
    pinned: bool,
    calls_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us_per_call: f64,
    host_cpu_us_per_call: f64,
    limit_calls_per_s: f64,
    limit_p50_us: f64,
    limit_cpu_us_per_call: f64,
    limit_host_cpu_us_per_call: f64,
    ratio_to_limit: f64,
    p50_ratio_to_limit: f64,
    cpu_ratio_to_limit: f64,
}

impl Row {
    /// The medians of both sides.
    pub(crate) fn new(payload: usize, cell: Cell, ours: &[Sample], limit: &[Sample]) -> Self {
        let (ours, limit) = (Sample::median(ours), Sample::median(limit));
        Self {
            row: "call",
            payload_bytes: payload,
            workers: cell.workers,
            in_flight: cell.in_flight,
            capacity: CAPACITY,
            window: WINDOW,
            pinned: cell.pinned,
            calls_per_s: ours.calls_per_s,
            p50_us: ours.p50_us,
            p99_us: ours.p99_us,
            cpu_us_per_call: ours.worker_cpu_us,
            host_cpu_us_per_call: ours.host_cpu_us,
            limit_calls_per_s: limit.calls_per_s,
            limit_p50_us: limit.p50_us,
            limit_cpu_us_per_call: limit.worker_cpu_us,
            limit_host_cpu_us_per_call: limit.host_cpu_us,
            ratio_to_limit: ours.calls_per_s / limit.calls_per_s,
            p50_ratio_to_limit: ours.p50_us / limit.p50_us,
            cpu_ratio_to_limit: ours.worker_cpu_us / limit.worker_cpu_us,
        }
    }
}

/// The rows for people.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "PAYLOAD",
        "WORKERS",
        "IN FLIGHT",
        "CALLS/S",
        "P50 us",
        "P99 us",
        "WORKER us",
        "HOST us",
        "LIMIT CALLS/S",
        "LIMIT P50 us",
        "CALLS/S x LIMIT",
        "P50 x LIMIT",
        "CPU x LIMIT",
    ]);
    for row in rows {
        table.add_row([
            format!("{} B", row.payload_bytes),
            row.workers.to_string(),
            format!("{}{}", row.in_flight, if row.pinned { ", one core" } else { "" }),
            format!("{:.0}", row.calls_per_s),
            format!("{:.1}", row.p50_us),
            format!("{:.1}", row.p99_us),
            format!("{:.2}", row.cpu_us_per_call),
            format!("{:.2}", row.host_cpu_us_per_call),
            format!("{:.0}", row.limit_calls_per_s),
            format!("{:.1}", row.limit_p50_us),
            format!("{:.2}", row.ratio_to_limit),
            format!("{:.2}", row.p50_ratio_to_limit),
            format!("{:.2}", row.cpu_ratio_to_limit),
        ]);
    }
    table.to_string()
}
