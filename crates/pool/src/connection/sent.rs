//! The calls that a worker has: found by their number in one step, whatever came before.
//!
//! Owns them from the moment they are written to the answer, or to the worker's death. Numbers go
//! round after `u32::MAX`; the order of sending does not. Nothing here waits or fails; tested below.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use snakehouse_wire::buffer::SharedBuffer;
use tokio::time::Instant;

use crate::call::Call;
use crate::dispatcher::Ticket;

/// A worker never has more calls that wait for their start; see the protocol.
pub(super) const MAX_UNSTARTED: u32 = 4096;

/// A call that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    /// Its number on the connection.
    pub(super) stream: u32,
    /// How many were sent before it.
    order: u64,
    pub(super) ticket: Ticket,
    /// It was sent to be run in the middle of another one.
    pub(super) is_nested: bool,
    /// `None` once the caller is gone.
    pub(super) call: Option<Call>,
    /// Of a stream.
    deadline: Option<Instant>,
}

/// Those that are not answered.
#[derive(Debug, Default)]
pub(super) struct SentCalls {
    calls: HashMap<u32, Sent, BuildHasherDefault<NumberHasher>>,
    order: u64,
    newest: u32,
    /// Those that were sent to be run in the middle of others, in that order.
    nested: Vec<u32>,
    /// When streams end whose callers may not look: the others' callers see to that themselves.
    /// Those of streams that have a caller, and no others.
    deadlines: BTreeSet<(Instant, u32)>,
}

impl SentCalls {
    /// The number of the next call.
    pub(super) fn next(&self) -> u32 {
        // 0 is the connection itself; and one that is not answered keeps its number.
        let mut stream = self.newest;
        loop {
            stream = stream.checked_add(1).unwrap_or(1);
            if !self.calls.contains_key(&stream) {
                break;
            }
        }
        stream
    }

    /// Takes a call with the next number.
    pub(super) fn add(&mut self, stream: u32, call: Call) {
        self.newest = stream;
        self.order += 1;
        let deadline = call.options.deadline.instant().filter(|_| call.is_stream());
        let deadline = deadline.map(Instant::from);
        self.deadlines.extend(deadline.map(|at| (at, stream)));
        let (order, ticket, is_nested) = (self.order, call.ticket, call.chain.is_nested);
        if is_nested {
            self.nested.push(stream);
        }
        let sent = Sent { stream, order, ticket, is_nested, call: Some(call), deadline };
        self.calls.insert(stream, sent);
    }

    pub(super) fn get(&self, stream: u32) -> Option<&Sent> {
        self.calls.get(&stream)
    }

    /// The number of the call that the pool knows by this ticket. Looks at every one: cancels are
    /// rare.
    pub(super) fn by_ticket(&self, ticket: Ticket) -> Option<u32> {
        self.calls.values().find(|sent| sent.ticket == ticket).map(|sent| sent.stream)
    }

    /// The caller is gone: takes the call, unless that was done before.
    pub(super) fn take_call(&mut self, stream: u32) -> Option<Call> {
        let sent = self.calls.get_mut(&stream)?;
        if let Some(at) = sent.deadline.take() {
            self.deadlines.remove(&(at, stream));
        }
        sent.call.take()
    }

    pub(super) fn remove(&mut self, stream: u32) -> Option<Sent> {
        let sent = self.calls.remove(&stream)?;
        if let Some(at) = sent.deadline {
            self.deadlines.remove(&(at, stream));
        }
        if sent.is_nested {
            self.nested.retain(|nested| *nested != stream);
        }
        Some(sent)
    }

    /// The nested ones that are not answered, in the order in which they were sent.
    pub(super) fn nested(&self) -> &[u32] {
        &self.nested
    }

    /// When the next stream ends by itself, and which.
    pub(super) fn next_deadline(&self) -> Option<(Instant, u32)> {
        self.deadlines.first().copied()
    }

