//! Who may start next, by count and by bytes: a pure first-in first-out queue.

use std::collections::BTreeMap;

/// What may be in flight at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Holders; at least 1.
    pub(crate) count: usize,
    /// Sum of their bytes; at least 1.
    pub(crate) bytes: u64,
    /// How many times its size a request is charged; at least 1.
    pub(crate) scale: u64,
}

/// What one holder has been charged, and gives back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    bytes: u64,
}

/// Place of a waiter in the queue.
pub(crate) type Ticket = u64;

/// Admission at the head of one queue, under the limits of the moment.
///
/// A request is charged all-or-nothing: a count and its bytes together, so nobody holds one while
/// waiting for the other. One that is larger than the whole byte limit is charged the whole limit
/// and so runs alone, instead of never. `W` is what stands for a waiter outside.
#[derive(Debug)]
pub(crate) struct Admission<W> {
    limits: Limits,
    count: usize,
    bytes: u64,
    next: Ticket,
    queue: BTreeMap<Ticket, (u64, W)>,
}

impl<W> Admission<W> {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self { limits, count: 0, bytes: 0, next: 0, queue: BTreeMap::new() }
    }

    /// Charges a request at once if nobody waits and it fits.
    pub(crate) fn try_admit(&mut self, bytes: u64) -> Option<Charge> {
        if self.queue.is_empty() { self.charge(bytes) } else { None }
    }

    /// Puts a request at the end of the queue.
    pub(crate) fn enqueue(&mut self, bytes: u64, waiter: W) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        self.queue.insert(ticket, (bytes, waiter));
        ticket
    }

    /// Admits the head of the queue if it fits now.
    pub(crate) fn next(&mut self) -> Option<(W, Charge)> {
        let (&ticket, &(bytes, _)) = self.queue.first_key_value()?;
        let charge = self.charge(bytes)?;
        self.queue.remove(&ticket).map(|(_, waiter)| (waiter, charge))
    }

    /// Takes a waiter out of the queue; its place may have blocked others.
    pub(crate) fn cancel(&mut self, ticket: Ticket) -> Option<W> {
        self.queue.remove(&ticket).map(|(_, waiter)| waiter)
    }

    /// Takes back what a holder was charged.
    pub(crate) fn release(&mut self, charge: &Charge) {
        self.count -= 1;
        self.bytes -= charge.bytes;
    }

    /// New limits. What is in flight stays; admission waits until it fits.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub(crate) const fn in_flight(&self) -> (usize, u64) {
        (self.count, self.bytes)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    fn charge(&mut self, bytes: u64) -> Option<Charge> {
        let bytes = bytes.saturating_mul(self.limits.scale).min(self.limits.bytes);
        let fits = self.count < self.limits.count
            && self.bytes.checked_add(bytes).is_some_and(|sum| sum <= self.limits.bytes);
        fits.then(|| {
            self.count += 1;
            self.bytes += bytes;
            Charge { bytes }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Ask(u64),
        Release(usize),
        Cancel(usize),
        Limit(usize, u64, u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0u64..30).prop_map(Op::Ask),
            3 => any::<usize>().prop_map(Op::Release),
            1 => any::<usize>().prop_map(Op::Cancel),
            1 => (1usize..5, 1u64..20, 1u64..4)
                .prop_map(|(count, bytes, scale)| Op::Limit(count, bytes, scale)),
        ]
    }

    proptest! {
        /// Against a list: never over the limits (but for one oversized request alone), first in
        /// first out, and never idle while the head fits.
        #[test]
        fn agrees_with_a_list(ops in prop::collection::vec(op(), 0..200)) {
            let mut limits = Limits { count: 3, bytes: 10, scale: 1 };
            let mut core: Admission<u64> = Admission::new(limits);
            let mut waiting: VecDeque<(u64, u64)> = VecDeque::new();
            let mut holding: Vec<(u64, Charge)> = Vec::new();
            for (id, op) in (0u64..).zip(ops) {
                match op {
                    Op::Ask(bytes) => match core.try_admit(bytes) {
                        Some(charge) => {
                            prop_assert!(waiting.is_empty(), "nobody overtakes the queue");
                            holding.push((bytes, charge));
                        }
                        None => {
                            core.enqueue(bytes, id);
                            waiting.push_back((id, bytes));
                        }
                    },
                    Op::Release(n) if !holding.is_empty() => {
                        let (_, charge) = holding.remove(n % holding.len());
                        core.release(&charge);
                    }
                    Op::Cancel(n) if !waiting.is_empty() => {
                        let n = n % waiting.len();
                        let ticket = *core.queue.keys().nth(n).unwrap();
                        prop_assert_eq!(core.cancel(ticket), waiting.remove(n).map(|(id, _)| id));
                    }
                    Op::Release(_) | Op::Cancel(_) => {}
                    Op::Limit(count, bytes, scale) => {
                        limits = Limits { count, bytes, scale };
                        core.set_limits(limits);
                    }
                }
                while let Some((admitted, charge)) = core.next() {
                    let (id, bytes) = waiting.pop_front().unwrap();
                    prop_assert_eq!(admitted, id);
                    holding.push((bytes, charge));
                    prop_assert!(holding.len() <= limits.count);
                    let sum: u64 = holding.iter().map(|(_, charge)| charge.bytes).sum();
                    prop_assert!(sum <= limits.bytes);
                }
                let used: u64 = holding.iter().map(|(_, charge)| charge.bytes).sum();
                prop_assert_eq!(core.in_flight(), (holding.len(), used));
                if let Some((_, bytes)) = waiting.front() {
                    let fits = holding.len() < limits.count
                        && used + (bytes * limits.scale).min(limits.bytes) <= limits.bytes;
                    prop_assert!(!fits, "the head fits and waits");
                }
            }
        }
    }
}
