//! What is true of a dispatcher at any moment, whatever happened to it. Tests look after every step.

use std::collections::HashSet;

use crate::phase::Phase;

use super::Dispatcher;
use super::ledger::{At, List};

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

    fn check_seat(&self, place: usize) -> Result<(), String> {
        let seat = &self.seats[place];
        let holds = |what: &str, holds: bool| match holds {
            true => Ok(()),
            false => Err(format!("place {place}: {what}: {seat:?}")),
        };
        holds("load is within capacity", seat.load() <= seat.capacity)?;
        let most = seat.capacity.max(64);
        holds("no more are sent ahead than ever may be", seat.in_flight() <= most)?;
        let given = self.ledger.iter(&seat.given).chain(self.ledger.iter(&seat.outbox));
        let streams = given.filter(|ticket| self.ledger.is_stream(*ticket)).count();
        holds("its streams are counted", seat.streams == streams)?;
        holds("streams are within capacity", seat.streams <= seat.capacity)?;
        let alone = seat.capacity > seat.streams || seat.in_flight() == seat.streams;
        holds("nothing is sent behind streams that hold every place", alone)?;
        let up = seat.phase.is_up();
        holds("only what is up has calls", up || seat.in_flight() == 0)?;
        let bound = seat.sessions > 0 || !seat.pinned.is_empty();
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
