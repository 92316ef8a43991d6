//! Every session of a pool: found by name or by handle in one step, and when each expires.
//!
//! A record lives as long as its session is known: one that was lost stays, as lost, until it is
//! closed, re-created or expires; one that was closed stays while calls of it are open. When sessions
//! expire is in one ordered set with at most one entry each. A use only notes its time: the entry is
//! moved when its time comes and the session was used since, so that a session costs the timer one
//! look per time to live, however often it is used.
//!
//! Names are found in spaces: one is the host's own, the others belong to whoever calls through a door
//! of the host, each with a quota beside that of the pool. Sessions without a name are the host's.
//!
//! It cannot fail but by its quotas. Tested in `session_rules.rs` and by the model test of the dispatcher.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use snakehouse_base::id::Incarnation;
use tokio::time::Instant;

use crate::call::CallError;
use crate::session::{SessionLimits, SessionOptions, Space, Tag};
use crate::worker::Life;

use super::ledger::Ticket;

/// What the pool knows of a session.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) tag: Arc<Tag>,
    /// The life that it is bound to, or prefers.
    pub(super) life: Option<Arc<Life>>,
    /// Lives of workers that may have state of it, the dead ones of which mean nothing.
    pub(super) homes: Vec<(usize, Incarnation)>,
    /// Its calls that wait for any worker, of a session that will be bound by the first of them.
    pub(super) waiting: BTreeSet<Ticket>,
    /// Its calls that are not over.
    pub(super) open: usize,
    /// Its calls so far.
    pub(super) calls: u64,
    /// How often it changed its worker.
    pub(super) moves: u64,
    /// Nobody finds it any more: it goes with its last call.
    pub(super) leaving: bool,
    /// The last use.
    used: Instant,
    /// Its entry among the timers.
    timer: Option<Instant>,
}

/// Every session.
#[derive(Debug)]
pub(super) struct Sessions {
    limits: SessionLimits,
    records: Vec<Option<Record>>,
    /// Slots without a record.
    free: Vec<u32>,
    /// The first is the host's.
    spaces: Vec<Names>,
    timers: BTreeSet<(Instant, u32)>,
    /// Sessions so far.
    made: u64,
    /// Whether it was said that there are many.
    warned: bool,
}

/// The names of one space.
#[derive(Debug)]
struct Names {
    found: HashMap<Arc<str>, u32>,
    /// Sessions of the space, those included that nobody finds any more.
    len: usize,
    /// How many there may be.
    most: usize,
    /// Whether somebody has it.
    taken: bool,
}

impl Names {
    fn new(most: usize) -> Self {
        Self { found: HashMap::new(), len: 0, most, taken: true }
    }
}

impl Record {
    /// When it expires if it is not used; `None` is never.
    pub(super) fn expires(&self, limits: &SessionLimits) -> Option<Instant> {
        self.used.checked_add(self.tag.options.ttl.unwrap_or(limits.ttl))
    }

    /// Since its last use.
    pub(super) fn idle(&self, now: Instant) -> Duration {
        match self.open {
            0 => now.saturating_duration_since(self.used),
            _ => Duration::ZERO,
        }
    }
}

impl Sessions {
    pub(super) fn new(limits: SessionLimits) -> Self {
        Self {
            limits,
            records: Vec::new(),
            free: Vec::new(),
            spaces: vec![Names::new(limits.most)],
            timers: BTreeSet::new(),
            made: 0,
            warned: false,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.records.len() - self.free.len()
    }

    pub(super) const fn limits(&self) -> &SessionLimits {
        &self.limits
    }

    /// The slot of the session that this name finds in a space.
    pub(super) fn named(&self, space: Space, name: &str) -> Option<u32> {
        self.spaces.get(space.0 as usize)?.found.get(name).copied()
    }

    /// A space of its own for names, with at most so many sessions.
    pub(super) fn add_space(&mut self, most: usize) -> Space {
        let unused = self.spaces.iter().position(|space| !space.taken && space.len == 0);
        let at = unused.unwrap_or(self.spaces.len());
        match self.spaces.get_mut(at) {
            Some(space) => *space = Names::new(most),
            None => self.spaces.push(Names::new(most)),
        }
        // There are never as many: each belongs to a server of the host.
        Space(u32::try_from(at).unwrap_or(u32::MAX))
    }

    /// Nobody has the space any more; the sessions that were in it.
    pub(super) fn drop_space(&mut self, space: Space) -> Vec<Arc<Tag>> {
        if let Some(names) = self.spaces.get_mut(space.0 as usize) {
            (names.taken, names.most) = (false, 0);
        }
        let tags = self.iter().map(|record| &record.tag);
        tags.filter(|tag| tag.space == space).cloned().collect()
    }

    /// Whether another session would be over a quota, and which.
    pub(super) fn is_full(&self, space: Space) -> Option<usize> {
        let limit = self.limits.most;
        if self.len() >= limit {
            return Some(limit);
        }
        let names = self.spaces.get(space.0 as usize)?;
        (names.len >= names.most).then_some(names.most)
    }

    /// What is in a slot.
    pub(super) fn peek(&self, slot: u32) -> Option<&Record> {
        self.records.get(slot as usize)?.as_ref()
    }

    /// What is in a slot, to change it.
    pub(super) fn at(&mut self, slot: u32) -> Option<&mut Record> {
        self.records.get_mut(slot as usize)?.as_mut()
    }

    /// The record of a session, if there still is one.
    pub(super) fn of(&mut self, tag: &Tag) -> Option<&mut Record> {
        self.at(tag.slot).filter(|record| record.tag.id == tag.id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().flatten()
    }

    /// Those in the next so many slots, and the slot behind them if there is one.
    pub(super) fn some(
        &self,
        from: u32,
        count: usize,
    ) -> (impl Iterator<Item = &Record>, Option<u32>) {
        let (from, all) = (from as usize, &self.records);
        let end = all.len().min(from.saturating_add(count));
        let next = (end < all.len()).then(|| u32::try_from(end).unwrap_or(u32::MAX));
        (all[from.min(end)..end].iter().flatten(), next)
    }

    /// Makes a session, which a name finds if it has one.
    pub(super) fn make(
        &mut self,
        (space, name): (Space, Option<Arc<str>>),
        options: SessionOptions,
        now: Instant,
    ) -> Result<Arc<Tag>, CallError> {
        if let Some(limit) = self.is_full(space) {
            return Err(CallError::SessionQuota { limit });
        }
        let limit = self.limits.most;
        self.made += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.records.push(None);
            // There are never as many: the quota is far below.
            u32::try_from(self.records.len() - 1).unwrap_or(u32::MAX)
        });
        let tag = Tag::new(self.made, slot, (space, name.clone()), options);
        self.records[slot as usize] = Some(Record {
            tag: tag.clone(),
            life: None,
            homes: Vec::new(),
            waiting: BTreeSet::new(),
            open: 0,
            calls: 0,
            moves: 0,
            leaving: false,
            used: now,
            timer: None,
        });
        if let Some(names) = self.spaces.get_mut(space.0 as usize) {
            names.len += 1;
            names.found.extend(name.map(|name| (name, slot)));
        }
        self.set_timer(slot);
        if !self.warned && self.len() * 5 >= limit * 4 {
            self.warned = true;
            tracing::warn!(
                sessions = self.len(),
                limit,
                "many sessions: soon new ones are refused"
            );
        }
        Ok(tag)
    }

