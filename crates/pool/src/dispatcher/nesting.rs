//! Calls that come out of callbacks: which of them run in the middle of a call that waits for one.
//!
//! * A call of a chain takes a worker that has nothing to do, like any other call in its turn; it is
//!   never sent ahead of a worker's idleness. If there is no such worker, it is given, nested, to a
//!   worker of its own chain that waits for a callback; if every worker waits for one, to any of them.
//! * So a call of a chain waits only while some worker of its pool runs something, and whatever runs
//!   ends or comes to wait. A worker with a capacity of one runs what is nested on top of what waits: who
//!   waits for whom always leads to what was started later, and never round.
//! * A worker that served, died and starts again is on its way like one that starts for the first time,
//!   until that start fails or does not begin within [`RETURNS_WITHIN`].
//! * A worker holds a bounded number of nested calls. Where all have as many, the call fails by name.
//!
//! Whether a call can be nested depends on the worker and not on the call. So calls that wait are kept by
//! the workers that may nest them, oldest first, and a change costs a look at each worker and at the calls
//! that it moves, however many wait ([`Chained`](super::chained::Chained)).
//!
//! ADR 0014 goes through the cases.

use std::time::Duration;

use tokio::time::Instant;

use crate::call::{Call, CallError};
use crate::host::chain::Chain;
use crate::phase::Phase;

use super::choice::From;
use super::ledger::{At, List, Ticket};
use super::seat::Seat;
use super::{After, Dispatcher};

/// Nested calls that a worker has for each call that it runs at once.
const MOST_NESTED: usize = Chain::MAX_DEPTH as usize;

/// For how long a worker that served and died is waited for before it begins again.
pub(super) const RETURNS_WITHIN: Duration = Duration::from_secs(5);

impl Dispatcher {
    /// A call of a worker waits for a callback, or waits for none any more.
    pub(crate) fn waits(
        &mut self,
        place: usize,
        ticket: Ticket,
        waits: bool,
        now: Instant,
        after: &mut After,
    ) {
        if self.ledger.find(ticket) != Some(At::Given(place)) {
            return;
        }
        let seat = &mut self.seats[place];
        seat.blocked.retain(|blocked| *blocked != ticket);
        if waits {
            seat.blocked.push(ticket);
        } else {
            // It may be given calls ahead again.
            self.hand_out(now, after);
        }
        self.nest(now, after);
    }

    /// A call of a chain begins to wait.
    pub(super) fn chain_waits(&mut self, ticket: Ticket) {
        let ledger = &self.ledger;
        match ledger.find(ticket) {
            Some(At::Waiting) => {
                let waits = |ticket| ledger.find(ticket) == Some(At::Waiting);
                self.nesting.insert(ticket, waits);
                let own = ledger.call(ticket).map(|call| &call.chain.own[..]).unwrap_or_default();
                for (place, incarnation) in own {
                    if let Some(seat) = self.seats.get_mut(*place)
                        && seat.incarnation == *incarnation
                        && seat.phase.is_up()
                    {
                        seat.own.insert(ticket, waits);
                    }
                }
            }
            Some(At::Pinned(place)) => {
                let waits = |ticket| ledger.find(ticket) == Some(At::Pinned(place));
                self.seats[place].pinned_chained.insert(ticket, waits);
            }
            _ => {}
        }
    }

    /// Gives out the calls of chains that can be nested, and fails those that nobody can ever run.
    pub(super) fn nest(&mut self, now: Instant, after: &mut After) {
        while self.nest_in_its_own(now, after)
            || self.fail_stuck(after)
            || self.nest_anywhere(now, after)
        {}
        if self.ledger.has_over() {
            self.close_books(now, after);
        }
    }

    /// Nests the oldest call that waits for a worker of its chain or session which takes it.
    fn nest_in_its_own(&mut self, now: Instant, after: &mut After) -> bool {
        let ledger = &self.ledger;
        let heads = self.seats.iter_mut().enumerate().filter(|(_, seat)| seat.takes_nested());
        let heads = heads.filter_map(|(place, seat)| {
            let own = seat.own.first(|ticket| ledger.find(ticket) == Some(At::Waiting));
            let pinned = |ticket| ledger.find(ticket) == Some(At::Pinned(place));
            let pinned = seat.pinned_chained.first(pinned);
            [own, pinned].into_iter().flatten().min()
        });
        let Some(ticket) = heads.min() else { return false };
        match self.ledger.find(ticket) {
            Some(At::Pinned(place)) => self.give_nested(ticket, From::Pinned, place, now, after),
            _ => {
                // The innermost of them.
                let own = self.ledger.call(ticket).and_then(|call| {
                    let takes = |(place, incarnation): &&(usize, _)| {
                        let seat = &self.seats[*place];
                        seat.incarnation == *incarnation && seat.takes_nested()
                    };
                    call.chain.own.iter().find(takes).map(|(place, _)| *place)
                });
                let Some(place) = own else { return false };
                self.give_nested(ticket, From::Waiting, place, now, after);
            }
        }
        true
    }

