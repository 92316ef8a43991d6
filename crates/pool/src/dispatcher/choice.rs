//! Who is next: the order in which calls are given out, and to whom.
//!
//! * Calls are given out in the order of their numbers, which is the order of acceptance; a call that
//!   comes back from a dead worker keeps its number. Only what cannot be given out at all is
//!   overtaken: a session's call whose own worker has no room, by calls for other workers.
//! * A worker takes nothing that is younger than the oldest call of its sessions, and nothing of its
//!   sessions that is younger than a stream which waits for any worker: else the one that needs much
//!   room would wait for ever behind those that need little.
//! * Among workers with room, the least loaded is served first.

use tokio::time::Instant;

use crate::call::{Call, CallError, Where};
use crate::phase::Phase;

use super::ledger::{At, Ticket};
use super::seat::Seat;
use super::{After, Dispatcher, Report};

/// Where a call comes from.
#[derive(Clone, Copy)]
pub(super) enum From {
    Waiting,
    Pinned,
}

impl Dispatcher {
    /// What the connection of a worker has done, and has to do.
    pub(crate) fn exchange(
        &mut self,
        place: usize,
        report: &Report<'_>,
        now: Instant,
        calls: &mut Vec<Call>,
        cancels: &mut Vec<Ticket>,
        after: &mut After,
    ) {
        self.report(place, report, now, after);
        let seat = &mut self.seats[place];
        while let Some(first) = self.ledger.first(&seat.outbox) {
            self.ledger.shift(first, &mut seat.outbox, &mut seat.given, At::Given(place));
            calls.extend(self.ledger.lend(first));
        }
        cancels.append(&mut seat.cancels);
    }

    /// What it has done; all that it does once its worker is dead.
    pub(crate) fn report(
        &mut self,
        place: usize,
        report: &Report<'_>,
        now: Instant,
        after: &mut After,
    ) {
        self.counters.late += report.late;
        self.counters.late_items += report.late_items;
        if !report.answered.is_empty() || !report.refused.is_empty() {
            self.refused(place, report);
            self.answered(place, report, now, after);
            self.hand_out(now, after);
            self.nest(now, after);
            self.rest(place, now, after);
            // The one who asks need not be woken.
            after.ring.spare(place);
        }
    }

    /// They were not sent: the worker did nothing for them, and nothing follows for the others.
    fn refused(&mut self, place: usize, report: &Report<'_>) {
        let seat = &mut self.seats[place];
        for &ticket in report.refused {
            if self.ledger.find(ticket) == Some(At::Given(place)) {
                seat.give_up(ticket, &self.ledger);
                match self.ledger.is_cancelled(ticket) {
                    true => self.counters.cancelled += 1,
                    false => self.counters.failed += 1,
                }
                self.ledger.remove(ticket, &mut seat.given);
            }
        }
    }

    fn answered(&mut self, place: usize, report: &Report<'_>, now: Instant, after: &mut After) {
        let seat = &mut self.seats[place];
        let (mut count, mut plain) = (0, 0);
        for &ticket in report.answered {
            if self.ledger.find(ticket) != Some(At::Given(place)) {
                continue;
            }
            count += 1;
            seat.stuck = false;
            let is_plain = !self.ledger.is_nested(ticket) && !self.ledger.is_stream(ticket);
            plain += usize::from(is_plain);
            seat.forget(ticket, &self.ledger);
            self.ledger.remove(ticket, &mut seat.given);
        }
        seat.answered += count;
        self.counters.answered += count;
        if plain > 0 {
            // How long a stream takes says nothing about calls.
            seat.window.record(plain, report.busy);
        }
        self.wear(place, count, now, after);
    }

    /// Gives out calls for as long as a worker has room. What does not wait for room is refused.
    pub(super) fn hand_out(&mut self, now: Instant, after: &mut After) {
        self.give_out(now, after);
        // It may have stood in the way of others.
        while self.refuse_impatient(now, after) {
            self.give_out(now, after);
        }
        if self.ledger.has_over() {
            self.close_books(now, after);
        }
    }

    pub(super) fn give_out(&mut self, now: Instant, after: &mut After) {
        loop {
            let first = self.ledger.first(&self.waiting);
            let choice = first.and_then(|first| self.choose(first));
            let pinned = match self.pinned {
                0 => None,
                _ => self.first_pinned(first, choice),
            };
            match (first.zip(choice), pinned) {
                (Some((call, _)), Some((pinned, place))) if pinned.id < call.id => {
                    self.give(pinned, place, From::Pinned, now, after);
                }
                (Some((call, place)), _) => self.give(call, place, From::Waiting, now, after),
                (None, Some((pinned, place))) => self.give(pinned, place, From::Pinned, now, after),
                (None, None) => break,
            }
        }
        if self.waiting.is_empty() {
            self.wake_stuck(after);
        }
    }

