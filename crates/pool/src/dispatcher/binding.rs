//! Sessions: which worker each is bound to, and how they end.
//!
//! A session is bound in the step in which its first call is given to a worker, under the same lock:
//! whatever else waits of it goes to that worker from then on, in its order. A session that only
//! prefers a worker waits among everybody's calls; when its turn comes it gets that worker if it has
//! room, else another one, which it then prefers.
//!
//! A worker is told of a session that has a name before its first call, and of the end of each that
//! was there when no call of it is open any more. What a dead worker had is lost at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::call::CallError;
use crate::death::{Death, KillReason};
use crate::session::{Affinity, SessionEnd, SessionInfo, SessionOptions, Space, Tag};
use crate::worker::{Life, WorkerRef};

use super::ledger::{At, Ticket};
use super::{After, Dispatcher, worker_id};

/// Slots of sessions that are looked at under the lock at once: that takes some 10 µs.
const AT_A_TIME: usize = 256;

/// What a worker is to be told about a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SessionNews {
    /// Calls of it come, and it has a name.
    Named { id: u64, name: Arc<str> },
    /// No more calls of it come, and none is open.
    Ended { id: u64, reason: &'static str },
}

/// A session as it was under the lock, without copies of anything long.
#[derive(Debug)]
pub(crate) struct SeenSession {
    tag: Arc<Tag>,
    life: Option<Arc<Life>>,
    open: usize,
    calls: u64,
    moves: u64,
    idle: Duration,
    expires_in: Option<Duration>,
}

impl SeenSession {
    /// What others see of it.
    pub(crate) fn info(self) -> SessionInfo {
        SessionInfo {
            id: self.tag.id,
            name: self.tag.name.as_deref().map(str::to_owned),
            affinity: self.tag.options.affinity,
            worker: self.life.map(|life| life.worker),
            end: self.tag.end().cloned(),
            open: self.open,
            calls: self.calls,
            moves: self.moves,
            idle: self.idle,
            expires_in: self.expires_in,
        }
    }
}

impl Dispatcher {
    // What callers do.

    /// A session without a name on the serving worker that has the fewest.
    pub(crate) fn open_session(
        &mut self,
        now: Instant,
        after: &mut After,
    ) -> Result<Option<Arc<Tag>>, CallError> {
        if self.stopped {
            return Err(CallError::Stopped);
        }
        self.miss_workers(now, after);
        let serving = self.seats.iter().enumerate().filter(|(_, seat)| seat.is_open());
        // One that is about to be replaced would wait for the session's end.
        let fewest = serving.min_by_key(|(_, seat)| (seat.retire.is_some(), seat.bound.len()));
        let Some((place, _)) = fewest else { return Ok(None) };
        let options = SessionOptions::default().ttl(Duration::MAX);
        let tag = self.make_session((Space::HOST, None), options, now, after)?;
        self.bind(tag.slot, place);
        Ok(Some(tag))
    }

    /// The session of a name in a space, made if there is none.
    pub(crate) fn find_session(
        &mut self,
        (space, name): (Space, &str),
        options: SessionOptions,
        now: Instant,
        after: &mut After,
    ) -> Result<Arc<Tag>, CallError> {
        if self.stopped {
            return Err(CallError::Stopped);
        }
        if let Some(slot) = self.sessions.named(space, name)
            && let Some(record) = self.sessions.at(slot)
        {
            let tag = record.tag.clone();
            if tag.options != options {
                return Err(CallError::SessionConflict { name: name.to_owned() });
            }
            self.sessions.touch(slot, now);
            return Ok(tag);
        }
        self.make_session((space, Some(name.into())), options, now, after)
    }

    /// Another session in place of one that is over.
    pub(crate) fn recreate_session(
        &mut self,
        old: &Tag,
        now: Instant,
        after: &mut After,
    ) -> Result<Arc<Tag>, CallError> {
        if self.stopped {
            return Err(CallError::Stopped);
        }
        if let Some(slot) =
            old.name.as_deref().and_then(|name| self.sessions.named(old.space, name))
            && let Some(record) = self.sessions.at(slot)
        {
            let current = record.tag.clone();
            if current.end().is_none() {
                self.sessions.touch(slot, now);
                return Ok(current);
            }
            self.leave(slot, now, after);
        }
        if old.name.is_none()
            && old.end().is_none()
            && let Some(record) = self.sessions.of(old)
        {
            let current = record.tag.clone();
            self.sessions.touch(current.slot, now);
            return Ok(current);
        }
        self.make_session((old.space, old.name.clone()), old.options, now, after)
    }

