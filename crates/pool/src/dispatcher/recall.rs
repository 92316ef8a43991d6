//! Calls that were sent ahead and are taken back: a worker is busy with a long one, another has room.
//!
//! How long a call takes nobody knows before. So a connection whose worker has not answered for a
//! while asks here whether the calls behind the running one would run elsewhere. If so, it takes back
//! those that have not started, and until the worker has passed them it gets nothing new. If not, it
//! is woken when that changes.

use tokio::time::Instant;

use crate::call::{Call, CallError};
use crate::death::Death;
use crate::session::Affinity;

use super::ledger::{At, List};
use super::{After, Dispatcher, worker_id};

/// What becomes of calls behind one that takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recalled {
    /// They are to be taken back.
    Yes,
    /// They stay, since there is no room elsewhere; the bell rings when that changes.
    NoRoom,
    /// They stay for good: the worker's time is over, or they are being taken back already.
    No,
}

impl Dispatcher {
    /// The worker has calls behind one that takes long: whether they are to be taken back. If so, it
    /// gets no calls before [`recall_over`](Self::recall_over), and those that its connection has not
    /// taken yet wait again.
    pub(crate) fn recall(&mut self, place: usize, now: Instant, after: &mut After) -> Recalled {
        let seat = &self.seats[place];
        if !seat.serves_sessions() || seat.recalls {
            return Recalled::No;
        }
        let has_room = self.has_room_beside(place);
        self.seats[place].stuck = !has_room;
        self.seats[place].recalls = has_room;
        if has_room {
            let mut outbox = std::mem::take(&mut self.seats[place].outbox);
            let mut nested = List::default();
            while let Some(first) = self.ledger.first(&outbox) {
                if self.ledger.is_nested(first) {
                    // It runs in the middle of the long one.
                    self.ledger.shift(first, &mut outbox, &mut nested, At::Outbox(place));
                    continue;
                }
                match self.ledger.lend(first) {
                    Some(call) => self.take_back(place, call, &mut outbox, after),
                    None => drop(self.ledger.remove(first, &mut outbox)),
                }
            }
            self.seats[place].outbox = nested;
            self.hand_out(now, after);
        }
        if has_room { Recalled::Yes } else { Recalled::NoRoom }
    }

    /// The connection took these calls back from its worker, which will not start them.
    pub(crate) fn recalled(
        &mut self,
        place: usize,
        calls: Vec<Call>,
        now: Instant,
        after: &mut After,
    ) {
        let mut given = std::mem::take(&mut self.seats[place].given);
        for call in calls {
            if self.ledger.find(call.ticket) == Some(At::Given(place)) {
                self.take_back(place, call, &mut given, after);
            }
        }
        self.seats[place].given = given;
        self.hand_out(now, after);
        self.nest(now, after);
        self.rest(place, now, after);
    }

    /// The worker has passed the calls that were taken back: it may have new ones.
    pub(crate) fn recall_over(&mut self, place: usize, now: Instant, after: &mut After) {
        self.seats[place].recalls = false;
        self.hand_out(now, after);
    }

    fn take_back(&mut self, place: usize, call: Call, list: &mut List, after: &mut After) {
        let seat = &mut self.seats[place];
        seat.give_up(call.ticket, &self.ledger);
        if self.ledger.is_cancelled(call.ticket) || call.is_abandoned() {
            self.ledger.remove(call.ticket, list);
            self.counters.cancelled += 1;
            after.over.push(call);
            return;
        }
        let strict = call.session.as_ref().filter(|tag| tag.is_strict());
        let error = match strict {
            _ if self.stopped => CallError::Stopped,
            None => {
                self.counters.recalled += 1;
                return self.give_back(call, At::Waiting, list);
            }
            Some(tag) if seat.life.is_some() => {
                if tag.options.affinity == Affinity::FailFast {
                    self.impatient.push(call.ticket);
                }
                return self.give_back(call, At::Pinned(place), list);
            }
            // The worker drains, and its sessions were given up.
            Some(_) => CallError::SessionLost {
                worker: worker_id(place),
                incarnation: seat.incarnation,
                cause: Death::Killed(crate::death::KillReason::Recycled),
            },
        };
        self.ledger.remove(call.ticket, list);
        self.fail(Some(call), error, after);
    }

    /// Whether a worker beside this one would begin a call at once.
    fn has_room_beside(&self, place: usize) -> bool {
        let others = self.seats.iter().enumerate().filter(|(other, _)| *other != place);
        others
            .map(|(_, seat)| seat)
            .any(|seat| seat.is_open() && seat.in_flight() < seat.capacity && seat.fits(false))
    }

    /// Nothing waits: those who would give calls back hear that there is room, if there is.
    pub(super) fn wake_stuck(&mut self, after: &mut After) {
        for place in 0..self.seats.len() {
            if self.seats[place].stuck && self.has_room_beside(place) {
                self.seats[place].stuck = false;
                after.ring(place);
            }
        }
    }
}
