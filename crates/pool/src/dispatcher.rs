//! Which call goes to which worker, and how many workers there are: every decision of a pool, as one
//! value without I/O and without a clock.
//!
//! Owns the calls that wait and what is known about each worker. The pool keeps it behind one mutex
//! that is held for less than a microsecond and never across an await; callers and worker
//! connections change it and then ring the bells it names. One lock costs a call one task switch
//! less each way than a loop with a mailbox would (ADR 0003). It cannot fail; it is tested against
//! its rules in `dispatcher/tests.rs` (calls), `dispatcher/lives.rs` (workers) and
//! `dispatcher/nesting_rules.rs` (callbacks), and against a reference under random events in
//! `dispatcher/model.rs`.
//!
//! Here is what callers do; `choice` is the order of calls, `binding` what becomes of sessions,
//! `lifecycle` what becomes of workers, `nesting` where calls out of callbacks run, `recall` what is taken back from a busy worker, `ledger` where
//! each call is, `seat` one worker's place, `sessions` what is known of each session,
//! `bells` whom to wake.

use std::sync::Arc;
use std::time::Duration;

use snakehouse_base::Chance;
use snakehouse_base::id::WorkerId;
use snakehouse_supervise::CancellationToken;
use snakehouse_wire::ToolInfo;
use tokio::time::Instant;

use crate::call::{Call, CallError, Where};
use crate::config::PoolConfig;
use crate::counters::PoolCounters;
use crate::death::Death;
use crate::phase::{Phase, Step};
use crate::session::Tag;
use crate::worker::{Life, WorkerInfo};

use self::bells::Bells;
use self::chained::Chained;
use self::ledger::{At, Ledger, List};
use self::seat::Seat;
use self::sessions::Sessions;

mod bells;
mod binding;
mod chained;
#[cfg(test)]
mod chains;
#[cfg(test)]
mod check;
mod choice;
mod ledger;
mod lifecycle;
#[cfg(test)]
mod lives;
#[cfg(test)]
mod model;
mod nesting;
#[cfg(test)]
mod nesting_rules;
mod recall;
#[cfg(test)]
mod rig;
mod seat;
#[cfg(test)]
mod session_rules;
mod sessions;
#[cfg(test)]
mod tests;
mod weight;

pub(crate) use self::binding::{SeenSession, SessionNews};
pub(crate) use self::ledger::Ticket;
pub(crate) use self::lifecycle::{Hail, Unstarted};
pub(crate) use self::recall::Recalled;

/// A call that had to be given out again so often, because its worker died before it ran anything,
/// is not given out once more.
const MOST_DEATHS: u32 = 3;

/// The state of a pool.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    config: PoolConfig,
    next_call: u64,
    ledger: Ledger,
    /// Calls that any worker may run.
    waiting: List,
    /// Calls of sessions that wait, over all places.
    pinned: usize,
    /// Those of chains among them.
    nesting: Chained,
    seats: Vec<Seat>,
    sessions: Sessions,
    /// Calls that are bound and do not wait: given out before their step is over, or refused.
    impatient: Vec<Ticket>,
    /// Workers that shall run calls now, between the least and the most.
    target: usize,
    /// When it last grew.
    grown: Option<Instant>,
    /// Places that were opened and whose children are not started yet.
    opened: Vec<usize>,
    /// When the keeper will look by itself.
    armed: Option<Instant>,
    chance: Chance,
    counters: PoolCounters,
    /// Why the last worker ended.
    last_end: Option<String>,
    /// Starts that failed before any worker ever served.
    failed_starts: u64,
    /// Whether a worker ever held less than the memory to recycle at after a call.
    was_light: bool,
    stopped: bool,
}

/// What the caller of a method has to do once the lock is free.
#[derive(Debug, Default)]
pub(crate) struct After {
    /// Connections to wake, by the place of their worker.
    pub(crate) ring: Bells,
    /// Calls for nobody: letting go of their bodies takes time.
    pub(crate) over: Vec<Call>,
    /// Calls to finish.
    pub(crate) fail: Vec<(Call, CallError)>,
    /// Incarnations to tell that they should end.
    pub(crate) stop: Vec<CancellationToken>,
    /// Whether the keeper has something to do.
    pub(crate) keeper: bool,
}

/// What a connection tells.
#[derive(Debug, Default)]
pub(crate) struct Report<'a> {
    /// Calls that were answered since the last time.
    pub(crate) answered: &'a [Ticket],
    /// Calls that could not be sent.
    pub(crate) refused: &'a [Ticket],
    /// Results among them that came for nobody.
    pub(crate) late: u64,
    /// Items of streams that came for nobody.
    pub(crate) late_items: u64,
    /// The working time that the answers took.
    pub(crate) busy: Duration,
}

