//! Where every open call is: one entry per call, each in exactly one list.
//!
//! The entries lie in one vector and are linked through their places in it, so that every operation
//! takes the same few steps with one call waiting as with a hundred thousand: to the end of a list,
//! off its front, and out of its middle by [`Ticket`]. Two things are put between others: a call that
//! comes back from a dead worker walks past those that came back before it, and the calls that waited
//! for their session to be bound walk past those that are bound to the same worker, once.
//!
//! It cannot fail. Tested below, where steps are counted, and by the model test of the dispatcher.

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::call::Call;

/// The end of a list.
const NONE: u32 = u32::MAX;

/// Names an open call. What is over has no entry, and a ticket of it finds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket {
    /// Calls are numbered from 1 in the order in which they were accepted.
    pub(crate) id: u64,
    entry: u32,
}

/// Which list a call is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Any worker may run it.
    Waiting,
    /// It waits for the worker that its session is bound to.
    Pinned(usize),
    /// It is given to a worker whose connection has not taken it yet.
    Outbox(usize),
    /// The worker's connection has it; here is only its entry.
    Given(usize),
}

/// A list of calls, in order.
#[derive(Debug)]
pub(crate) struct List {
    first: u32,
    last: u32,
    len: usize,
}

/// Every open call.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: Vec<Entry>,
    /// Entries without a call.
    free: Vec<u32>,
    /// Calls of sessions that are over, for whoever counts them.
    over: Vec<(u32, Ticket)>,
    #[cfg(test)]
    pub(super) steps: u64,
}

#[derive(Debug)]
struct Entry {
    /// 0 is no call.
    id: u64,
    at: At,
    call: Option<Call>,
    is_stream: bool,
    /// The slot of its session.
    session: Option<u32>,
    /// It runs at once where it is given, or not at all: a stream, or a call out of a callback.
    at_once: bool,
    is_nested: bool,
    cancelled: bool,
    accepted: Instant,
    before: u32,
    behind: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { first: NONE, last: NONE, len: 0 }
    }
}

