//! A dispatcher with workers that do what they are told, for tests.

use std::collections::BTreeMap;

use bytes::Bytes;
use snakehouse_wire::ToolKind;
use tokio::sync::oneshot;

use super::*;
use crate::call::CallOptions;
use crate::config::Start;
use crate::host::chain::Place;
use crate::session::{SessionOptions, Space, Tag};

pub(super) type Outcome = oneshot::Receiver<Result<Bytes, CallError>>;

pub(super) const SHORT: Duration = Duration::from_micros(1);
pub(super) const LONG: Duration = Duration::from_secs(1);

/// What a place's child and connection have.
#[derive(Debug, Default)]
pub(super) struct Worker {
    /// Its child was started and has not ended.
    pub(super) child: bool,
    /// Its incarnation has begun and is not over.
    pub(super) alive: bool,
    pub(super) stop: CancellationToken,
    pub(super) rung: bool,
    /// Calls in the order in which they came.
    pub(super) has: Vec<Call>,
}

/// A dispatcher with workers that do what they are told.
pub(super) struct Rig {
    pub(super) dispatcher: Dispatcher,
    pub(super) outcomes: BTreeMap<u64, Outcome>,
    pub(super) tickets: BTreeMap<u64, Ticket>,
    pub(super) workers: Vec<Worker>,
    pub(super) now: Instant,
    pub(super) capacity: usize,
    /// Whether the keeper was woken and has not looked.
    pub(super) keeper: bool,
    /// When the keeper will look by itself.
    pub(super) next: Option<Instant>,
    /// Whether the rules are not looked after, because there is too much to look at.
    pub(super) unchecked: bool,
    /// What workers were told about sessions.
    pub(super) told: Vec<(usize, SessionNews)>,
    /// Memory that is to be measured.
    pub(super) to_measure: Vec<(usize, snakehouse_base::id::Incarnation, u32)>,
}

impl Rig {
    /// As many workers as there are places, all of which serve the tool `t`.
    pub(super) fn new(workers: usize, limit: usize) -> Self {
        Self::of(PoolConfig { workers, queue: limit, ..PoolConfig::default() }, 1)
    }

    /// What is wanted at the start serves.
    pub(super) fn of(config: PoolConfig, capacity: usize) -> Self {
        let lazy = config.start == Start::Lazy;
        let mut rig = Self::idle(config, capacity);
        rig.keep();
        if !lazy {
            rig.start_all();
        }
        rig
    }

    /// Nothing has begun.
    pub(super) fn idle(config: PoolConfig, capacity: usize) -> Self {
        let (places, now) = (config.places(), Instant::now());
        Self {
            // As a pool does.
            dispatcher: Dispatcher::new(config.bounded(), now),
            outcomes: BTreeMap::new(),
            tickets: BTreeMap::new(),
            workers: std::iter::repeat_with(Worker::default).take(places).collect(),
            now,
            capacity,
            keeper: true,
            next: None,
            unchecked: false,
            told: Vec::new(),
            to_measure: Vec::new(),
        }
    }

    /// Does what follows from a change, as the pool does.
    pub(super) fn settle(&mut self, after: After) {
        for (call, error) in after.fail {
            call.finish(Err(error));
        }
        for stop in after.stop {
            stop.cancel();
        }
        self.keeper |= after.keeper;
        self.deliver(after.ring);
        self.check();
    }

    pub(super) fn check(&self) {
        if !self.unchecked {
            self.dispatcher.check().unwrap();
        }
    }

