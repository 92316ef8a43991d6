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

/// A call that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    /// Its number on the connection.
    pub(super) stream: u32,
    /// How many were sent before it.
    order: u64,
    pub(super) ticket: Ticket,
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
    /// When streams end whose callers may not look: the others' callers see to that themselves.
    /// Those of streams that have a caller, and no others.
    deadlines: BTreeSet<(Instant, u32)>,
}

impl SentCalls {
    /// Takes a call and gives it its number.
    pub(super) fn add(&mut self, call: Call) -> u32 {
        // 0 is the connection itself; and one that is not answered keeps its number.
        let mut stream = self.newest;
        loop {
            stream = stream.checked_add(1).unwrap_or(1);
            if !self.calls.contains_key(&stream) {
                break;
            }
        }
        self.newest = stream;
        self.order += 1;
        let deadline = call.options.deadline.instant().filter(|_| call.is_stream());
        let deadline = deadline.map(Instant::from);
        self.deadlines.extend(deadline.map(|at| (at, stream)));
        let (order, ticket) = (self.order, call.ticket);
        let sent = Sent { stream, order, ticket, call: Some(call), deadline };
        self.calls.insert(stream, sent);
        stream
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
        Some(sent)
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

    /// All of them, in the order in which they were sent.
    pub(super) fn take_all(&mut self) -> Vec<Sent> {
        self.deadlines.clear();
        let mut all: Vec<_> = self.calls.drain().map(|(_, sent)| sent).collect();
        all.sort_unstable_by_key(|sent| sent.order);
        all
    }
}

/// Whether a call was started when `last` was the one started last. Numbers go round after
/// `u32::MAX`, and far fewer than half of them are in use at once.
pub(super) fn is_started(stream: u32, last: u32) -> bool {
    last != 0 && last.wrapping_sub(stream) < u32::MAX / 2
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
            session: 0,
            stream: false,
            deaths: 0,
            reply: reply.into(),
        }
    }

    #[test]
    fn calls_up_to_the_last_started_are_started() {
        assert!(!is_started(1, 0));
        assert!(is_started(1, 1));
        assert!(is_started(1, 64));
        assert!(!is_started(2, 1));
        assert!(is_started(u32::MAX, 1), "numbers go round");
        assert!(!is_started(1, u32::MAX), "numbers go round");
    }

    #[test]
    fn a_number_is_not_given_twice_while_its_call_is_open() {
        let mut sent = SentCalls::default();
        let long = sent.add(call(7));
        sent.newest = u32::MAX - 1;
        assert_eq!([sent.add(call(8)), sent.add(call(9))], [u32::MAX, 2]);
        assert_eq!(sent.oldest(), Some(long));
        assert_eq!(sent.by_ticket(ticket(9)), Some(2));
        assert!(sent.remove(long).is_some());
        assert!(sent.remove(long).is_none());
        let left: Vec<_> = sent.take_all().into_iter().map(|sent| sent.ticket.id).collect();
        assert_eq!(left, [8, 9]);
        assert!(sent.is_empty());
    }

    #[test]
    fn only_streams_with_a_caller_have_a_deadline_here() {
        let mut sent = SentCalls::default();
        sent.add(call(1));
        assert_eq!(sent.next_deadline(), None, "its caller sees to it");
        let stream = |id| Call { stream: true, ..call(id) };
        let [answered, cancelled] = [sent.add(stream(2)), sent.add(stream(3))];
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
