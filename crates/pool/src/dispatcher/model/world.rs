//! A pool of random shape, its workers and callers, and everything that may happen to them.

use std::ops::Range;

use snakehouse_base::Deadline;
use snakehouse_wire::{ToolInfo, ToolKind};

use super::super::weight::Weight;
use super::reference::View;
use super::*;
use crate::host::chain::Place;

mod end;
mod sessions;

#[derive(Debug, Default)]
struct Worker {
    /// Its child was started and has not ended.
    child: bool,
    /// Its incarnation has begun and is not over.
    alive: bool,
    said_hello: bool,
    rung: bool,
    /// How far it is with calls that are taken back from it.
    recall: Recall,
    stop: CancellationToken,
    /// Calls in the order in which they came.
    has: Vec<Call>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Recall {
    #[default]
    None,
    /// The worker is being told.
    Asked,
    /// It has yet to pass them.
    Taken,
}

pub(super) struct World {
    pool: Dispatcher,
    reference: Reference,
    outcomes: BTreeMap<u64, oneshot::Receiver<Result<Bytes, CallError>>>,
    tickets: BTreeMap<u64, Ticket>,
    workers: Vec<Worker>,
    /// Handles, several of which may be of one session.
    sessions: Vec<Arc<Tag>>,
    /// Workers that are being weighed.
    scales: Vec<(usize, Incarnation)>,
    now: Instant,
    keeper: bool,
    next: Option<Instant>,
    chance: Chance,
    capacity: usize,
    accepted: u64,
    saturated: u64,
    late: u64,
    refused_sessions: u64,
}

impl World {
    pub(super) fn new(chance: Chance) -> Self {
        let pick = |range: Range<usize>| below(&chance, range);
        let workers = pick(1..6);
        let recycle = Recycle {
            age: (pick(0..2) == 0).then_some(Duration::from_secs(50)),
            calls: (pick(0..2) == 0).then_some(20),
            memory: (pick(0..2) == 0).then_some(snakehouse_base::ByteSize::mib(1)),
            jitter: 0.5,
            seed: Some(chance.seed()),
            drain_within: Duration::from_secs(5),
        };
        let config = PoolConfig {
            workers,
            min_workers: (pick(0..2) == 0).then(|| pick(0..workers + 1)),
            start: if pick(0..3) == 0 { Start::Lazy } else { Start::Eager },
            standby: pick(0..3),
            grow_after: Duration::from_secs(1),
            shrink_after: Duration::from_secs(10),
            queue: pick(5..40),
            sessions: SessionLimits {
                most: pick(2..9),
                ttl: Duration::from_secs(8),
                ..SessionLimits::default()
            },
            recycle,
            ..PoolConfig::default()
        };
        let (capacity, places, now) = (pick(1..5), config.places(), Instant::now());
        Self {
            pool: Dispatcher::new(config, now),
            reference: Reference::default(),
            outcomes: BTreeMap::new(),
            tickets: BTreeMap::new(),
            workers: std::iter::repeat_with(Worker::default).take(places).collect(),
            sessions: Vec::new(),
            scales: Vec::new(),
            now,
            keeper: true,
            next: None,
            chance,
            capacity,
            accepted: 0,
            saturated: 0,
            late: 0,
            refused_sessions: 0,
        }
    }

    fn pick(&self, range: Range<usize>) -> usize {
        below(&self.chance, range)
    }

    /// One of the places where something can happen.
    fn place(&self, can: impl Fn(&Worker) -> bool) -> Option<usize> {
        let places: Vec<_> = (0..self.workers.len()).filter(|p| can(&self.workers[*p])).collect();
        (!places.is_empty()).then(|| places[self.pick(0..places.len())])
    }

    pub(super) fn event(&mut self) {
        let pick = self.pick(0..100);
        let place = match pick {
            0..26 => self.place(|worker| !worker.has.is_empty()),
            26..40 => self.place(|worker| worker.rung && worker.said_hello),
            40..50 => self.place(|worker| worker.child && !worker.said_hello),
            50..54 => self.place(|worker| worker.alive && worker.stop.is_cancelled()),
            54..56 => self.place(|worker| worker.alive),
            56..58 => self.place(|worker| worker.said_hello),
            94..97 => self.place(|w| w.recall != Recall::None || w.has.len() > self.capacity),
            _ => None,
        };
        match (pick, place) {
            (0..26, Some(place)) => self.answer(place),
            (26..40, Some(place)) => self.take(place),
            (40..54, Some(place)) => self.come_up(place),
            (54..56, Some(place)) => self.die(place),
            (56..58, Some(place)) => self.weigh(place),
            (58..84, _) => self.submit(),
            (84..87, _) => self.cancel(),
            (87..88, _) => self.open_session(),
            (88..91, _) => self.find_session(),
            (91..92, _) => self.recreate_session(),
            (92..94, _) => self.close_session(),
            (94..97, Some(place)) => self.recall(place),
            (97..99, _) => {
                let most = [10, 1_000, 30_000][self.pick(0..3)];
                self.now += Duration::from_millis(self.pick(1..most) as u64);
                self.keep();
            }
            _ => self.keep(),
        }
    }