    /// The keeper does its chores, as often as it is woken.
    pub(super) fn keep(&mut self) {
        while self.keeper || self.next.is_some_and(|next| next <= self.now) {
            let mut after = After::default();
            let chores = self.dispatcher.chores(self.now, true, &mut after);
            self.keeper = false;
            self.next = chores.next;
            self.to_measure.extend(chores.measure);
            for place in chores.open {
                assert!(!std::mem::replace(&mut self.workers[place].child, true), "two children");
            }
            self.settle(after);
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.keep();
    }

    /// Every child whose worker does not live starts it and it says hello.
    pub(super) fn start_all(&mut self) {
        for place in 0..self.workers.len() {
            if self.workers[place].child && !self.workers[place].alive {
                self.serve(place);
            }
        }
    }

    /// The child of a place begins an incarnation; whether one was wanted.
    pub(super) fn begin(&mut self, place: usize) -> bool {
        let stop = CancellationToken::new();
        if self.dispatcher.starting(place, stop.clone()).is_none() {
            self.close(place);
            return false;
        }
        self.workers[place].stop = stop;
        self.workers[place].alive = true;
        self.dispatcher.started(place, 100, crate::Birth::Executed { why: None });
        self.check();
        true
    }

    /// The worker of a place says hello.
    pub(super) fn hello(&mut self, place: usize) {
        let mut after = After::default();
        let tool = ToolInfo::new("t", 7, ToolKind::Function);
        let hail = Hail { tools: vec![tool], capacity: self.capacity, hears_of_sessions: true };
        self.dispatcher.serving(place, hail, self.now, &mut after);
        self.settle(after);
        self.keep();
    }

    pub(super) fn serve(&mut self, place: usize) {
        if self.begin(place) {
            self.hello(place);
        }
    }

    pub(super) fn submit(&mut self, tool: &str, pin: Option<&Arc<Tag>>) -> Result<u64, CallError> {
        self.submit_as(tool, pin, false)
    }

    pub(super) fn stream(&mut self, pin: Option<&Arc<Tag>>) -> Result<u64, CallError> {
        self.submit_as("t", pin, true)
    }

    /// A call that nobody has yet, and its outcome.
    pub(super) fn call(tool: &str, session: Option<Arc<Tag>>, stream: bool) -> (Call, Outcome) {
        let (reply, outcome) = oneshot::channel();
        let call = Call {
            ticket: Ticket::default(),
            tool: tool.to_owned(),
            number: 0,
            body: Bytes::new().into(),
            // audit(deadline): the time of a rig is its own
            options: CallOptions::until(snakehouse_base::Deadline::never()),
            session,
            stream,
            deaths: 0,
            chain: Place::default(),
            outer: None,
            reply: reply.into(),
        };
        (call, outcome)
    }

    fn submit_as(
        &mut self,
        tool: &str,
        pin: Option<&Arc<Tag>>,
        stream: bool,
    ) -> Result<u64, CallError> {
        let (call, outcome) = Self::call(tool, pin.cloned(), stream);
        self.enter(call, outcome)
    }

    /// A call of a chain none of whose workers is in this pool.
    pub(super) fn chained(&mut self, stream: bool) -> Result<u64, CallError> {
        let (mut call, outcome) = Self::call("t", None, stream);
        call.chain.depth = 1;
        self.enter(call, outcome)
    }

    /// A call of a chain whose workers, the innermost first, are at these places.
    pub(super) fn chained_from(&mut self, places: &[usize]) -> Result<u64, CallError> {
        let (mut call, outcome) = Self::call("t", None, false);
        call.chain.depth = 1;
        let seats = &self.dispatcher.seats;
        call.chain.own = places.iter().map(|place| (*place, seats[*place].incarnation)).collect();
        self.enter(call, outcome)
    }

    /// A call of a chain, in a session.
    pub(super) fn chained_in(&mut self, session: &Arc<Tag>) -> Result<u64, CallError> {
        let (mut call, outcome) = Self::call("t", Some(session.clone()), false);
        call.chain.depth = 1;
        self.enter(call, outcome)
    }

    fn enter(&mut self, call: Call, outcome: Outcome) -> Result<u64, CallError> {
        let mut after = After::default();
        let ticket = self.dispatcher.submit(call, self.now, &mut after)?;
        self.outcomes.insert(ticket.id, outcome);
        self.tickets.insert(ticket.id, ticket);
        self.settle(after);
        self.keep();
        Ok(ticket.id)
    }

    pub(super) fn submit_many(&mut self, count: usize) -> Vec<u64> {
        (0..count).map(|_| self.submit("t", None).unwrap()).collect()
    }

    /// Connections that were rung take what is there for them.
    fn deliver(&mut self, ring: Bells) {
        for place in ring {
            self.workers[place].rung = true;
            self.exchange(place, &[], SHORT);
        }
    }

    pub(super) fn exchange(
        &mut self,
        place: usize,
        answered: &[Ticket],
        busy: Duration,
    ) -> Vec<u64> {
        let (mut calls, mut cancels, mut after) = (Vec::new(), Vec::new(), After::default());
        let report = Report { answered, busy, ..Report::default() };
        self.dispatcher.exchange(place, &report, self.now, &mut calls, &mut cancels, &mut after);
        let news = self.dispatcher.session_news(place);
        self.told.extend(news.into_iter().map(|news| (place, news)));
        assert!(!calls.iter().any(Call::is_abandoned), "it is sent for nobody");
        assert!(calls.iter().all(|call| call.number == 7));
        self.workers[place].has.append(&mut calls);
        self.settle(after);
        cancels.into_iter().map(|ticket| ticket.id).collect()
    }

    /// The worker answers one of its calls.
    pub(super) fn answer_nth(&mut self, place: usize, nth: usize, busy: Duration) {
        let call = self.workers[place].has.remove(nth);
        let ticket = call.ticket;
        call.finish(Ok(Bytes::new()));
        self.exchange(place, &[ticket], busy);
        self.keep();
    }

    /// The worker answers its oldest call.
    pub(super) fn answer(&mut self, place: usize, busy: Duration) {
        self.answer_nth(place, 0, busy);
    }

    /// The worker dies having started its first `started` calls.
    pub(super) fn die(&mut self, place: usize, started: usize) {
        self.workers[place].alive = false;
        let mut calls = std::mem::take(&mut self.workers[place].has);
        let unstarted =
            Unstarted { calls: calls.split_off(started.min(calls.len())), cancelled: Vec::new() };
        for call in calls {
            call.finish(Err(CallError::Cancelled));
        }
        let mut after = After::default();
        self.dispatcher.gone(place, &Death::Unknown, unstarted, self.now, &mut after);
        self.settle(after);
        self.close(place);
        self.keep();
    }

    /// The connection of a busy worker looks whether there is room elsewhere; if so, it takes back
    /// all but the first calls. Whether there was.
    pub(super) fn recall(&mut self, place: usize, started: usize) -> Recalled {
        let mut after = After::default();
        let recalled = self.dispatcher.recall(place, self.now, &mut after);
        self.settle(after);
        if recalled == Recalled::Yes {
            let calls = self.workers[place].has.split_off(started);
            let mut after = After::default();
            self.dispatcher.recalled(place, calls, self.now, &mut after);
            self.settle(after);
        }
        recalled
    }

    /// The worker has answered what was taken back from it.
    pub(super) fn recall_over(&mut self, place: usize) {
        let mut after = After::default();
        self.dispatcher.recall_over(place, self.now, &mut after);
        self.settle(after);
    }

    /// A call of the worker waits for a callback, or waits for none any more.
    pub(super) fn waits(&mut self, place: usize, id: u64, waits: bool) {
        let ticket = self.tickets[&id];
        self.change(|pool, now, after| pool.waits(place, ticket, waits, now, after));
    }

    /// The connection does not send a call that it was given.
    pub(super) fn refuse(&mut self, place: usize, id: u64) {
        self.workers[place].has.retain(|call| call.ticket.id != id);
        let refused = [self.tickets[&id]];
        let report = Report { refused: &refused, ..Report::default() };
        self.change(|pool, now, after| pool.report(place, &report, now, after));
        self.exchange(place, &[], SHORT);
    }

    /// Whether its connection was woken since this was last asked.
    pub(super) fn rung(&mut self, place: usize) -> bool {
        std::mem::take(&mut self.workers[place].rung)
    }

    /// The workers that are due are weighed, and hold so many mebibytes each. Whether there were any.
    pub(super) fn weigh(&mut self, mib: u64) -> bool {
        self.keep();
        let due = std::mem::take(&mut self.to_measure);
        for &(place, incarnation, _) in &due {
            let mut after = After::default();
            let held = snakehouse_base::ByteSize::mib(mib);
            self.dispatcher.measured(place, incarnation, held, self.now, &mut after);
            self.settle(after);
            self.keep();
        }
        !due.is_empty()
    }

    /// Workers that were told to end and have nothing more to do are gone.
    pub(super) fn obey(&mut self) {
        for place in 0..self.workers.len() {
            let worker = &self.workers[place];
            if worker.alive && worker.stop.is_cancelled() && worker.has.is_empty() {
                self.die(place, 0);
            }
        }
    }

    /// The child of a place ends if no worker is wanted there.
    pub(super) fn close(&mut self, place: usize) {
        if self.dispatcher.is_closing(place) && self.workers[place].child {
            self.workers[place].child = false;
            let mut after = After::default();
            self.dispatcher.closed(place, self.now, &mut after);
            self.settle(after);
            self.keep();
        }
    }

    pub(super) fn ids(&self, place: usize) -> Vec<u64> {
        self.workers[place].has.iter().map(|call| call.ticket.id).collect()
    }

    /// The caller goes away. Unless `told`, the connection dies before it hears of the cancel.
    pub(super) fn cancel(&mut self, id: u64, told: bool) -> Option<Where> {
        self.outcomes.remove(&id);
        let mut after = After::default();
        let at = self.dispatcher.cancel(self.tickets[&id], self.now, &mut after);
        if !told && at == Some(Where::Worker) {
            after.ring = Bells::default();
        }
        self.settle(after);
        self.keep();
        at
    }

    pub(super) fn session(&mut self) -> Option<Arc<Tag>> {
        self.change(Dispatcher::open_session).unwrap()
    }

    /// The session of a name, made if there is none.
    pub(super) fn named(
        &mut self,
        name: &str,
        options: SessionOptions,
    ) -> Result<Arc<Tag>, CallError> {
        self.named_in(Space::HOST, name, options)
    }

    /// The session of a name in a space.
    pub(super) fn named_in(
        &mut self,
        space: Space,
        name: &str,
        options: SessionOptions,
    ) -> Result<Arc<Tag>, CallError> {
        self.change(|pool, now, after| pool.find_session((space, name), options, now, after))
    }

    pub(super) fn end_session(&mut self, tag: &Tag) -> bool {
        self.change(|pool, now, after| pool.close_session(tag, now, after))
    }

    /// Does what a caller does, and what follows.
    pub(super) fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Dispatcher, Instant, &mut After) -> T,
    ) -> T {
        let mut after = After::default();
        let result = change(&mut self.dispatcher, self.now, &mut after);
        self.settle(after);
        self.keep();
        result
    }

    /// Where the session's worker is.
    pub(super) fn place_of(&self, tag: &Tag) -> Option<usize> {
        let worker = self.dispatcher.worker_of(tag)?;
        Some(usize::try_from(worker.id.0).unwrap())
    }

    pub(super) fn recycle(&mut self, place: usize) -> bool {
        let mut after = After::default();
        let can = self.dispatcher.asked_to_recycle(place, self.now, &mut after);
        self.settle(after);
        self.keep();
        can
    }

    pub(super) fn outcome(&mut self, id: u64) -> Option<Result<Bytes, CallError>> {
        self.outcomes.get_mut(&id).unwrap().try_recv().ok()
    }

    pub(super) fn states(&self) -> Vec<crate::worker::WorkerState> {
        self.dispatcher.workers().iter().map(|info| info.state).collect()
    }
}
