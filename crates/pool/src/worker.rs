//! Workers as others see them.

use std::sync::{Arc, OnceLock};

use serde::Serialize;
use snakehouse_base::ByteSize;
use snakehouse_base::id::{Incarnation, WorkerId};

use crate::death::Death;

/// Names one life of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct WorkerRef {
    /// The worker.
    pub id: WorkerId,
    /// Which of its lives, from 1.
    pub incarnation: Incarnation,
    /// Its process; 0 for one that is [attached](Birth::Attached).
    pub pid: u32,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkerState {
    /// Its process is being started, or has not said hello yet.
    Starting,
    /// It said hello and is a spare one: it has no calls and gets none until it is needed.
    Standby,
    /// It serves and has nothing to do.
    Ready,
    /// It has calls.
    Busy,
    /// It finishes what it has and gets nothing new: another one has taken its place.
    Draining,
    /// It was told to end.
    Stopping,
    /// It is dead, and the next incarnation has not begun.
    Dead,
}

/// How a worker's process was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Birth {
    /// A zygote forked it.
    Forked {
        /// The zygote's process.
        zygote: u32,
    },
    /// It came by itself, from another host.
    Attached {
        /// Where it runs, for people.
        peer: String,
    },
    /// Its program was executed.
    Executed {
        /// Why no zygote forked it, if one was meant to: what in the preload list forbids a fork,
        /// or what happened to the zygotes.
        why: Option<String>,
    },
}

/// One worker at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// The worker.
    pub id: WorkerId,
    /// Which of its lives, from 1; 0 before the first.
    pub incarnation: Incarnation,
    /// What it is doing.
    pub state: WorkerState,
    /// Its process, while it has one.
    pub pid: Option<u32>,
    /// How that process was made.
    pub birth: Option<Birth>,
    /// Calls answered by all its incarnations.
    pub calls: u64,
    /// Calls it has now, those sent ahead included.
    pub in_flight: usize,
    /// Calls it may have at once: 1 until its calls are short, at most 64.
    pub window: usize,
    /// Calls it runs at once.
    pub capacity: usize,
    /// Sessions that are bound to it.
    pub sessions: usize,
    /// Incarnations after the first.
    pub restarts: u64,
    /// Resident memory, while it has a process.
    pub rss: Option<ByteSize>,
}

/// One incarnation that served, shared by its sessions.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) worker: WorkerRef,
    death: OnceLock<Death>,
}

impl Life {
    pub(crate) fn new(worker: WorkerRef) -> Arc<Self> {
        Arc::new(Self { worker, death: OnceLock::new() })
    }

    pub(crate) fn end(&self, death: Death) {
        // Only the first end counts.
        let _ = self.death.set(death);
    }

    /// How it ended, if it has.
    pub(crate) fn death(&self) -> Option<&Death> {
        self.death.get()
    }
}
