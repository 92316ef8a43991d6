//! A worker's place, over all its incarnations: what is known about it, and what room it has.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use snakehouse_base::id::Incarnation;
use snakehouse_supervise::CancellationToken;
use snakehouse_wire::ToolInfo;
use tokio::time::Instant;

use crate::phase::Phase;
use crate::window::Window;
use crate::worker::{Birth, Life, WorkerState};

use super::binding::SessionNews;
use super::chained::Chained;
use super::ledger::{Ledger, List, Ticket};
use super::weight::Weight;

/// Why a worker is to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It has lived for so long.
    Age,
    /// It has answered so many calls.
    Calls,
    /// Its process group holds so much memory.
    Memory,
    /// Somebody asked for it.
    Asked,
}

/// A worker's place.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(super) phase: Phase,
    /// No worker is wanted here once this one is gone.
    pub(super) closing: bool,
    pub(super) incarnation: Incarnation,
    pub(super) pid: Option<u32>,
    pub(super) birth: Option<Birth>,
    pub(super) restarts: u64,
    /// Calls answered by all its incarnations.
    pub(super) answered: u64,
    pub(super) window: Window,
    /// Calls that the worker runs at once.
    pub(super) capacity: usize,
    /// Its connection would give calls back and found no room elsewhere: it is woken when there is.
    pub(super) stuck: bool,
    /// Calls are taken back from it: it gets none.
    pub(super) recalls: bool,
    /// Streams among those it has.
    pub(super) streams: usize,
    /// Calls of sessions on the current incarnation.
    pub(super) pinned: List,
    /// Given to the worker, and not yet taken by its connection.
    pub(super) outbox: List,
    /// Its connection has them.
    pub(super) given: List,
    /// Calls that wait for a callback.
    pub(super) blocked: Vec<Ticket>,
    /// Calls that were given to it in the middle of others, in that order.
    pub(super) nested: Vec<Ticket>,
    /// Calls that wait and whose chain this incarnation is part of.
    pub(super) own: Chained,
    /// Those of chains among the calls of its sessions.
    pub(super) pinned_chained: Chained,
    /// The last incarnation served and is dead: until when the next one is expected to begin.
    pub(super) returns_by: Option<Instant>,
    /// Calls to be cancelled. Emptied by the next exchange.
    pub(super) cancels: Vec<Ticket>,
    pub(super) numbers: HashMap<String, u16>,
    pub(super) tools: Arc<[ToolInfo]>,
    pub(super) life: Option<Arc<Life>>,
    /// The slots of sessions that are bound to this incarnation.
    pub(super) bound: HashSet<u32>,
    /// Sessions that may have state here: those, and those that only prefer a worker.
    pub(super) homes: usize,
    /// Whether the worker is told of sessions, and what.
    pub(super) hears_of_sessions: bool,
    pub(super) news: Vec<SessionNews>,
    /// Why this incarnation is to be replaced.
    pub(super) retire: Option<Why>,
    /// Until when it may drain.
    pub(super) drain_by: Option<Instant>,
    /// When this incarnation is too old.
    pub(super) too_old: Option<Instant>,
    /// Calls that this incarnation may answer.
    pub(super) calls_left: Option<u64>,
    /// Whether it said hello and was not needed at once.
    pub(super) was_spare: bool,
    /// Since when it has had nothing to do.
    pub(super) idle_since: Option<Instant>,
    /// Its memory, if that has a limit.
    pub(super) weight: Option<Weight>,
    /// Tells this incarnation to end.
    pub(super) stop: CancellationToken,
}

