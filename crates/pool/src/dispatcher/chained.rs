//! Calls of chains that wait, by what they wait for: found, oldest first, without a look at the others.
//!
//! A call leaves its place in the queue in many ways, and none of them tells a set that it is in. So a
//! set may hold calls that wait no more; they are dropped when they come to the front, and all at once
//! when they may be more than half of it: each entry is looked at a bounded number of times.

use std::collections::BTreeSet;

use super::ledger::Ticket;

/// Below this nothing is tidied up.
const FEW: usize = 64;

/// Calls of chains, and perhaps some that wait no more.
#[derive(Debug, Default)]
pub(super) struct Chained {
    tickets: BTreeSet<Ticket>,
    /// At this length it is tidied up.
    tidy_at: usize,
    #[cfg(test)]
    pub(super) steps: u64,
}

impl Chained {
    /// Adds a call that waits. `waits` says which still do.
    pub(super) fn insert(&mut self, ticket: Ticket, waits: impl Fn(Ticket) -> bool) {
        if self.tickets.len() >= self.tidy_at.max(FEW) {
            self.count(self.tickets.len());
            self.tickets.retain(|ticket| waits(*ticket));
            self.tidy_at = 2 * self.tickets.len();
        }
        self.count(1);
        self.tickets.insert(ticket);
    }

    /// The oldest one that waits.
    pub(super) fn first(&mut self, waits: impl Fn(Ticket) -> bool) -> Option<Ticket> {
        loop {
            self.count(1);
            let first = *self.tickets.first()?;
            if waits(first) {
                return Some(first);
            }
            self.tickets.pop_first();
        }
    }

    /// Whether none is there.
    pub(super) fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// None of them waits here any more.
    pub(super) fn clear(&mut self) {
        self.tickets.clear();
    }

    /// How many are there, those that wait no more included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.tickets.len()
    }

    /// Whether a call is there.
    #[cfg(test)]
    pub(super) fn contains(&self, ticket: Ticket) -> bool {
        self.tickets.contains(&ticket)
    }

    #[cfg(test)]
    fn count(&mut self, steps: usize) {
        self.steps += steps as u64;
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests count here")]
    const fn count(&mut self, _steps: usize) {}
}