impl Dispatcher {
    /// A pool none of whose workers has begun.
    pub(crate) fn new(config: PoolConfig, now: Instant) -> Self {
        let chance = config.recycle.seed.map_or_else(Chance::from_entropy, Chance::seeded);
        let mut dispatcher = Self {
            next_call: 1,
            ledger: Ledger::default(),
            waiting: List::default(),
            pinned: 0,
            nesting: Chained::default(),
            seats: std::iter::repeat_with(Seat::vacant).take(config.places()).collect(),
            sessions: Sessions::new(config.sessions),
            impatient: Vec::new(),
            target: match config.start {
                crate::config::Start::Eager => config.least(),
                crate::config::Start::Lazy => 0,
            },
            grown: None,
            opened: Vec::new(),
            armed: None,
            chance,
            counters: PoolCounters::default(),
            last_end: None,
            failed_starts: 0,
            was_light: false,
            stopped: false,
            config,
        };
        // Whoever made it has its keeper look first.
        dispatcher.fit_places(now, &mut After::default());
        dispatcher
    }

    // What callers do.

    /// Accepts a call, for the worker of its session if it has one, and names it.
    pub(crate) fn submit(
        &mut self,
        call: Call,
        now: Instant,
        after: &mut After,
    ) -> Result<Ticket, CallError> {
        let tag = call.session.clone();
        // One that comes out of a callback may be able to run at once, however many wait.
        let (is_chained, is_full) = (call.chain.depth > 0, self.waiting() >= self.config.queue);
        let place = match self.admit(tag.as_ref(), is_chained, now) {
            Ok(place) => place,
            Err(error) => {
                after.over.push(call);
                return Err(error);
            }
        };
        let id = self.next_call;
        let ticket = match place {
            None => self.ledger.enter(&mut self.waiting, At::Waiting, id, call, now),
            Some(place) => {
                self.pinned += 1;
                let pinned = &mut self.seats[place].pinned;
                self.ledger.enter(pinned, At::Pinned(place), id, call, now)
            }
        };
        if let Some(tag) = tag {
            self.entered(&tag, ticket, place);
        }
        self.next_call += 1;
        self.counters.accepted += 1;
        if is_chained {
            // Whoever does not wait is refused only then.
            self.give_out(now, after);
            self.chain_waits(ticket);
            self.nest(now, after);
            let waits = matches!(self.ledger.find(ticket), Some(At::Waiting | At::Pinned(_)));
            if is_full && waits {
                self.cancel(ticket, now, after);
                self.counters.saturated += 1;
                return Err(CallError::Saturated { limit: self.config.queue });
            }
        }
        self.hand_out(now, after);
        if !self.waiting.is_empty() {
            self.miss_workers(now, after);
        }
        Ok(ticket)
    }

    /// Whether one more call may wait, and where the session's worker is.
    fn admit(
        &mut self,
        session: Option<&Arc<Tag>>,
        is_chained: bool,
        now: Instant,
    ) -> Result<Option<usize>, CallError> {
        if self.stopped {
            return Err(CallError::Stopped);
        }
        let limit = self.config.queue;
        if self.waiting() >= limit && !is_chained {
            self.counters.saturated += 1;
            return Err(CallError::Saturated { limit });
        }
        session.map_or(Ok(None), |tag| self.admit_session(tag, now))
    }

    /// Forgets a call whose caller is gone, and says where it was; `None` if it is over, and its
    /// outcome told or about to be. A call that is at a worker is cancelled there and
    /// answered nonetheless, since only the answer shows that the worker is free.
    pub(crate) fn cancel(
        &mut self,
        ticket: Ticket,
        now: Instant,
        after: &mut After,
    ) -> Option<Where> {
        match self.ledger.find(ticket) {
            None => return None,
            Some(At::Given(place)) => {
                self.ledger.cancelled(ticket);
                self.seats[place].cancels.push(ticket);
                after.ring(place);
                return Some(Where::Worker);
            }
            Some(At::Waiting) => after.over.extend(self.ledger.remove(ticket, &mut self.waiting)),
            Some(At::Pinned(place)) => {
                self.pinned -= 1;
                let pinned = &mut self.seats[place].pinned;
                after.over.extend(self.ledger.remove(ticket, pinned));
                self.rest(place, now, after);
            }
            Some(At::Outbox(place)) => {
                let seat = &mut self.seats[place];
                seat.give_up(ticket, &self.ledger);
                after.over.extend(self.ledger.remove(ticket, &mut seat.outbox));
                self.rest(place, now, after);
            }
        }
        self.counters.cancelled += 1;
        // It may have stood in the way of others.
        self.hand_out(now, after);
        self.nest(now, after);
        Some(Where::Queue)
    }

