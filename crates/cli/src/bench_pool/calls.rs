//! Rows of calls: echoes through the pool and through the limit program, in turn.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use snakehouse_base::{Clock, Kind, SystemClock};
use snakehouse_pool::{Args, CallError, CallOptions, Pool, Session, Value};

use super::payload::Payload;
use super::rig::{Rig, pin};
use super::row::{Cell, Row};
use super::sample::Sample;
use crate::args::BenchPoolArgs;
use crate::error::CliError;
use crate::output::Output;

/// All payloads and numbers in flight, with so many workers.
pub(crate) async fn rows(
    rig: &Rig,
    pool: &Pool,
    workers: u16,
    args: &BenchPoolArgs,
    out: Output,
) -> Result<Vec<Row>, CliError> {
    let mut rows = Vec::new();
    for &size in &args.payload {
        let payload = payload(size as usize)?;
        let mut limits = rig.limits(workers, &payload).await?;
        for &in_flight in &args.in_flight {
            let cell = Cell { workers, in_flight, pinned: in_flight == 1 && !args.unpinned };
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for round in rig.rounds() {
                let pinned = cell.pinned.then(|| pin(&limits, pool)).transpose()?;
                let (back, limit) = rig.limit_sample(limits, &payload, in_flight).await?;
                limits = back;
                let calls = calling(pool.clone(), payload.value.clone(), in_flight, rig.during);
                let sample = rig.sample(pool, calls, Sample::new).await?;
                drop(pinned);
                if round.counts {
                    ours.push(sample);
                    theirs.push(limit);
                }
            }
            let row = Row::new(payload.size, cell, &ours, &theirs);
            if out.is_json() {
                out.data(&row, String::new)?;
            } else {
                out.note(format!("{size} B, {workers} workers, {in_flight} in flight: done"));
            }
            rows.push(row);
        }
    }
    Ok(rows)
}

pub(crate) fn payload(size: usize) -> Result<Payload, CliError> {
    let payload = if size == 100 { Payload::record() } else { Payload::blob(size) };
    payload.ok_or_else(|| {
        let message = format!("no payload of {size} B can be encoded");
        CliError::new(Kind::InvalidInput, "bad_payload", message)
    })
}

/// Where calls go.
#[derive(Clone, Debug)]
pub(crate) enum Callee {
    Pool(Pool),
    Session(Arc<Session>),
}

impl From<Pool> for Callee {
    fn from(pool: Pool) -> Self {
        Self::Pool(pool)
    }
}

impl Callee {
    /// Has a value sent back.
    pub(crate) async fn echo(&self, value: Value) -> Result<Value, CallError> {
        let (args, options) = (Args::none().arg(value), CallOptions::default());
        match self {
            Self::Pool(pool) => pool.call("echo", args, options).await,
            Self::Session(session) => session.call("echo", args, options).await,
        }
    }
}

/// Keeps so many echoes going for a while; how long each took.
pub(crate) async fn calling(
    callee: impl Into<Callee>,
    payload: Value,
    in_flight: u32,
    during: Duration,
) -> Result<Vec<Duration>, CallError> {
    let callee = callee.into();
    let began = SystemClock.now();
    let callers = (0..in_flight).map(|_| async {
        let mut latencies = Vec::with_capacity(1 << 16);
        let (mut sent, mut value) = (began, payload.clone());
        while sent - began < during {
            // The answer is the next argument, so that the measurement itself copies nothing.
            value = callee.echo(value).await?;
            let now = SystemClock.now();
            latencies.push(now - sent);
            sent = now;
        }
        Ok::<_, CallError>(latencies)
    });
    Ok(try_join_all(callers).await?.concat())
}