    /// The shared buffers that calls name whose callers still wait.
    pub(super) fn buffers(&self) -> impl Iterator<Item = &SharedBuffer> {
        self.calls.values().filter_map(|sent| sent.call.as_ref()).flat_map(|call| &call.body.shared)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// The one that was sent first.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.calls.values().min_by_key(|sent| sent.order).map(|sent| sent.stream)
    }

    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// All of them, in the order in which they were sent, and whether they had started when `last`
    /// was the one started last; `None` is not known, and counts as yes.
    pub(super) fn take_all(&mut self, last: Option<u32>) -> Vec<(Sent, bool)> {
        self.deadlines.clear();
        self.nested.clear();
        let calls = std::mem::take(&mut self.calls).into_values();
        let started = |sent: &Sent| last.is_none_or(|last| self.is_started(sent, last));
        let mut all: Vec<_> = calls.map(|sent| (started(&sent), sent)).collect();
        all.sort_unstable_by_key(|(_, sent)| sent.order);
        all.into_iter().map(|(started, sent)| (sent, started)).collect()
    }

    /// Whether a call was started when `last` was the one started last; a nested one counts as
    /// started, because it runs in the middle of one that was. Numbers go round after
    /// `u32::MAX`; a call that was followed by more than a worker may have waiting has started,
    /// however long ago.
    pub(super) fn is_started(&self, sent: &Sent, last: u32) -> bool {
        let is_old = self.order - sent.order > u64::from(MAX_UNSTARTED);
        is_old || sent.is_nested || last != 0 && last.wrapping_sub(sent.stream) < u32::MAX / 2
    }

    /// The first of the calls that wait for their start, as its place in the order and its number.
    pub(super) fn first_unstarted(&self, last: u32) -> Option<(u64, u32)> {
        self.waiting(last).map(|sent| (sent.order, sent.stream)).min()
    }

    /// The calls that wait for their start, in their order.
    pub(super) fn unstarted(&self, last: u32) -> Vec<u32> {
        let mut waiting: Vec<_> = self.waiting(last).map(|s| (s.order, s.stream)).collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|(_, stream)| stream).collect()
    }

    fn waiting(&self, last: u32) -> impl Iterator<Item = &Sent> {
        let calls = self.calls.values().filter(|sent| !sent.is_nested);
        calls.filter(move |sent| sent.call.is_some() && !self.is_started(sent, last))
    }

    /// The pool has the call again: its answer is for nobody, and frees no place.
    pub(super) fn take_back(&mut self, stream: u32) -> Option<Call> {
        let call = self.take_call(stream)?;
        if let Some(sent) = self.calls.get_mut(&stream) {
            sent.ticket = Ticket::default();
        }
        Some(call)
    }

    /// Whether the call is open and was sent as this one in order, or later.
    pub(super) fn is_from(&self, stream: u32, order: u64) -> bool {
        self.get(stream).is_some_and(|sent| sent.order >= order)
    }

    /// Whether such a call is open.
    pub(super) fn has_from(&self, order: u64) -> bool {
        self.calls.values().any(|sent| sent.order >= order)
    }
}