    /// The place for a call that any worker may run.
    fn choose(&self, ticket: Ticket) -> Option<usize> {
        let at_once = self.ledger.runs_at_once(ticket);
        let older = |first: Option<Ticket>| first.is_some_and(|first| first.id < ticket.id);
        let with_room = self.seats.iter().enumerate().filter(|(_, seat)| {
            seat.is_open()
                && seat.fits(at_once)
                && (seat.pinned.is_empty() || !older(self.ledger.first(&seat.pinned)))
        });
        match self.ledger.session(ticket) {
            None => with_room.min_by_key(|(_, seat)| seat.in_flight()).map(|(place, _)| place),
            Some(slot) => {
                let preferred = self.prefers(slot);
                // Sessions are spread, and keep off a worker that would have to wait for their end.
                let order = |(place, seat): &(usize, &Seat)| {
                    let retires = seat.retire.is_some();
                    (Some(*place) != preferred, retires, seat.in_flight(), seat.homes)
                };
                with_room.min_by_key(order).map(|(place, _)| place)
            }
        }
    }

    /// The oldest call of a session whose worker has room. `first` is the oldest of the others, and
    /// `choice` its place, if there is one.
    fn first_pinned(
        &self,
        first: Option<Ticket>,
        choice: Option<usize>,
    ) -> Option<(Ticket, usize)> {
        // Only what must run at once finds no room where others do.
        let stuck =
            first.filter(|_| choice.is_none()).filter(|first| self.ledger.runs_at_once(*first));
        let heads = self.seats.iter().enumerate().filter_map(|(place, seat)| {
            let head = self.ledger.first(&seat.pinned)?;
            let at_once = self.ledger.runs_at_once(head) || self.is_impatient(head);
            let fits = seat.serves_sessions() && seat.fits(at_once);
            let held = seat.phase == Phase::Serving && stuck.is_some_and(|s| s.id < head.id);
            (fits && !held).then_some((head, place))
        });
        heads.min_by_key(|(head, _)| head.id)
    }

    fn give(&mut self, ticket: Ticket, place: usize, from: From, now: Instant, after: &mut After) {
        if self.give_to(ticket, place, from, now, after) {
            self.seats[place].streams += usize::from(self.ledger.is_stream(ticket));
        }
    }

    /// Gives a call to a worker, unless it is over or the worker does not have its tool.
    pub(super) fn give_to(
        &mut self,
        ticket: Ticket,
        place: usize,
        from: From,
        now: Instant,
        after: &mut After,
    ) -> bool {
        let seat = &mut self.seats[place];
        let list = match from {
            From::Waiting => &mut self.waiting,
            From::Pinned => {
                self.pinned -= 1;
                &mut seat.pinned
            }
        };
        let is_due = |call: &&Call| {
            // Nobody need look: a stream waits also while nobody asks it for items.
            !call.is_abandoned() && !call.options.deadline.is_over(now.into_std())
        };
        let Some(call) = self.ledger.call(ticket).filter(is_due) else {
            self.counters.cancelled += 1;
            match self.ledger.remove(ticket, list) {
                Some(call) if !call.is_abandoned() => {
                    after.fail.push((call, CallError::Deadline { at: Where::Queue }));
                }
                call => after.over.extend(call),
            }
            self.rest_without(from, place, now, after);
            return false;
        };
        let Some(&number) = seat.numbers.get(&call.tool) else {
            let known = seat.tools.iter().map(|tool| tool.name.clone()).collect();
            let error = CallError::UnknownTool { tool: call.tool.clone(), known };
            let call = self.ledger.remove(ticket, list);
            self.fail(call, error, after);
            self.rest_without(from, place, now, after);
            return false;
        };
        self.ledger.number(ticket, number);
        self.ledger.shift(ticket, list, &mut seat.outbox, At::Outbox(place));
        seat.idle_since = None;
        after.ring(place);
        if let Some(weight) = &mut seat.weight {
            weight.given(now);
            if let Some(at) = weight.due() {
                self.arm(at, after);
            }
        }
        if let Some(slot) = self.ledger.session(ticket) {
            self.given(slot, ticket, place, after);
        }
        true
    }

    /// A call that waited is not given out after all. If it was bound to the worker, it may have been
    /// the last thing that kept it.
    fn rest_without(&mut self, from: From, place: usize, now: Instant, after: &mut After) {
        match from {
            From::Waiting => {}
            From::Pinned => self.rest(place, now, after),
        }
    }

    /// A worker may have nothing to do now: it can be let go if it is one too many, and is told to
    /// end if that is what it was to do last.
    pub(super) fn rest(&mut self, place: usize, now: Instant, after: &mut After) {
        let seat = &mut self.seats[place];
        if !seat.is_idle() {
            return;
        }
        match seat.phase {
            Phase::Serving => {
                seat.idle_since = Some(now);
                if self.target > self.config.least() {
                    self.arm(now + self.config.shrink_after, after);
                }
            }
            Phase::Draining => self.end(place, after),
            _ => {}
        }
    }
}
