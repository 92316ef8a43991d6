//! Calls that come out of callbacks: which of them run in the middle of a call that waits for one.
//!
//! * A call of a chain takes a worker that has nothing to do, like any other call in its turn; it is
//!   never sent ahead of a worker's idleness. If there is no such worker, it is given, nested, to a
//!   worker of its own chain that waits for a callback; if every worker waits for one, to any of them.
//! * So a call of a chain waits only while some worker of its pool runs something, and whatever runs
//!   ends or comes to wait. A worker with a capacity of one runs what is nested on top of what waits: who
//!   waits for whom always leads to what was started later, and never round.
//! * A worker holds a bounded number of nested calls. Where all have as many, the call fails by name.
//!
//! ADR 0014 goes through the cases.

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

/// Where a nested call that waits can go.
enum Way {
    Nest(usize),
    Wait,
    /// Nothing that runs will ever make room for it.
    None,
}

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

    /// Gives out the calls of chains that can be nested, and fails those that nobody can ever run.
    pub(super) fn nest(&mut self, now: Instant, after: &mut After) {
        let mut at = 0;
        while let Some(&ticket) = self.nesting.get(at) {
            let place = match self.ledger.find(ticket) {
                Some(At::Waiting) => None,
                Some(At::Pinned(place)) => Some(place),
                // It was given to an idle worker, or is over.
                _ => {
                    self.nesting.remove(at);
                    continue;
                }
            };
            match self.way(ticket, place) {
                Way::Wait => at += 1,
                Way::Nest(worker) => {
                    self.nesting.remove(at);
                    self.give_nested(ticket, place, worker, now, after);
                    at = 0;
                }
                Way::None => {
                    self.nesting.remove(at);
                    let call = self.ledger.remove(
                        ticket,
                        match place {
                            None => &mut self.waiting,
                            Some(place) => {
                                self.pinned -= 1;
                                &mut self.seats[place].pinned
                            }
                        },
                    );
                    self.fail(call, CallError::WouldDeadlock, after);
                }
            }
        }
        if self.ledger.has_over() {
            self.close_books(now, after);
        }
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
            self.nesting.push(ticket);
        }
    }

    fn way(&self, ticket: Ticket, pinned: Option<usize>) -> Way {
        if let Some(place) = pinned {
            let seat = &self.seats[place];
            return match seat.takes_nested() {
                true => Way::Nest(place),
                false if seat.is_stuck() => Way::None,
                false => Way::Wait,
            };
        }
        let own = self.ledger.call(ticket).map(|call| &call.chain.own[..]).unwrap_or_default();
        let own = own.iter().find(|(place, incarnation)| {
            self.seats
                .get(*place)
                .is_some_and(|seat| seat.incarnation == *incarnation && seat.takes_nested())
        });
        if let Some((place, _)) = own {
            return Way::Nest(*place);
        }
        if self.is_one_coming() || self.seats.iter().any(|s| s.is_open() && !s.is_waiting()) {
            return Way::Wait;
        }
        let free = self.seats.iter().enumerate();
        let free = free.filter(|(_, seat)| seat.is_open() && seat.takes_nested());
        match free.min_by_key(|(_, seat)| seat.nested.len()) {
            Some((place, _)) => Way::Nest(place),
            None if self.open_workers() > 0 => Way::None,
            None => Way::Wait,
        }
    }

    /// Whether a worker that is missing is on its way. Where none is missing, the one that starts is a
    /// spare one or replaces another, and may never be given a call.
    fn is_one_coming(&self) -> bool {
        let is_coming = |seat: &Seat| matches!(seat.phase, Phase::Starting | Phase::Standby);
        self.open_workers() < self.target && self.seats.iter().any(is_coming)
    }

    fn give_nested(
        &mut self,
        ticket: Ticket,
        pinned: Option<usize>,
        place: usize,
        now: Instant,
        after: &mut After,
    ) {
        let from = if pinned.is_some() { From::Pinned } else { From::Waiting };
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
