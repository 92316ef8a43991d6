//! Takes calls back that wait at a worker behind one that takes long, if another worker has room.
//!
//! Calls are sent ahead to a worker whose calls were short, and then one of them may take long. When
//! the worker has not answered for [`STUCK`], the dispatcher is asked whether the calls behind it
//! would run elsewhere; if so, the shared page says that they are taken back. After [`SETTLED`] it is
//! known which of them the worker did not start, and never will (the page's description says why):
//! those wait in the pool again. The worker answers each when its turn comes, as not run, and gets no
//! new calls before it has. The decisions are tested in `dispatcher/model`, the whole of it with real
//! workers in `tests/it/recalls.rs`.

use std::collections::VecDeque;
use std::time::Duration;

use snakehouse_base::Kind;
use snakehouse_wire::Failure;
use tokio::time::Instant;

use super::Connection;
use crate::call::Call;
use crate::dispatcher::{Recalled, worker_id};

/// A worker that has not answered for so long is busy with a long call. Calls are sent ahead for as
/// much as 1 ms of work.
const STUCK: Duration = Duration::from_millis(5);

/// What the worker began before it could see that it was taken back is known after this.
const SETTLED: Duration = Duration::from_millis(1);

/// What is being taken back.
#[derive(Debug, Default)]
pub(super) struct Recall {
    /// When to look whether the worker still moves.
    look_at: Option<Instant>,
    /// There was no room elsewhere: the bell rings when there is.
    waits: bool,
    state: State,
}

/// How far it is. What is taken back are the calls that were sent as number `order` or later.
#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    None,
    /// The worker is being told.
    Asked { order: u64 },
    /// Those that it had not started then are the pool's again.
    Taken { order: u64 },
}

impl State {
    fn order(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Asked { order } | Self::Taken { order } => Some(order),
        }
    }
}

impl Recall {
    /// When there is something to do.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.look_at
    }

    /// Whether there is something to do in every turn.
    pub(super) fn goes_on(&self) -> bool {
        self.waits || self.state.order().is_some()
    }
}

impl Connection<'_> {
    /// Calls were sent: whether they move is to be looked at.
    pub(super) fn watch_sent(&mut self) {
        if self.is_ahead() && self.recall.look_at.is_none() && self.can_recall {
            self.recall.look_at = Some(self.busy_since + STUCK);
        }
    }

    /// Whether the worker has more than it runs.
    fn is_ahead(&self) -> bool {
        self.sent.len() + self.held.len() > self.capacity as usize
    }

    /// The time has come, or another worker may have room.
    pub(super) fn look_for_stuck(&mut self, now: Instant) {
        let is_due = self.recall.look_at.is_some_and(|at| at <= now);
        if !is_due && !self.recall.waits {
            return;
        }
        self.recall.look_at = None;
        match self.recall.state {
            State::None if !self.is_ahead() => self.recall.waits = false,
            State::None if now < self.busy_since + STUCK => {
                self.recall.waits = false;
                self.recall.look_at = Some(self.busy_since + STUCK);
            }
            State::None => self.ask_for_room(now),
            State::Asked { order } => self.take_back(order, now),
            State::Taken { .. } => {}
        }
    }

    fn ask_for_room(&mut self, now: Instant) {
        let started = self.process.page.started().unwrap_or(0);
        let unstarted = self.sent.first_unstarted(started);
        if unstarted.is_none() && self.held.iter().all(|call| call.chain.is_nested) {
            return;
        }
        let place = self.place;
        let recalled = self.shared.change(|pool, after| pool.recall(place, now, after));
        self.recall.waits = recalled == Recalled::NoRoom;
        if recalled != Recalled::Yes {
            return;
        }
        let held = take_behind(&mut self.held);
        self.shared.change(|pool, after| pool.recalled(place, held, now, after));
        let Some((order, first)) = unstarted else {
            self.shared.change(|pool, after| pool.recall_over(place, now, after));
            return;
        };
        if let Err(error) = self.process.page.recall(first) {
            tracing::warn!(worker = %worker_id(place), %error, "calls not taken back");
        }
        self.recall.state = State::Asked { order };
        self.recall.look_at = Some(now + SETTLED);
    }

    fn take_back(&mut self, order: u64, now: Instant) {
        // Without an answer nothing is known, and everything stays where it is.
        let Ok(started) = self.process.page.started() else { return };
        let mut calls = Vec::new();
        for stream in self.sent.unstarted(started) {
            calls.extend(self.sent.take_back(stream));
            self.flows.retain(|(flow, _)| *flow != stream);
        }
        tracing::debug!(worker = %worker_id(self.place), calls = calls.len(), "calls taken back");
        self.recall.state = State::Taken { order };
        let place = self.place;
        self.shared.change(|pool, after| pool.recalled(place, calls, now, after));
    }

    /// Whether this failure says that a call was not run because it was taken back. It is the pool's
    /// again then.
    pub(super) fn was_recalled(&mut self, stream: u32, failure: &Failure) -> bool {
        let is_due =
            self.recall.state.order().is_some_and(|order| self.sent.is_from(stream, order));
        if !is_due || failure.kind != Kind::Cancelled || failure.code != "recalled" {
            return false;
        }
        // Those that were taken back before, and cancelled ones, are answered like others.
        let Some(call) = self.sent.take_back(stream) else { return false };
        self.sent.remove(stream);
        self.flows.retain(|(flow, _)| *flow != stream);
        let (place, now) = (self.place, Instant::now());
        self.shared.change(|pool, after| pool.recalled(place, vec![call], now, after));
        true
    }

    /// What is to be done in a turn while calls are taken back, or while one waits for room.
    pub(super) fn go_on_recalling(&mut self) {
        if self.recall.waits {
            self.look_for_stuck(Instant::now());
        } else {
            self.end_recall();
        }
    }

    /// The worker may have passed everything that was taken back.
    fn end_recall(&mut self) {
        let Some(order) = self.recall.state.order() else { return };
        if self.sent.has_from(order) {
            return;
        }
        if let Err(error) = self.process.page.recall(0) {
            tracing::warn!(worker = %worker_id(self.place), %error, "nothing more can be sent");
        }
        self.recall = Recall::default();
        let (place, now) = (self.place, Instant::now());
        self.shared.change(|pool, after| pool.recall_over(place, now, after));
    }
}

/// Takes out what is held behind the call that takes long. What is nested runs in the middle of it.
fn take_behind(held: &mut VecDeque<Call>) -> Vec<Call> {
    let (nested, behind) = held.drain(..).partition(|call| call.chain.is_nested);
    *held = nested;
    behind.into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::oneshot;

    use super::*;
    use crate::call::CallOptions;
    use crate::dispatcher::Ticket;
    use crate::host::chain::Place;

    fn call(is_nested: bool) -> Call {
        let (reply, _) = oneshot::channel();
        Call {
            ticket: Ticket::default(),
            tool: "t".to_owned(),
            number: 0,
            body: Bytes::new().into(),
            options: CallOptions::default(),
            session: None,
            stream: false,
            deaths: 0,
            chain: Place { is_nested, ..Place::default() },
            outer: None,
            reply: reply.into(),
        }
    }

    #[test]
    fn nested_calls_that_are_held_stay_where_they_are() {
        let mut held: VecDeque<_> = [false, true, false, true].map(call).into();
        let nested = |call: &Call| call.chain.is_nested;
        assert_eq!(take_behind(&mut held).iter().map(nested).collect::<Vec<_>>(), [false, false]);
        assert_eq!(held.iter().map(nested).collect::<Vec<_>>(), [true, true]);
    }
}