    /// Does what follows from a change, and compares.
    fn settle(&mut self, after: After) {
        for (call, error) in after.fail {
            call.finish(Err(error));
        }
        for stop in after.stop {
            stop.cancel();
        }
        for place in after.ring {
            self.workers[place].rung = true;
        }
        self.keeper |= after.keeper;
        self.compare();
    }

    fn views(&self) -> Vec<View> {
        let view = |seat: &Seat| View {
            incarnation: seat.incarnation,
            open: seat.phase == Phase::Serving,
            sessions: matches!(seat.phase, Phase::Serving | Phase::Draining),
            capacity: seat.capacity,
            window: seat.window.size(),
            recalls: seat.recalls,
            budget: seat.weight.as_ref().map_or(u64::MAX, Weight::left),
            retires: seat.retire.is_some(),
            in_peace: seat.phase == Phase::Stopping && seat.life.is_some(),
        };
        let mut views: Vec<_> = self.pool.seats.iter().map(view).collect();
        // What was given this moment is not news to the reference yet.
        for (place, (view, seat)) in views.iter_mut().zip(&self.pool.seats).enumerate() {
            let has = [&seat.given, &seat.outbox].map(|list| self.pool.ledger.iter(list));
            let news = has.into_iter().flatten().filter(|ticket| {
                let known = self.reference.calls.iter().find(|call| call.id == ticket.id);
                known.is_some_and(|call| call.at != Some(place))
            });
            view.budget = view.budget.saturating_add(news.count() as u64);
        }
        views
    }

    fn compare(&mut self) {
        self.pool.check().unwrap();
        let views = self.views();
        self.reference.lose_sessions(&views);
        self.reference.hand_out(&views, self.now);
        self.reference.count_uses(self.now);
        self.reference.forget_sessions();
        let ids = |list: &List| self.pool.ledger.iter(list).map(|t| t.id).collect::<Vec<_>>();
        let expected = |holds: &dyn Fn(&reference::RefCall) -> bool| {
            let calls = self.reference.calls.iter().filter(|call| holds(call));
            calls.map(|call| call.id).collect::<Vec<_>>()
        };
        let waiting = expected(&|call| call.at.is_none() && self.reference.pin(call).is_none());
        assert_eq!(ids(&self.pool.waiting), waiting, "waiting");
        for (place, seat) in self.pool.seats.iter().enumerate() {
            let pinned =
                expected(&|call| call.at.is_none() && self.reference.pin(call) == Some(place));
            assert_eq!(ids(&seat.pinned), pinned, "pinned to {place}");
            let mut has = ids(&seat.given);
            has.extend(ids(&seat.outbox));
            has.sort_unstable();
            assert_eq!(has, expected(&|call| call.at == Some(place)), "at {place}");
        }
        let count = self.pool.counters();
        let ended = |end: End| self.reference.ends.values().filter(|e| **e == end).count() as u64;
        assert_eq!(count.answered, ended(End::Answered));
        assert_eq!(count.cancelled, ended(End::Cancelled));
        assert_eq!(count.failed, ended(End::Failed));
        assert_eq!(count.accepted, self.accepted);
        assert_eq!(count.saturated, self.saturated);
        assert_eq!(count.late, self.late);
        if !self.reference.stopped {
            self.compare_sessions();
        }
    }

    // Callers.

    fn submit(&mut self) {
        let session = match self.sessions.len() {
            0 => None,
            len => (self.pick(0..4) == 0).then(|| self.pick(0..len)),
        };
        let stream = self.pick(0..5) == 0;
        let tag = session.map(|nth| self.sessions[nth].clone());
        // Its caller is slow to look at the time.
        let within = Duration::from_millis(self.pick(1..20_000) as u64);
        let deadline = match self.pick(0..4) {
            0 => Deadline::after(self.now.into_std(), within),
            // audit(deadline): the time of a world is its own
            _ => Deadline::never(),
        };
        let (reply, outcome) = oneshot::channel();
        let call = Call {
            ticket: Ticket::default(),
            tool: "t".to_owned(),
            number: 0,
            body: Bytes::new().into(),
            options: CallOptions::until(deadline),
            session: tag.clone(),
            stream,
            deaths: 0,
            chain: Place::default(),
            outer: None,
            reply: reply.into(),
        };
        let full = self.reference.waiting() >= self.pool.config.queue;
        let over = tag.as_ref().is_some_and(|tag| self.reference.is_over(tag.id));
        if let Some(tag) = tag.as_ref().filter(|_| !full) {
            self.reference.used(tag.id, self.now);
        }
        let mut after = After::default();
        match self.pool.submit(call, self.now, &mut after) {
            Ok(ticket) => {
                assert!(!full && !over);
                self.accepted += 1;
                assert_eq!(ticket.id, self.accepted);
                let session = tag.map(|tag| tag.id);
                self.reference.enter(ticket.id, stream, session, deadline);
                self.outcomes.insert(ticket.id, outcome);
                self.tickets.insert(ticket.id, ticket);
            }
            Err(CallError::Saturated { .. }) => {
                assert!(full);
                self.saturated += 1;
            }
            Err(CallError::SessionLost { .. } | CallError::SessionEnded { .. }) => {
                assert!(over && !full);
            }
            Err(error) => panic!("{error}"),
        }
        self.settle(after);
    }