    /// Notes a use.
    pub(super) fn touch(&mut self, slot: u32, now: Instant) {
        if let Some(record) = self.at(slot) {
            record.used = now;
        }
        self.set_timer(slot);
    }

    /// Nobody finds it by its name any more.
    pub(super) fn unname(&mut self, slot: u32) {
        if let Some(record) = self.at(slot)
            && let tag = record.tag.clone()
            && let Some(name) = tag.name.as_deref()
            && self.named(tag.space, name) == Some(slot)
            && let Some(names) = self.spaces.get_mut(tag.space.0 as usize)
        {
            names.found.remove(name);
        }
    }

    /// Forgets a session.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Record> {
        self.unname(slot);
        let record = self.records.get_mut(slot as usize)?.take()?;
        if let Some(at) = record.timer {
            self.timers.remove(&(at, slot));
        }
        if let Some(names) = self.spaces.get_mut(record.tag.space.0 as usize) {
            names.len -= 1;
        }
        self.free.push(slot);
        if self.len() * 10 < self.limits.most * 7 {
            self.warned = false;
        }
        Some(record)
    }

    /// When a session may expire.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A session that has expired. Those that were used since are looked at again in time; those with
    /// open calls when the last is over.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<u32> {
        while let Some(&(at, slot)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, slot));
            let limits = self.limits;
            let Some(record) = self.at(slot) else { continue };
            record.timer = None;
            if record.open > 0 {
                continue;
            }
            if record.expires(&limits).is_some_and(|at| at <= now) {
                return Some(slot);
            }
            self.set_timer(slot);
        }
        None
    }

    /// Has the session looked at, unless it is going to be.
    fn set_timer(&mut self, slot: u32) {
        let limits = self.limits;
        let Some(record) = self.at(slot) else { return };
        if record.timer.is_none()
            && let Some(at) = record.expires(&limits)
        {
            record.timer = Some(at);
            self.timers.insert((at, slot));
        }
    }

    /// Names the first rule that does not hold.
    #[cfg(test)]
    pub(super) fn check(&self) -> Result<(), String> {
        let holds = |what: &str, holds: bool| match holds {
            true => Ok(()),
            false => Err(format!("{what}: {self:?}")),
        };
        holds("there are no more than may be", self.len() <= self.limits.most)?;
        let timers = self.iter().filter(|record| record.timer.is_some()).count();
        holds("timers are of sessions", timers == self.timers.len())?;
        for record in self.iter() {
            let slot = record.tag.slot;
            let timer = record.timer.is_none_or(|at| self.timers.contains(&(at, slot)));
            holds("a timer is where its session says", timer)?;
            let mortal = record.expires(&self.limits).is_some();
            let looked_at = record.timer.is_some() || record.open > 0 || !mortal;
            holds("who can expire is looked at", looked_at)?;
            let early = record.timer.zip(record.expires(&self.limits));
            holds("nobody is looked at too late", early.is_none_or(|(timer, at)| timer <= at))?;
        }
        for (at, names) in self.spaces.iter().enumerate() {
            let is_its = |tag: &Tag| tag.space.0 as usize == at;
            let named = names.found.iter().all(|(name, slot)| {
                let record = self.records[*slot as usize].as_ref();
                let is_its = |record: &Record| is_its(&record.tag) && !record.leaving;
                record
                    .is_some_and(|record| record.tag.name.as_ref() == Some(name) && is_its(record))
            });
            holds("a name finds its session", named)?;
            let len = self.iter().filter(|record| is_its(&record.tag)).count();
            holds("a space counts its sessions", len == names.len)?;
        }
        Ok(())
    }
}