/// Numbers that are given out in turn spread well enough by one multiplication.
#[derive(Debug, Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        // The table looks at the lowest and at the highest bits.
        let mixed = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::oneshot;

    use super::*;
    use crate::call::CallOptions;
    use crate::host::chain::Place;

    fn ticket(id: u64) -> Ticket {
        let mut ticket = Ticket::default();
        ticket.id = id;
        ticket
    }

    fn call(id: u64) -> Call {
        let (reply, _) = oneshot::channel();
        Call {
            ticket: ticket(id),
            tool: "t".to_owned(),
            number: 0,
            body: Bytes::new().into(),
            options: CallOptions::default(),
            session: None,
            stream: false,
            deaths: 0,
            chain: Place::default(),
            outer: None,
            reply: reply.into(),
        }
    }

    fn add(sent: &mut SentCalls, call: Call) -> u32 {
        let stream = sent.next();
        sent.add(stream, call);
        stream
    }

    #[test]
    fn calls_up_to_the_last_started_are_started() {
        let is_started = |newest, last| {
            let mut sent = SentCalls { newest, ..SentCalls::default() };
            let stream = add(&mut sent, call(1));
            sent.is_started(sent.get(stream).unwrap(), last)
        };
        assert!(!is_started(0, 0));
        assert!(is_started(0, 1));
        assert!(is_started(0, 64));
        assert!(!is_started(1, 1));
        assert!(is_started(u32::MAX - 1, 1), "numbers go round");
        assert!(!is_started(u32::MAX, u32::MAX), "numbers go round");
    }

    #[test]
    fn a_call_that_was_open_for_half_of_all_numbers_has_started() {
        let mut sent = SentCalls::default();
        let old = add(&mut sent, call(1));
        (sent.newest, sent.order) = (u32::MAX / 2 + 10, u64::from(u32::MAX) / 2 + 10);
        let last = add(&mut sent, call(2));
        assert!(sent.is_started(sent.get(old).unwrap(), last));
        assert!(!sent.is_started(sent.get(last).unwrap(), last - 1));
    }

    #[test]
    fn what_is_taken_back_is_open_for_nobody() {
        let mut sent = SentCalls::default();
        let [running, first, cancelled, second] = [1, 2, 3, 4].map(|id| add(&mut sent, call(id)));
        sent.take_call(cancelled);
        let (order, number) = sent.first_unstarted(running).unwrap();
        assert_eq!((number, sent.unstarted(running)), (first, vec![first, second]));
        let taken: Vec<_> = [first, second].map(|s| sent.take_back(s).unwrap().ticket.id).into();
        assert_eq!(taken, [2, 4]);
        assert_eq!(sent.by_ticket(ticket(2)), None, "it may be at another worker");
        assert!(sent.first_unstarted(running).is_none());
        for stream in [first, cancelled, second] {
            assert!(sent.has_from(order) && sent.is_from(stream, order));
            sent.remove(stream);
        }
        assert!(!sent.has_from(order), "only the running one is left");
    }

    #[test]
    fn a_number_is_not_given_twice_while_its_call_is_open() {
        let mut sent = SentCalls::default();
        let long = add(&mut sent, call(7));
        sent.newest = u32::MAX - 1;
        assert_eq!([add(&mut sent, call(8)), add(&mut sent, call(9))], [u32::MAX, 2]);
        assert_eq!(sent.oldest(), Some(long));
        assert_eq!(sent.by_ticket(ticket(9)), Some(2));
        assert!(sent.remove(long).is_some());
        assert!(sent.remove(long).is_none());
        let left: Vec<_> =
            sent.take_all(None).into_iter().map(|(sent, _)| sent.ticket.id).collect();
        assert_eq!(left, [8, 9]);
        assert!(sent.is_empty());
    }

    #[test]
    fn only_streams_with_a_caller_have_a_deadline_here() {
        let mut sent = SentCalls::default();
        add(&mut sent, call(1));
        assert_eq!(sent.next_deadline(), None, "its caller sees to it");
        let stream = |id| Call { stream: true, ..call(id) };
        let [answered, cancelled] = [add(&mut sent, stream(2)), add(&mut sent, stream(3))];
        assert_eq!(sent.deadlines.len(), 2);
        assert_eq!(sent.next_deadline().map(|(_, stream)| stream), Some(answered));
        assert!(sent.take_call(cancelled).is_some());
        assert!(sent.take_call(cancelled).is_none());
        assert_eq!(sent.deadlines.len(), 1);
        assert!(sent.remove(answered).is_some() && sent.remove(cancelled).is_some());
        assert!(sent.deadlines.is_empty());
    }

    #[test]
    fn neighbours_do_not_meet() {
        let hash = |number| {
            let mut hasher = NumberHasher::default();
            hasher.write_u32(number);
            hasher.finish()
        };
        let mut low: Vec<_> = (0..4096).map(|number| hash(number) % 8192).collect();
        low.sort_unstable();
        low.dedup();
        assert!(low.len() > 2500, "{} of 4096", low.len());
    }
}