    /// Ends a session; whether it was known.
    pub(crate) fn close_session(&mut self, tag: &Tag, now: Instant, after: &mut After) -> bool {
        let Some(record) = self.sessions.of(tag).filter(|record| !record.leaving) else {
            return false;
        };
        if record.tag.end().is_none() {
            record.tag.finish(SessionEnd::Closed);
            self.counters.sessions_closed += 1;
        }
        self.leave(tag.slot, now, after);
        true
    }

    /// Ends the session of a name; whether there was one.
    pub(crate) fn close_named(
        &mut self,
        (space, name): (Space, &str),
        now: Instant,
        after: &mut After,
    ) -> bool {
        let found = self.sessions.named(space, name).and_then(|slot| self.sessions.at(slot));
        let Some(tag) = found.map(|record| record.tag.clone()) else { return false };
        self.close_session(&tag, now, after)
    }

    /// A space of its own for names, with at most so many sessions, fewer than the pool's.
    pub(crate) fn add_space(&mut self, most: usize) -> Space {
        self.sessions.add_space(most)
    }

    /// Nobody uses a space any more: its sessions end.
    pub(crate) fn drop_space(&mut self, space: Space, now: Instant, after: &mut After) {
        for tag in self.sessions.drop_space(space) {
            self.close_session(&tag, now, after);
        }
    }

    /// Whether a session takes a call now; gives the place of the worker that it has to run at.
    pub(super) fn admit_session(
        &mut self,
        tag: &Tag,
        now: Instant,
    ) -> Result<Option<usize>, CallError> {
        if self.sessions.of(tag).is_some() {
            self.sessions.touch(tag.slot, now);
        }
        let Some(record) = self.sessions.of(tag).filter(|_| tag.end().is_none()) else {
            return Err(tag.refusal());
        };
        let bound = record.life.clone().filter(|_| tag.is_strict());
        bound.map(|life| self.seat_of(&life)).transpose()
    }

    /// A call of a session waits, at that place if it is bound.
    pub(super) fn entered(&mut self, tag: &Tag, ticket: Ticket, place: Option<usize>) {
        if place.is_some() && tag.options.affinity == Affinity::FailFast {
            self.impatient.push(ticket);
        }
        if let Some(record) = self.sessions.of(tag) {
            record.open += 1;
            record.calls += 1;
            if place.is_none() && tag.is_strict() {
                record.waiting.insert(ticket);
            }
        }
    }

    // What others see.

    /// Some sessions, from a slot on, and the slot to go on from. So few that the lock is not held for long.
    pub(crate) fn look_at_sessions(
        &self,
        from: u32,
        now: Instant,
    ) -> (Vec<SeenSession>, Option<u32>) {
        let limits = self.sessions.limits();
        let (records, next) = self.sessions.some(from, AT_A_TIME);
        let seen = records.map(|record| SeenSession {
            tag: record.tag.clone(),
            life: record.life.clone(),
            open: record.open,
            calls: record.calls,
            moves: record.moves,
            idle: record.idle(now),
            expires_in: record.expires(limits).map(|at| at.saturating_duration_since(now)),
        });
        (seen.collect(), next)
    }

    /// The worker that a session is bound to, or prefers.
    pub(crate) fn worker_of(&self, tag: &Tag) -> Option<WorkerRef> {
        let record = self.sessions.peek(tag.slot).filter(|record| record.tag.id == tag.id)?;
        record.life.as_ref().map(|life| life.worker)
    }

    /// What a worker is to be told before its next calls. Emptied by this.
    pub(crate) fn session_news(&mut self, place: usize) -> Vec<SessionNews> {
        std::mem::take(&mut self.seats[place].news)
    }

    // What the order of calls does.