impl List {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Ledger {
    /// Enters a call at the end of a list. `call.ticket.id` is its number.
    pub(crate) fn enter(
        &mut self,
        list: &mut List,
        at: At,
        id: u64,
        mut call: Call,
        now: Instant,
    ) -> Ticket {
        let index = self.free.pop().unwrap_or_else(|| {
            // There are never as many: the queue has a limit far below.
            u32::try_from(self.entries.len()).unwrap_or(NONE)
        });
        let ticket = Ticket { id, entry: index };
        call.ticket = ticket;
        let entry = Entry {
            id,
            at,
            is_stream: call.is_stream(),
            session: call.session.as_ref().map(|tag| tag.slot),
            at_once: call.is_stream() || call.chain.depth > 0,
            is_nested: false,
            call: Some(call),
            cancelled: false,
            accepted: now,
            before: NONE,
            behind: NONE,
        };
        match self.entries.get_mut(index as usize) {
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
        self.link(list, index, list.last, NONE);
        ticket
    }

    /// Where an open call is.
    pub(crate) fn find(&self, ticket: Ticket) -> Option<At> {
        let entry = self.entries.get(ticket.entry as usize)?;
        (entry.id == ticket.id && ticket.id != 0).then_some(entry.at)
    }

    /// The first of a list.
    pub(crate) fn first(&self, list: &List) -> Option<Ticket> {
        self.ticket(list.first)
    }

    /// Its call, unless a connection has it.
    pub(crate) fn call(&self, ticket: Ticket) -> Option<&Call> {
        self.find(ticket)?;
        self.entries[ticket.entry as usize].call.as_ref()
    }

    /// Sets the tool's number at the worker that the call is given to.
    pub(crate) fn number(&mut self, ticket: Ticket, number: u16) {
        if self.find(ticket).is_some()
            && let Some(call) = &mut self.entries[ticket.entry as usize].call
        {
            call.number = number;
        }
    }

    pub(crate) fn is_stream(&self, ticket: Ticket) -> bool {
        self.find(ticket).is_some() && self.entries[ticket.entry as usize].is_stream
    }

    /// The slot of its session, if it is of one.
    pub(crate) fn session(&self, ticket: Ticket) -> Option<u32> {
        self.find(ticket)?;
        self.entries[ticket.entry as usize].session
    }

    /// Whether it is given only to a worker that runs it at once.
    pub(crate) fn runs_at_once(&self, ticket: Ticket) -> bool {
        self.find(ticket).is_some() && self.entries[ticket.entry as usize].at_once
    }

    /// Notes whether it is given to a worker in the middle of another call.
    pub(crate) fn nest(&mut self, ticket: Ticket, is_nested: bool) {
        if self.find(ticket).is_some() {
            let entry = &mut self.entries[ticket.entry as usize];
            entry.is_nested = is_nested;
            if let Some(call) = &mut entry.call {
                call.chain.is_nested = is_nested;
            }
        }
    }

    pub(crate) fn is_nested(&self, ticket: Ticket) -> bool {
        self.find(ticket).is_some() && self.entries[ticket.entry as usize].is_nested
    }

    /// When it was accepted.
    pub(crate) fn accepted(&self, ticket: Ticket) -> Option<Instant> {
        self.find(ticket).map(|_| self.entries[ticket.entry as usize].accepted)
    }

    /// Notes that its caller is gone.
    pub(crate) fn cancelled(&mut self, ticket: Ticket) {
        if self.find(ticket).is_some() {
            self.entries[ticket.entry as usize].cancelled = true;
        }
    }

    /// Whether its caller is known to be gone.
    pub(crate) fn is_cancelled(&self, ticket: Ticket) -> bool {
        self.find(ticket).is_some() && self.entries[ticket.entry as usize].cancelled
    }

    /// Moves a call from one list to the end of another.
    pub(crate) fn shift(&mut self, ticket: Ticket, from: &mut List, to: &mut List, at: At) {
        if self.find(ticket).is_none() {
            return;
        }
        self.unlink(from, ticket.entry);
        self.entries[ticket.entry as usize].at = at;
        self.link(to, ticket.entry, to.last, NONE);
    }

    /// Moves calls, in the order of their numbers, from one list to where they belong in another. How
    /// many: some may be over.
    pub(crate) fn merge(
        &mut self,
        tickets: &BTreeSet<Ticket>,
        from: &mut List,
        to: &mut List,
        at: At,
    ) -> usize {
        let (mut before, mut behind) = (NONE, to.first);
        let mut moved = 0;
        for &ticket in tickets {
            if self.find(ticket).is_none() {
                continue;
            }
            moved += 1;
            self.unlink(from, ticket.entry);
            while behind != NONE && self.entries[behind as usize].id < ticket.id {
                self.count_step();
                (before, behind) = (behind, self.entries[behind as usize].behind);
            }
            self.entries[ticket.entry as usize].at = at;
            self.link(to, ticket.entry, before, behind);
            before = ticket.entry;
        }
        moved
    }

    /// Puts a call back among those that wait there, by its number.
    pub(crate) fn give_back(&mut self, call: Call, at: At, from: &mut List, waiting: &mut List) {
        let ticket = call.ticket;
        if self.find(ticket).is_none() {
            return;
        }
        self.unlink(from, ticket.entry);
        let (mut before, mut behind) = (NONE, waiting.first);
        while behind != NONE && self.entries[behind as usize].id < ticket.id {
            self.count_step();
            (before, behind) = (behind, self.entries[behind as usize].behind);
        }
        let entry = &mut self.entries[ticket.entry as usize];
        entry.at = at;
        entry.call = Some(call);
        self.link(waiting, ticket.entry, before, behind);
    }

    /// Takes the call out of its entry, which stays: the connection has it now.
    pub(crate) fn lend(&mut self, ticket: Ticket) -> Option<Call> {
        self.find(ticket)?;
        self.entries[ticket.entry as usize].call.take()
    }

    /// Takes a call out for good. The call is `None` if a connection has it.
    pub(crate) fn remove(&mut self, ticket: Ticket, list: &mut List) -> Option<Call> {
        self.find(ticket)?;
        self.unlink(list, ticket.entry);
        let entry = &mut self.entries[ticket.entry as usize];
        entry.id = 0;
        self.free.push(ticket.entry);
        self.over.extend(entry.session.map(|session| (session, ticket)));
        entry.call.take()
    }

    /// Whether there are calls of sessions that are over.
    pub(crate) const fn has_over(&self) -> bool {
        !self.over.is_empty()
    }

    /// One of them, with the slot of its session.
    pub(crate) fn next_over(&mut self) -> Option<(u32, Ticket)> {
        self.over.pop()
    }

    /// How many calls are open.
    #[cfg(test)]
    pub(crate) fn open(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// The calls of a list, in order.
    #[cfg(test)]
    pub(crate) fn iter<'a>(&'a self, list: &List) -> impl Iterator<Item = Ticket> + 'a {
        std::iter::successors(self.ticket(list.first), |ticket| {
            self.ticket(self.entries[ticket.entry as usize].behind)
        })
    }

    fn ticket(&self, index: u32) -> Option<Ticket> {
        let entry = self.entries.get(index as usize)?;
        Some(Ticket { id: entry.id, entry: index })
    }

    fn link(&mut self, list: &mut List, index: u32, before: u32, behind: u32) {
        self.count_step();
        let entry = &mut self.entries[index as usize];
        (entry.before, entry.behind) = (before, behind);
        match before {
            NONE => list.first = index,
            before => self.entries[before as usize].behind = index,
        }
        match behind {
            NONE => list.last = index,
            behind => self.entries[behind as usize].before = index,
        }
        list.len += 1;
    }

    fn unlink(&mut self, list: &mut List, index: u32) {
        self.count_step();
        let Entry { before, behind, .. } = self.entries[index as usize];
        match before {
            NONE => list.first = behind,
            before => self.entries[before as usize].behind = behind,
        }
        match behind {
            NONE => list.last = before,
            behind => self.entries[behind as usize].before = before,
        }
        list.len -= 1;
    }

    #[cfg(test)]
    fn count_step(&mut self) {
        self.steps += 1;
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests count here")]
    const fn count_step(&mut self) {}
}