    /// Refuses everything from now on; what waits is stopped.
    pub(crate) fn stop(&mut self, now: Instant, after: &mut After) {
        self.stopped = true;
        self.stop_sessions();
        self.fail_waiting(&CallError::Stopped, after);
        for place in 0..self.seats.len() {
            while let Some(first) = self.ledger.first(&self.seats[place].pinned) {
                self.pinned -= 1;
                let call = self.ledger.remove(first, &mut self.seats[place].pinned);
                self.fail(call, CallError::Stopped, after);
            }
        }
        self.close_books(now, after);
    }

    // What others see.

    /// Why the last worker ended, if none serves now. `None` also while the first ones start.
    pub(crate) fn why_none_serves(&self) -> Option<&str> {
        self.last_end.as_deref().filter(|_| !self.seats.iter().any(|seat| seat.phase.is_up()))
    }

    /// Workers that get calls.
    pub(crate) fn open_workers(&self) -> usize {
        self.seats.iter().filter(|seat| seat.is_open()).count()
    }

    /// Starts that failed before any worker ever served.
    pub(crate) const fn failed_starts(&self) -> u64 {
        self.failed_starts
    }

    /// Every worker that is there or will be, without its memory.
    pub(crate) fn workers(&self) -> Vec<WorkerInfo> {
        let info = |(place, seat): (usize, &Seat)| WorkerInfo {
            id: worker_id(place),
            incarnation: seat.incarnation,
            state: seat.state(),
            pid: seat.pid,
            birth: seat.birth.clone(),
            calls: seat.answered,
            in_flight: seat.in_flight(),
            window: seat.window.size(),
            capacity: seat.capacity,
            sessions: seat.bound.len(),
            restarts: seat.restarts,
            rss: None,
        };
        let there = self.seats.iter().enumerate().filter(|(_, s)| s.phase != Phase::Vacant);
        there.map(info).collect()
    }

    /// Calls that wait for a worker.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting.len() + self.pinned
    }

    /// Since when the first of them has waited.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let lists = self.seats.iter().map(|seat| &seat.pinned).chain([&self.waiting]);
        let firsts = lists.filter_map(|list| self.ledger.first(list));
        firsts.filter_map(|ticket| self.ledger.accepted(ticket)).min()
    }

    /// What was done so far.
    pub(crate) const fn counters(&self) -> PoolCounters {
        self.counters
    }

    /// The tools of the first worker that ever served.
    pub(crate) fn tools(&self) -> Arc<[ToolInfo]> {
        let known = self.seats.iter().find(|seat| !seat.tools.is_empty());
        known.map(|seat| seat.tools.clone()).unwrap_or_default()
    }

    // What they share.

    /// Takes a step of a worker's life. One that is not possible is reported, and changes nothing.
    fn step(&mut self, place: usize, step: Step) -> bool {
        let seat = &mut self.seats[place];
        match seat.phase.after(step) {
            Some(phase) => {
                seat.phase = phase;
                true
            }
            None => {
                self.counters.refused_steps += 1;
                let (worker, phase) = (worker_id(place), seat.phase);
                tracing::error!(%worker, ?phase, ?step, "step of a worker's life refused");
                false
            }
        }
    }

    fn fail(&mut self, call: Option<Call>, error: CallError, after: &mut After) {
        self.counters.failed += 1;
        after.fail.extend(call.map(|call| (call, error)));
    }

    fn fail_waiting(&mut self, error: &CallError, after: &mut After) {
        while let Some(first) = self.ledger.first(&self.waiting) {
            let call = self.ledger.remove(first, &mut self.waiting);
            self.fail(call, error.clone(), after);
        }
    }

    /// Where an incarnation serves, if it still does.
    fn seat_of(&self, life: &Life) -> Result<usize, CallError> {
        let place = usize::try_from(life.worker.id.0).unwrap_or(usize::MAX);
        match self.seats.get(place) {
            Some(seat)
                if seat.incarnation == life.worker.incarnation
                    && seat.life.is_some()
                    && seat.serves_sessions() =>
            {
                Ok(place)
            }
            _ => Err(CallError::SessionLost {
                worker: life.worker.id,
                incarnation: life.worker.incarnation,
                cause: life.death().cloned().unwrap_or(Death::Unknown),
            }),
        }
    }
}

impl After {
    fn ring(&mut self, place: usize) {
        self.ring.add(place);
    }
}

/// Workers are named by their place.
pub(crate) fn worker_id(place: usize) -> WorkerId {
    WorkerId(place as u64)
}