    /// A call of a session is given to a worker.
    pub(super) fn given(&mut self, slot: u32, ticket: Ticket, place: usize, after: &mut After) {
        let Some(record) = self.sessions.at(slot) else { return };
        let incarnation = self.seats[place].incarnation;
        let is_here = |life: &Arc<Life>| {
            life.worker.id == worker_id(place) && life.worker.incarnation == incarnation
        };
        if !record.life.as_ref().is_some_and(is_here) {
            if record.tag.is_strict() {
                self.bind_by(slot, ticket, place);
            } else {
                let moved = u64::from(record.life.is_some());
                record.moves += moved;
                record.life.clone_from(&self.seats[place].life);
                self.counters.sessions_moved += moved;
            }
        }
        self.move_in(slot, place, after);
    }

    /// The first call of a session is given to a worker: what else waits of it waits there.
    fn bind_by(&mut self, slot: u32, first: Ticket, place: usize) {
        let Some(record) = self.sessions.at(slot) else { return };
        record.waiting.remove(&first);
        let waiting = std::mem::take(&mut record.waiting);
        let is_impatient = record.tag.options.affinity == Affinity::FailFast;
        self.bind(slot, place);
        let pinned = &mut self.seats[place].pinned;
        self.pinned += self.ledger.merge(&waiting, &mut self.waiting, pinned, At::Pinned(place));
        for &ticket in &waiting {
            if self.ledger.call(ticket).is_some_and(|call| call.chain.depth > 0) {
                self.chain_waits(ticket);
            }
        }
        if is_impatient {
            self.impatient.extend(waiting);
        }
    }

    /// The place of the worker that a session prefers.
    pub(super) fn prefers(&self, slot: u32) -> Option<usize> {
        let life = self.sessions.peek(slot)?.life.as_ref()?;
        self.seat_of(life).ok()
    }

    /// Whether a call is refused if it cannot begin at once.
    pub(super) fn is_impatient(&self, ticket: Ticket) -> bool {
        let record = self.ledger.session(ticket).and_then(|slot| self.sessions.peek(slot));
        record.is_some_and(|record| record.tag.options.affinity == Affinity::FailFast)
    }

    /// Calls that do not wait and were not given out fail; whether there were some.
    pub(super) fn refuse_impatient(&mut self, now: Instant, after: &mut After) -> bool {
        let some = !self.impatient.is_empty();
        for ticket in std::mem::take(&mut self.impatient) {
            let Some(At::Pinned(place)) = self.ledger.find(ticket) else { continue };
            self.pinned -= 1;
            let call = self.ledger.remove(ticket, &mut self.seats[place].pinned);
            self.fail(call, CallError::WorkerBusy { worker: worker_id(place) }, after);
            self.rest(place, now, after);
        }
        some
    }

    /// Calls of sessions are over.
    pub(super) fn close_books(&mut self, now: Instant, after: &mut After) {
        while let Some((slot, ticket)) = self.ledger.next_over() {
            let Some(record) = self.sessions.at(slot) else { continue };
            record.open -= 1;
            record.waiting.remove(&ticket);
            if record.open > 0 {
                continue;
            }
            if record.leaving {
                self.depart(slot, now, after);
            } else {
                self.sessions.touch(slot, now);
                self.arm_expiry(after);
            }
        }
    }

    // What workers and time do.

    /// The sessions of an incarnation are lost, and what they wait for.
    pub(super) fn lose_sessions(
        &mut self,
        place: usize,
        cause: &Death,
        lost: &CallError,
        after: &mut After,
    ) {
        let seat = &mut self.seats[place];
        seat.homes = 0;
        seat.news.clear();
        if let Some(life) = seat.life.take() {
            let lost = self.lose_bound(place, &life, cause);
            match cause {
                Death::Killed(KillReason::Recycled) => self.counters.sessions_recycled += lost,
                _ => self.counters.sessions_lost += lost,
            }
            life.end(cause.clone());
        }
        while let Some(first) = self.ledger.first(&self.seats[place].pinned) {
            self.pinned -= 1;
            let call = self.ledger.remove(first, &mut self.seats[place].pinned);
            self.fail(call, lost.clone(), after);
        }
    }

    /// The sessions that are bound to a worker are lost.
    fn lose_bound(&mut self, place: usize, life: &Life, cause: &Death) -> u64 {
        let bound = std::mem::take(&mut self.seats[place].bound);
        let mut lost = 0;
        for slot in bound {
            let Some(record) = self.sessions.at(slot) else { continue };
            // One that was closed is not lost.
            lost += u64::from(record.tag.end().is_none());
            record.tag.finish(SessionEnd::Lost { worker: life.worker, cause: cause.clone() });
            record.life = None;
        }
        lost
    }