    fn cancel(&mut self) {
        let open: Vec<_> = self.outcomes.iter().filter(|(_, outcome)| outcome.is_empty()).collect();
        if open.is_empty() {
            return;
        }
        let id = *open[self.pick(0..open.len())].0;
        drop(self.outcomes.remove(&id));
        self.give_up(id);
    }

    /// The caller of an open call goes.
    fn give_up(&mut self, id: u64) {
        let mut after = After::default();
        let at = self.pool.cancel(self.tickets[&id], self.now, &mut after);
        let taken = self.workers.iter().any(|w| w.has.iter().any(|call| call.ticket.id == id));
        assert_eq!(at, Some(if taken { Where::Worker } else { Where::Queue }));
        match taken {
            true => self.reference.call(id).cancelled = true,
            false => self.reference.end(id, End::Cancelled),
        }
        self.settle(after);
    }

    // Workers.

    /// The connection takes what is there for it.
    fn take(&mut self, place: usize) {
        if !self.workers[place].alive || !self.workers[place].said_hello {
            return;
        }
        self.workers[place].rung = false;
        self.exchange(place, &[], 0);
    }

    fn exchange(&mut self, place: usize, answered: &[Ticket], late: u64) {
        let (mut calls, mut cancels, mut after) = (Vec::new(), Vec::new(), After::default());
        let busy = Duration::from_micros([1, 20, 5_000][self.pick(0..3)]);
        let report = Report { answered, late, busy, ..Report::default() };
        self.pool.exchange(place, &report, self.now, &mut calls, &mut cancels, &mut after);
        let has = &mut self.workers[place].has;
        for call in calls {
            // Whatever came before it may run; a stream has to start at once.
            assert!(!call.stream || has.len() < self.capacity, "a stream was sent ahead");
            assert!(!call.is_abandoned(), "it is sent for nobody");
            has.push(call);
        }
        self.settle(after);
    }

    /// The worker answers one of the calls that it runs.
    fn answer(&mut self, place: usize) {
        let running = self.workers[place].has.len().min(self.capacity);
        if running == 0 {
            return;
        }
        let nth = self.pick(0..running);
        let call = self.workers[place].has.remove(nth);
        let ticket = call.ticket;
        let late = u64::from(call.is_abandoned());
        call.finish(Ok(Bytes::new()));
        self.reference.end(ticket.id, End::Answered);
        self.late += late;
        self.exchange(place, &[ticket], late);
    }

    /// The next step of taking back what a worker has not started.
    fn recall(&mut self, place: usize) {
        let mut after = After::default();
        match self.workers[place].recall {
            Recall::None => {
                let outbox: Vec<_> =
                    self.pool.ledger.iter(&self.pool.seats[place].outbox).collect();
                if self.pool.recall(place, self.now, &mut after) == Recalled::Yes {
                    self.workers[place].recall = Recall::Asked;
                    let ids: Vec<_> = outbox.into_iter().map(|ticket| ticket.id).collect();
                    self.reference.taken_back(&ids);
                }
            }
            Recall::Asked => {
                let running = self.workers[place].has.len().min(self.capacity);
                let calls = self.workers[place].has.split_off(running);
                let (told, calls): (Vec<_>, Vec<_>) = calls.into_iter().partition(|call| {
                    // The connection may have heard of a cancel, and keeps what is nobody's.
                    self.reference.call(call.ticket.id).cancelled && self.pick(0..2) == 0
                });
                self.workers[place].has.extend(told);
                let ids: Vec<_> = calls.iter().map(|call| call.ticket.id).collect();
                self.reference.taken_back(&ids);
                self.workers[place].recall = Recall::Taken;
                self.pool.recalled(place, calls, self.now, &mut after);
            }
            Recall::Taken => {
                self.workers[place].recall = Recall::None;
                self.pool.recall_over(place, self.now, &mut after);
            }
        }
        self.settle(after);
    }

