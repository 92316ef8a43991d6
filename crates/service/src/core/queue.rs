//! Which operation may run next: a pure value.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use snakehouse_base::id::{ModelId, SessionId};
use tokio::time::Instant;

use super::op::{Job, Place};

/// Accepted operations in the order in which they may run.
///
/// Operations of one model run in the order of their numbers. A number that is missing holds back
/// the later ones until it arrives, is reported as used up, or the model's session has submitted
/// nothing for [`gap_idle`](Queue::new) (or is finished). Samples have no order among themselves.
/// Across models it is first ready, first served. Every operation is O(log n).
///
/// It holds at most what admission lets in, and decides nothing about durability.
#[derive(Debug)]
pub(super) struct Queue {
    gap_idle: Duration,
    orders: HashMap<ModelId, Order>,
    ready: VecDeque<Job>,
    sessions: HashMap<SessionId, Activity>,
    waiting: usize,
}

/// The order of one model.
#[derive(Debug)]
struct Order {
    session: SessionId,
    /// The lowest number that has not become ready or been used up.
    next: u64,
    later: BTreeMap<u64, Slot>,
}

#[derive(Debug)]
enum Slot {
    Job(Job),
    UsedUp,
}

#[derive(Debug)]
struct Activity {
    last_submit: Instant,
    finished: bool,
}

/// What became of an operation handed to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It will run.
    Queued,
    /// Its number was passed over before; it can never run.
    PassedOver,
    /// The queue does not know its model.
    UnknownModel,
}

impl Queue {
    pub(super) fn new(gap_idle: Duration) -> Self {
        Self {
            gap_idle,
            orders: HashMap::new(),
            ready: VecDeque::new(),
            sessions: HashMap::new(),
            waiting: 0,
        }
    }

    /// Begins the order of a model at `next`. One that has begun stays as it is.
    pub(super) fn open(&mut self, model: ModelId, session: SessionId, next: u64) {
        self.orders.entry(model).or_insert(Order { session, next, later: BTreeMap::new() });
    }

    /// Notes that a session has submitted something.
    pub(super) fn touch(&mut self, session: &SessionId, now: Instant) {
        match self.sessions.get_mut(session) {
            Some(activity) => activity.last_submit = now,
            None => {
                let activity = Activity { last_submit: now, finished: false };
                self.sessions.insert(session.clone(), activity);
            }
        }
    }

    /// Notes that a session submits nothing any more: its gaps close at once, and its models
    /// leave when their last operation has become ready.
    pub(super) fn finish_session(&mut self, session: &SessionId) {
        if let Some(activity) = self.sessions.get_mut(session) {
            activity.finished = true;
        }
    }

    /// Takes an accepted operation.
    pub(super) fn push(&mut self, job: Job) -> Admitted {
        let Place::Model(model, seq) = &job.place else {
            self.ready.push_back(job);
            return Admitted::Queued;
        };
        let (model, seq) = (model.clone(), *seq);
        self.put(&model, seq, Slot::Job(job))
    }

    /// Takes the news that a number is used up without anything to run.
    pub(super) fn use_up(&mut self, model: &ModelId, seq: u64) -> Admitted {
        self.put(model, seq, Slot::UsedUp)
    }

    fn put(&mut self, model: &ModelId, seq: u64, slot: Slot) -> Admitted {
        let Some(order) = self.orders.get_mut(model) else { return Admitted::UnknownModel };
        if seq < order.next {
            return Admitted::PassedOver;
        }
        if order.later.insert(seq, slot).is_none() {
            self.waiting += 1;
        }
        self.advance(model);
        Admitted::Queued
    }

    /// Lets everything without a gap before it become ready.
    fn advance(&mut self, model: &ModelId) {
        let Some(order) = self.orders.get_mut(model) else { return };
        while let Some(slot) = order.later.remove(&order.next) {
            order.next += 1;
            self.waiting -= 1;
            if let Slot::Job(job) = slot {
                self.ready.push_back(job);
            }
        }
    }

    /// The next operation to run.
    pub(super) fn pop(&mut self) -> Option<Job> {
        self.ready.pop_front()
    }

    /// When the next gap closes by itself.
    pub(super) fn next_gap(&self) -> Option<Instant> {
        let gapped = self.orders.values().filter(|order| !order.later.is_empty());
        gapped.filter_map(|order| self.closes_at(order)).min()
    }

    /// Closes the gaps whose time has come.
    pub(super) fn close_gaps(&mut self, now: Instant) {
        let due: Vec<ModelId> = self
            .orders
            .iter()
            .filter(|(_, order)| !order.later.is_empty())
            .filter(|(_, order)| self.closes_at(order).is_none_or(|at| at <= now))
            .map(|(model, _)| model.clone())
            .collect();
        for model in due {
            if let Some(order) = self.orders.get_mut(&model)
                && let Some((first, _)) = order.later.first_key_value()
            {
                order.next = *first;
            }
            self.advance(&model);
        }
    }

    /// When the gap of this order closes; `None` means at once.
    fn closes_at(&self, order: &Order) -> Option<Instant> {
        let activity = self.sessions.get(&order.session)?;
        if activity.finished { None } else { activity.last_submit.checked_add(self.gap_idle) }
    }

    /// Forgets a model with nothing left to run. What still waits in it is given back.
    pub(super) fn close(&mut self, model: &ModelId) -> Vec<Job> {
        let Some(order) = self.orders.remove(model) else { return Vec::new() };
        self.waiting -= order.later.len();
        let jobs = order.later.into_values().filter_map(|slot| match slot {
            Slot::Job(job) => Some(job),
            Slot::UsedUp => None,
        });
        jobs.collect()
    }

    /// Forgets a session.
    pub(super) fn forget_session(&mut self, session: &SessionId) {
        self.sessions.remove(session);
    }

    /// Whether something of this model waits or is ready.
    pub(super) fn is_busy(&self, model: &ModelId) -> bool {
        self.orders.get(model).is_some_and(|order| !order.later.is_empty())
            || self.ready.iter().any(|job| job.model().is_some_and(|(m, _)| m == model))
    }

    /// Operations held back by a gap.
    pub(super) fn held_back(&self) -> usize {
        self.waiting
    }

    /// Models with something to run.
    pub(super) fn ready_models(&self) -> impl Iterator<Item = &ModelId> {
        self.ready.iter().filter_map(|job| job.model().map(|(model, _)| model))
    }
}

#[cfg(test)]
mod tests;
