//! What is true of a dispatcher at any moment, whatever happened to it. Tests look after every step.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::phase::Phase;

use super::Dispatcher;
use super::ledger::{At, List, Ticket};

impl Dispatcher {
    /// Names the first rule that does not hold.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut seen = HashSet::new();
        self.check_list(&self.waiting, At::Waiting, true, &mut seen)?;
        for (place, seat) in self.seats.iter().enumerate() {
            self.check_list(&seat.pinned, At::Pinned(place), true, &mut seen)?;
            self.check_list(&seat.outbox, At::Outbox(place), true, &mut seen)?;
            self.check_list(&seat.given, At::Given(place), false, &mut seen)?;
            self.check_seat(place)?;
        }
        let holds = |what: &str, holds: bool| match holds {
            true => Ok(()),
            false => Err(what.to_owned()),
        };
        holds("every open call is in a list", seen.len() == self.ledger.open())?;
        let pinned: usize = self.seats.iter().map(|seat| seat.pinned.len()).sum();
        holds("the count of pinned calls is what is there", self.pinned == pinned)?;
        let count = self.counters;
        let over = count.answered + count.cancelled + count.failed;
        let open = self.ledger.open() as u64;
        holds("each call is open or over, once", count.accepted == over + open)?;
        holds("no step was refused", count.refused_steps == 0)?;
        if self.stopped {
            return holds("nothing waits in a stopped pool", self.waiting() == 0);
        }
        self.check_sessions()?;
        self.check_chained()?;
        let (least, most) = (self.config.least(), self.config.most());
        holds("the pool is no larger than it may be", self.target <= most)?;
        holds(
            "the pool is no smaller than it may be, but for a lazy one",
            self.target >= least || self.counters.accepted == 0,
        )?;
        let open = self.open_workers();
        holds("no more serve than shall", open <= self.target)?;
        let spare = self.seats.iter().any(|seat| seat.phase == Phase::Standby);
        holds("a spare worker helps out where one is missing", open == self.target || !spare)?;
        let kept = self.seats.iter().filter(|seat| seat.is_kept()).count();
        let vacant = self.seats.iter().any(|seat| seat.phase == Phase::Vacant);
        let wanted = self.target + self.config.standby;
        holds("as many workers are kept as shall be", kept >= wanted || !vacant)?;
        let closing = self.seats.iter().filter(|seat| seat.closing).count();
        let there = self.seats.iter().filter(|seat| seat.phase != Phase::Vacant).count();
        holds("places are either kept or being left", kept + closing == there)
    }

    fn check_list(
        &self,
        list: &List,
        at: At,
        has_calls: bool,
        seen: &mut HashSet<u64>,
    ) -> Result<(), String> {
        let mut before = 0;
        let mut count = 0;
        for ticket in self.ledger.iter(list) {
            let id = ticket.id;
            if id == 0 || !seen.insert(id) {
                return Err(format!("call {id} is in {at:?} and in another list"));
            }
            if self.ledger.find(ticket) != Some(at) {
                return Err(format!("call {id} is in {at:?} and its entry does not say so"));
            }
            if self.ledger.call(ticket).is_some() != has_calls {
                return Err(format!("call {id} is in {at:?} with or without its call"));
            }
            if has_calls && before > id && !matches!(at, At::Outbox(_)) {
                return Err(format!("call {id} is behind {before} in {at:?}"));
            }
            before = id;
            count += 1;
        }
        match count == list.len() {
            true => Ok(()),
            false => Err(format!("{at:?} counts {} and has {count}", list.len())),
        }
    }

    /// Every call of a chain that waits is found by whatever it waits for.
    fn check_chained(&self) -> Result<(), String> {
        let lists = self.seats.iter().map(|seat| &seat.pinned).chain([&self.waiting]);
        for ticket in lists.flat_map(|list| self.ledger.iter(list)) {
            let Some(call) = self.ledger.call(ticket).filter(|call| call.chain.depth > 0) else {
                continue;
            };
            let is_known = match self.ledger.find(ticket) {
                Some(At::Pinned(place)) => self.seats[place].pinned_chained.contains(ticket),
                _ => {
                    let mut own = call.chain.own.iter().filter(|(place, incarnation)| {
                        self.seats[*place].incarnation == *incarnation
                            && self.seats[*place].phase.is_up()
                    });
                    self.nesting.contains(ticket)
                        && own.all(|(place, _)| self.seats[*place].own.contains(ticket))
                }
            };
            if !is_known {
                return Err(format!("call {} of a chain waits and is not known to", ticket.id));
            }
        }
        Ok(())
    }

    fn check_sessions(&self) -> Result<(), String> {
        self.sessions.check()?;
        let holds = |what: &str, holds: bool| match holds {
            true => Ok(()),
            false => Err(format!("{what}: {self:?}")),
        };
        holds("nobody who does not wait is left", self.impatient.is_empty())?;
        holds("calls that are over are counted", !self.ledger.has_over())?;
        let mut open = HashMap::new();
        let lists = self.seats.iter().flat_map(|seat| [&seat.pinned, &seat.outbox, &seat.given]);
        for list in lists.chain([&self.waiting]) {
            for slot in self.ledger.iter(list).filter_map(|ticket| self.ledger.session(ticket)) {
                *open.entry(slot).or_insert(0) += 1;
            }
        }
        let mut homes = vec![0; self.seats.len()];
        let mut bound = 0;
        for record in self.sessions.iter() {
            let slot = record.tag.slot;
            holds("open calls are counted", open.remove(&slot).unwrap_or(0) == record.open)?;
            let gone = record.leaving && record.open == 0;
            holds("who is found by nobody has calls", !gone)?;
            holds("who is found by nobody is over", !record.leaving || record.tag.end().is_some())?;
            for (place, _) in record.homes.iter().filter(|(place, incarnation)| {
                let seat = &self.seats[*place];
                seat.incarnation == *incarnation && seat.life.is_some()
            }) {
                homes[*place] += 1;
            }
            let waits = |ticket: &Ticket| {
                self.ledger.find(*ticket) == Some(At::Waiting)
                    && self.ledger.session(*ticket) == Some(slot)
            };
            holds("who waits to be bound waits", record.waiting.iter().all(waits))?;
            let Some(life) = record.life.as_ref().filter(|_| record.tag.is_strict()) else {
                continue;
            };
            bound += 1;
            holds("what waits of the bound waits there", record.waiting.is_empty())?;
            let here = self.seats.iter().find(|seat| seat.bound.contains(&slot));
            let here = here.and_then(|seat| seat.life.as_ref());
            holds("it is bound where it says", here.is_some_and(|here| Arc::ptr_eq(here, life)))?;
        }
        holds("calls are of sessions", open.is_empty())?;
        let seats = self.seats.iter();
        holds(
            "who is bound is known",
            seats.clone().map(|s| s.bound.len()).sum::<usize>() == bound,
        )?;
        holds("homes are counted", seats.map(|seat| seat.homes).eq(homes))
    }

    fn check_seat(&self, place: usize) -> Result<(), String> {
        let seat = &self.seats[place];
        let holds = |what: &str, holds: bool| match holds {
            true => Ok(()),
            false => Err(format!("place {place}: {what}: {seat:?}")),
        };
        holds("load is within capacity", seat.load() <= seat.capacity)?;
        let most = seat.capacity.max(64);
        let given = self.ledger.iter(&seat.given).chain(self.ledger.iter(&seat.outbox));
        let given: Vec<_> = given.collect();
        let (nested, given): (Vec<_>, Vec<_>) =
            given.into_iter().partition(|ticket| self.ledger.is_nested(*ticket));
        let are_known = nested.iter().all(|ticket| seat.nested.contains(ticket));
        holds("its nested calls are known", are_known && nested.len() == seat.nested.len())?;
        holds("no more are nested than may be", nested.len() <= 16 * seat.capacity)?;
        let at_worker = |ticket| self.ledger.find(ticket) == Some(At::Given(place));
        holds("only what it has waits", seat.blocked.iter().all(|ticket| at_worker(*ticket)))?;
        holds("no more are sent ahead than ever may be", given.len() <= most)?;
        let streams = given.iter().filter(|ticket| self.ledger.is_stream(**ticket)).count();
        holds("its streams are counted", seat.streams == streams)?;
        holds("streams are within capacity", seat.streams <= seat.capacity)?;
        let alone = seat.capacity > seat.streams || given.len() == seat.streams;
        holds("nothing is sent behind streams that hold every place", alone)?;
        let up = seat.phase.is_up();
        holds("only what is up has calls", up || seat.in_flight() == 0)?;
        let bound = !seat.bound.is_empty() || !seat.pinned.is_empty();
        holds("sessions are bound to the living", seat.life.is_some() || !bound)?;
        holds("what is alive is known by its life", up || seat.life.is_none())?;
        let spare = seat.phase == Phase::Standby;
        holds("a spare worker has nothing", !spare || seat.is_idle() && seat.in_flight() == 0)?;
        let drains = seat.phase == Phase::Draining;
        holds("a drain has a bound", drains == seat.drain_by.is_some())?;
        holds("who drains has a reason to", !drains || !seat.is_idle())?;
        let closing = matches!(seat.phase, Phase::Draining) && !seat.closing;
        holds("who drains is not kept", !closing)?;
        holds(
            "nobody is bound to leave a place that is left",
            seat.phase != Phase::Vacant || !seat.closing,
        )
    }
}