    fn die(&mut self, place: usize) {
        if !self.workers[place].alive {
            return;
        }
        let served = self.workers[place].said_hello;
        let mut calls = std::mem::take(&mut self.workers[place].has);
        let running = calls.len().min(self.capacity);
        let mut unstarted = calls.split_off(self.pick(0..running + 1));
        let started: BTreeSet<_> = calls.iter().map(|call| call.ticket.id).collect();
        for call in calls {
            call.finish(Err(CallError::Cancelled));
        }
        // The connection forgets a call when it hears that its caller is gone, and marks the first
        // that is left.
        let heard = self.pick(0..2) == 0;
        let mut cancelled = Vec::new();
        unstarted.retain(|call| {
            let is_told = heard && self.reference.call(call.ticket.id).cancelled;
            cancelled.extend(is_told.then_some(call.ticket));
            !is_told
        });
        let mut suspect = None;
        if started.is_empty()
            && let Some(first) = unstarted.first_mut()
        {
            first.deaths += 1;
            suspect = Some(first.ticket.id);
        }
        self.reference.dead(place, &started, suspect);
        let worker = &mut self.workers[place];
        (worker.alive, worker.said_hello, worker.rung) = (false, false, false);
        worker.recall = Recall::None;
        let mut after = After::default();
        let unstarted = Unstarted { calls: unstarted, cancelled };
        self.pool.gone(place, &Death::Unknown, unstarted, self.now, &mut after);
        self.settle(after);
        if !served && !self.workers[place].stop.is_cancelled() {
            self.starts_failed();
        }
        self.leave(place);
    }

    /// A worker died before its hello.
    fn starts_failed(&mut self) {
        let hopeless = self.pool.counters().served == 0
            && !self.pool.seats.iter().any(|seat| seat.phase == Phase::Starting);
        if hopeless {
            let waiting: Vec<_> =
                self.reference.calls.iter().filter(|c| c.at.is_none()).map(|c| c.id).collect();
            for id in waiting {
                self.reference.end(id, End::Failed);
            }
        }
        let mut after = After::default();
        self.pool.ended("it could not start".to_owned(), self.now, &mut after);
        self.settle(after);
    }

    /// The child of a place ends if no worker is wanted there.
    fn leave(&mut self, place: usize) {
        if self.workers[place].child && self.pool.is_closing(place) {
            self.workers[place].child = false;
            let mut after = After::default();
            self.pool.closed(place, self.now, &mut after);
            self.settle(after);
        }
    }

    /// The next step of a place's child: an incarnation begins, says hello, or ends as it was told.
    fn come_up(&mut self, place: usize) {
        let worker = &self.workers[place];
        if !worker.child {
            return;
        }
        if !worker.alive {
            let stop = CancellationToken::new();
            match self.pool.starting(place, stop.clone()) {
                None => self.leave(place),
                Some(_) => {
                    let worker = &mut self.workers[place];
                    (worker.alive, worker.stop) = (true, stop);
                    self.pool.started(place, 100, Birth::Executed { why: None });
                    self.settle(After::default());
                }
            }
        } else if worker.stop.is_cancelled() {
            if worker.has.is_empty() {
                self.die(place);
            }
        } else if !worker.said_hello {
            self.workers[place].said_hello = true;
            let tools = vec![ToolInfo::new("t", 7, ToolKind::Function)];
            let mut after = After::default();
            let hail = Hail { tools, capacity: self.capacity, hears_of_sessions: true };
            self.pool.serving(place, hail, self.now, &mut after);
            self.settle(after);
        }
    }

    /// The scales show something, or somebody wants another worker.
    fn weigh(&mut self, place: usize) {
        let mut after = After::default();
        match self.scales.pop() {
            Some((place, incarnation)) => {
                let held = snakehouse_base::ByteSize([1 << 18, 1 << 19, 1 << 20][self.pick(0..3)]);
                self.pool.measured(place, incarnation, held, self.now, &mut after);
            }
            None => {
                let _may_be_under_way = self.pool.asked_to_recycle(place, self.now, &mut after);
            }
        }
        self.settle(after);
    }

    fn keep(&mut self) {
        if !self.keeper && self.next.is_none_or(|next| next > self.now) {
            return;
        }
        let room = self.pick(0..4) > 0;
        self.reference.expire(self.now);
        let mut after = After::default();
        let chores = self.pool.chores(self.now, room, &mut after);
        (self.keeper, self.next) = (false, chores.next);
        self.scales.extend(chores.measure.iter().map(|(place, which, _)| (*place, *which)));
        for place in chores.open {
            assert!(!std::mem::replace(&mut self.workers[place].child, true), "two children");
        }
        self.settle(after);
    }
}

fn below(chance: &Chance, range: Range<usize>) -> usize {
    range.start + usize::try_from(chance.next_u64() >> 1).unwrap() % range.len()
}