    /// Sessions that were not used for as long as they live are over; what was lost for so long is
    /// forgotten.
    pub(super) fn expire_sessions(&mut self, now: Instant, after: &mut After) {
        while let Some(slot) = self.sessions.pop_expired(now) {
            let Some(record) = self.sessions.at(slot) else { continue };
            if record.tag.end().is_none() {
                record.tag.finish(SessionEnd::Expired);
                self.counters.sessions_expired += 1;
                tracing::debug!(session = %record.tag.label(), "session expired");
            }
            self.leave(slot, now, after);
        }
    }

    /// The pool stops: sessions that no worker's end will end are over.
    pub(super) fn stop_sessions(&mut self) {
        for record in self.sessions.iter() {
            if record.life.is_none() || !record.tag.is_strict() {
                record.tag.finish(SessionEnd::Closed);
            }
        }
    }

    // Steps of these.

    fn make_session(
        &mut self,
        (space, name): (Space, Option<Arc<str>>),
        options: SessionOptions,
        now: Instant,
        after: &mut After,
    ) -> Result<Arc<Tag>, CallError> {
        if self.sessions.is_full(space).is_some() {
            // Some may be over that nobody has looked at.
            self.expire_sessions(now, after);
        }
        let made = self.sessions.make((space, name), options, now);
        match &made {
            Ok(_) => self.counters.sessions_made += 1,
            Err(_) => self.counters.sessions_refused += 1,
        }
        self.arm_expiry(after);
        made
    }

    fn arm_expiry(&mut self, after: &mut After) {
        if let Some(at) = self.sessions.next_expiry() {
            self.arm(at, after);
        }
    }

    /// From now on its calls go to this worker.
    fn bind(&mut self, slot: u32, place: usize) {
        let seat = &mut self.seats[place];
        if let Some(record) = self.sessions.at(slot) {
            record.life.clone_from(&seat.life);
            seat.bound.insert(slot);
        }
    }

    /// The worker will have calls of it, and so may have state.
    fn move_in(&mut self, slot: u32, place: usize, after: &mut After) {
        let home = (place, self.seats[place].incarnation);
        let Some(record) = self.sessions.at(slot) else { return };
        if record.homes.contains(&home) {
            return;
        }
        // No more than one for each place.
        record.homes.retain(|(old, _)| *old != place);
        record.homes.push(home);
        let seat = &mut self.seats[place];
        seat.homes += 1;
        if let Some(name) = record.tag.name.clone()
            && seat.hears_of_sessions
        {
            seat.news.push(SessionNews::Named { id: record.tag.id, name });
            after.ring(place);
        }
    }

    /// Nobody finds it any more; it is gone when no call of it is open.
    fn leave(&mut self, slot: u32, now: Instant, after: &mut After) {
        self.sessions.unname(slot);
        let Some(record) = self.sessions.at(slot) else { return };
        record.leaving = true;
        if record.open == 0 {
            self.depart(slot, now, after);
        }
    }

    /// Forgets a session, and has its workers do so.
    fn depart(&mut self, slot: u32, now: Instant, after: &mut After) {
        let Some(record) = self.sessions.remove(slot) else { return };
        let reason = record.tag.end().map_or("closed", SessionEnd::as_str);
        for (place, incarnation) in record.homes {
            let seat = &mut self.seats[place];
            if seat.incarnation != incarnation || seat.life.is_none() {
                continue;
            }
            seat.homes -= 1;
            if seat.hears_of_sessions {
                seat.news.push(SessionNews::Ended { id: record.tag.id, reason });
                after.ring(place);
            }
        }
        let Some(place) = record.life.and_then(|life| usize::try_from(life.worker.id.0).ok())
        else {
            return;
        };
        if self.seats[place].bound.remove(&slot) {
            self.rest(place, now, after);
        }
    }
}

#[cfg(test)]
impl Dispatcher {
    /// Every session.
    pub(super) fn session_infos(&self, now: Instant) -> Vec<SessionInfo> {
        let (mut infos, mut from) = (Vec::new(), Some(0));
        while let Some(slot) = from {
            let seen;
            (seen, from) = self.look_at_sessions(slot, now);
            infos.extend(seen.into_iter().map(SeenSession::info));
        }
        infos
    }
}
