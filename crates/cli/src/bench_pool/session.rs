//! Rows of sessions: calls of one beside plain calls, look-ups, and what a pool pays for sessions that
//! it has and nobody uses.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use snakehouse_base::{Clock, SystemClock};
use snakehouse_pool::{CallError, Pool, PoolConfig, SessionLimits, SessionOptions};
use snakehouse_supervise::Scope;

use super::calls::{Callee, calling, payload};
use super::rig::{Rig, pin};
use super::sample::Sample;
use crate::args::BenchPoolArgs;
use crate::error::CliError;
use crate::output::Output;

/// Sessions of the pool that has some.
const SESSIONS: usize = 10_000;
/// Steps between two look-ups: a prime, so that all come and no two neighbours.
const STRIDE: usize = 7919;
/// Look-ups between two looks at the clock.
const LOOK: usize = 256;
const PAYLOAD: usize = 100;

/// One row, as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct SessionRow {
    row: &'static str,
    payload_bytes: usize,
    workers: u16,
    in_flight: u32,
    pinned: bool,
    /// Sessions of the pool that has some.
    sessions: usize,
    calls_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    /// Calls of no session in the same pool.
    beside_calls_per_s: f64,
    beside_p50_us: f64,
    /// The same in a pool that has no session.
    plain_calls_per_s: f64,
    plain_p50_us: f64,
    /// `calls_per_s / plain_calls_per_s`.
    ratio_to_plain: f64,
    /// `beside_calls_per_s / plain_calls_per_s`.
    beside_ratio_to_plain: f64,
    lookups_per_s: f64,
}

/// The rows of so many workers; `plain` has no session.
pub(crate) async fn rows(
    rig: &Rig,
    scope: &Scope,
    plain: &Pool,
    workers: u16,
    args: &BenchPoolArgs,
    out: Output,
) -> Result<Vec<SessionRow>, CliError> {
    let scope = scope.open("sessions");
    let sessions = SessionLimits { most: 2 * SESSIONS, ..SessionLimits::default() };
    let config = PoolConfig { sessions, ..PoolConfig::default() };
    let pool = rig.pool_with(&scope, workers, config).await?;
    let names: Arc<[String]> = (0..SESSIONS).map(|n| format!("user-{n}")).collect();
    for name in &*names {
        pool.named_session(name, SessionOptions::default())?;
    }
    let session = Arc::new(pool.named_session(&names[0], SessionOptions::default())?);
    let value = payload(PAYLOAD)?.value;
    let mut rows = Vec::new();
    for &in_flight in &args.in_flight {
        let is_pinned = in_flight == 1 && !args.unpinned;
        let mut samples = [const { Vec::new() }; 4];
        for round in rig.rounds() {
            let pinned = is_pinned.then(|| pin(&[], &pool)).transpose()?;
            let also = is_pinned.then(|| pin(&[], plain)).transpose()?;
            let calls = |callee: Callee| calling(callee, value.clone(), in_flight, rig.during);
            let ours = calls(Callee::Session(session.clone()));
            let ours = rig.sample(&pool, ours, Sample::new).await?;
            let beside = rig.sample(&pool, calls(pool.clone().into()), Sample::new).await?;
            let theirs = rig.sample(plain, calls(plain.clone().into()), Sample::new).await?;
            drop((also, pinned));
            let looking = look_up(pool.clone(), names.clone(), rig.during);
            let found = rig.sample(&pool, looking, Sample::counted).await?;
            if round.counts {
                let all = [ours, beside, theirs, found];
                samples.iter_mut().zip(all).for_each(|(of, sample)| of.push(sample));
            }
        }
        let [ours, beside, theirs, found] = samples.map(|samples| Sample::median(&samples));
        let row = SessionRow {
            row: "session",
            payload_bytes: PAYLOAD,
            workers,
            in_flight,
            pinned: is_pinned,
            sessions: SESSIONS,
            calls_per_s: ours.calls_per_s,
            p50_us: ours.p50_us,
            p99_us: ours.p99_us,
            beside_calls_per_s: beside.calls_per_s,
            beside_p50_us: beside.p50_us,
            plain_calls_per_s: theirs.calls_per_s,
            plain_p50_us: theirs.p50_us,
            ratio_to_plain: ours.calls_per_s / theirs.calls_per_s,
            beside_ratio_to_plain: beside.calls_per_s / theirs.calls_per_s,
            lookups_per_s: found.calls_per_s,
        };
        if out.is_json() {
            out.data(&row, String::new)?;
        } else {
            out.note(format!("a session of {workers} workers, {in_flight} in flight: done"));
        }
        rows.push(row);
    }
    scope.stop().await;
    Ok(rows)
}

/// Looks sessions up by name for a while; how many.
async fn look_up(pool: Pool, names: Arc<[String]>, during: Duration) -> Result<u64, CallError> {
    let until = SystemClock.now() + during;
    let mut found = 0;
    while SystemClock.now() < until {
        for n in found..found + LOOK {
            pool.named_session(&names[n * STRIDE % names.len()], SessionOptions::default())?;
        }
        found += LOOK;
    }
    Ok(found as u64)
}

/// The rows for people.
pub(crate) fn table(rows: &[SessionRow]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "WORKERS",
        "IN FLIGHT",
        "OF A SESSION CALLS/S",
        "P50 us",
        "PLAIN, OTHERS THERE",
        "P50 us",
        "PLAIN, NONE THERE",
        "P50 us",
        "LOOK-UPS/S",
    ]);
    for row in rows {
        table.add_row([
            row.workers.to_string(),
            format!("{}{}", row.in_flight, if row.pinned { ", one core" } else { "" }),
            format!("{:.0}", row.calls_per_s),
            format!("{:.1}", row.p50_us),
            format!("{:.0}", row.beside_calls_per_s),
            format!("{:.1}", row.beside_p50_us),
            format!("{:.0}", row.plain_calls_per_s),
            format!("{:.1}", row.plain_p50_us),
            format!("{:.0}", row.lookups_per_s),
        ]);
    }
    table.to_string()
}