impl Seat {
    /// A place without a worker.
    pub(super) fn vacant() -> Self {
        Self {
            phase: Phase::Vacant,
            closing: false,
            incarnation: Incarnation(0),
            pid: None,
            birth: None,
            restarts: 0,
            answered: 0,
            window: Window::new(),
            capacity: 1,
            stuck: false,
            recalls: false,
            streams: 0,
            pinned: List::default(),
            outbox: List::default(),
            given: List::default(),
            blocked: Vec::new(),
            nested: Vec::new(),
            own: Chained::default(),
            pinned_chained: Chained::default(),
            returns_by: None,
            cancels: Vec::new(),
            numbers: HashMap::new(),
            tools: Arc::default(),
            life: None,
            bound: HashSet::new(),
            homes: 0,
            hears_of_sessions: false,
            news: Vec::new(),
            retire: None,
            drain_by: None,
            too_old: None,
            calls_left: None,
            was_spare: false,
            idle_since: None,
            weight: None,
            stop: CancellationToken::new(),
        }
    }

    /// Calls given to the worker and not answered, those sent ahead included.
    pub(super) const fn in_flight(&self) -> usize {
        self.outbox.len() + self.given.len()
    }

    /// Calls that the worker runs, as far as the host knows: what it has beyond this was sent ahead.
    #[cfg(test)]
    pub(super) fn load(&self) -> usize {
        self.in_flight().min(self.capacity)
    }

    /// Whether the worker may have one more call now.
    ///
    /// A stream lasts as long as its parties like, so it must start at once: it takes one of the
    /// worker's places, and with a capacity of one the whole worker. Other calls may be sent ahead of
    /// the worker's idleness, as the window allows, while a place is left that streams do not hold.
    /// The same is true of a call that comes out of a callback, and nothing is sent ahead of a
    /// callback's end.
    pub(super) fn fits(&self, at_once: bool) -> bool {
        let in_flight = self.in_flight() - self.nested.len();
        match at_once {
            _ if self.recalls || self.weight.as_ref().is_some_and(|w| !w.allows()) => false,
            true => in_flight < self.capacity,
            false if self.capacity == 1 && !self.blocked.is_empty() => false,
            false => {
                let places = self.capacity.saturating_sub(self.streams);
                let plain = in_flight - self.streams;
                places > 0 && plain < places.max(self.window.size())
            }
        }
    }

    /// One of its calls leaves it, and is still in the ledger. Another call may have its room.
    pub(super) fn forget(&mut self, ticket: Ticket, ledger: &Ledger) {
        self.blocked.retain(|blocked| *blocked != ticket);
        match ledger.is_nested(ticket) {
            true => self.nested.retain(|nested| *nested != ticket),
            false => self.streams -= usize::from(ledger.is_stream(ticket)),
        }
    }

    /// One of its calls leaves it that it did not run, and is still in the ledger.
    pub(super) fn give_up(&mut self, ticket: Ticket, ledger: &Ledger) {
        self.forget(ticket, ledger);
        if let Some(weight) = &mut self.weight {
            weight.returned();
        }
    }

    /// Whether it gets calls of everybody.
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Serving
    }

    /// Whether it gets calls of sessions that are bound to it.
    pub(super) fn serves_sessions(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Draining)
    }

    /// Whether it has nothing and waits for nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight() == 0 && self.pinned.is_empty() && self.bound.is_empty()
    }

    /// Whether a worker is here, or will be, for longer than the work that it has.
    pub(super) fn is_kept(&self) -> bool {
        self.phase != Phase::Vacant && !self.closing
    }

    /// Whether it has been idle for so long at a time, and since when.
    pub(super) fn idle_until(&self, after: Duration) -> Option<Instant> {
        let idle = self.phase == Phase::Serving && self.is_idle();
        self.idle_since.filter(|_| idle).map(|since| since + after)
    }

    pub(super) fn state(&self) -> WorkerState {
        match self.phase {
            Phase::Starting => WorkerState::Starting,
            Phase::Standby => WorkerState::Standby,
            Phase::Serving if self.in_flight() > 0 => WorkerState::Busy,
            Phase::Serving => WorkerState::Ready,
            Phase::Draining => WorkerState::Draining,
            Phase::Stopping => WorkerState::Stopping,
            Phase::Vacant | Phase::Dead => WorkerState::Dead,
        }
    }
}