    /// Fails a call of a session whose worker waits and holds as many nested calls as it may.
    fn fail_stuck(&mut self, after: &mut After) -> bool {
        let ledger = &self.ledger;
        let stuck = self.seats.iter_mut().enumerate().filter(|(_, seat)| seat.is_stuck());
        let mut heads = stuck.filter_map(|(place, seat)| {
            let waits = |ticket| ledger.find(ticket) == Some(At::Pinned(place));
            Some((seat.pinned_chained.first(waits)?, place))
        });
        let Some((ticket, place)) = heads.next() else { return false };
        self.pinned -= 1;
        let call = self.ledger.remove(ticket, &mut self.seats[place].pinned);
        self.fail(call, CallError::WouldDeadlock, after);
        true
    }

    /// Nests the oldest call in any worker, or fails it, if no worker of the pool can make room.
    fn nest_anywhere(&mut self, now: Instant, after: &mut After) -> bool {
        let ledger = &self.ledger;
        let first = self.nesting.first(|ticket| ledger.find(ticket) == Some(At::Waiting));
        let Some(ticket) = first else { return false };
        if self.seats.iter().any(|seat| seat.is_open() && !seat.is_waiting())
            || self.is_one_coming()
        {
            return false;
        }
        if let Some(at) = self.returns_by() {
            self.arm(at, after);
            return false;
        }
        let free = self.seats.iter().enumerate();
        let free = free.filter(|(_, seat)| seat.is_open() && seat.takes_nested());
        match free.min_by_key(|(_, seat)| seat.nested.len()) {
            Some((place, _)) => self.give_nested(ticket, From::Waiting, place, now, after),
            None if self.open_workers() > 0 => {
                let call = self.ledger.remove(ticket, &mut self.waiting);
                self.fail(call, CallError::WouldDeadlock, after);
            }
            None => return false,
        }
        true
    }

    /// A call that a worker had and did not start waits again: for any worker, or for that of its
    /// session.
    pub(super) fn give_back(&mut self, call: Call, at: At, list: &mut List) {
        let (ticket, is_chained) = (call.ticket, call.chain.depth > 0);
        let waiting = match at {
            At::Pinned(place) => {
                self.pinned += 1;
                &mut self.seats[place].pinned
            }
            _ => &mut self.waiting,
        };
        self.ledger.give_back(call, at, list, waiting);
        if is_chained {
            self.ledger.nest(ticket, false);
            self.chain_waits(ticket);
        }
    }

    /// Whether a worker that is missing is on its way. Where none is missing, the one that starts is a
    /// spare one or replaces another, and may never be given a call.
    fn is_one_coming(&self) -> bool {
        let is_coming = |seat: &Seat| matches!(seat.phase, Phase::Starting | Phase::Standby);
        self.open_workers() < self.target && self.seats.iter().any(is_coming)
    }

    /// Until when a worker that is missing, and served before it died, is waited for.
    pub(super) fn returns_by(&self) -> Option<Instant> {
        if self.open_workers() >= self.target {
            return None;
        }
        let returning = self.seats.iter().filter(|seat| seat.phase == Phase::Dead && !seat.closing);
        returning.filter_map(|seat| seat.returns_by).max()
    }

    /// Workers that died and have not begun again by now are not waited for.
    pub(super) fn give_up_returns(&mut self, now: Instant) {
        for seat in &mut self.seats {
            seat.returns_by = seat.returns_by.filter(|by| *by > now);
        }
    }

    fn give_nested(
        &mut self,
        ticket: Ticket,
        from: From,
        place: usize,
        now: Instant,
        after: &mut After,
    ) {
        if self.give_to(ticket, place, from, now, after) {
            self.ledger.nest(ticket, true);
            self.seats[place].nested.push(ticket);
            self.counters.nested += 1;
        }
    }
}

impl Seat {
    /// Whether it can run one more nested call now, in the middle of a call that waits for a callback.
    pub(super) fn takes_nested(&self) -> bool {
        self.is_waiting() && self.serves_sessions() && self.nested.len() < self.most_nested()
    }

    /// Whether it waits for a callback and holds as many nested calls as it may.
    fn is_stuck(&self) -> bool {
        self.is_waiting() && self.nested.len() >= self.most_nested()
    }

    /// Whether nothing that it runs makes way by itself: with a capacity of one, what it runs on top of
    /// everything else waits for a callback; else, fewer calls run than it may run at once.
    pub(super) fn is_waiting(&self) -> bool {
        match (self.capacity, self.nested.last()) {
            (1, Some(top)) => self.blocked.contains(top),
            (1, None) => !self.blocked.is_empty(),
            (_, _) => self.blocked.len() > self.nested.len(),
        }
    }

    fn most_nested(&self) -> usize {
        self.capacity.max(1) * MOST_NESTED
    }
}
