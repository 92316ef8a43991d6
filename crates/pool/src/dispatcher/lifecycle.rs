//! What becomes of workers: begun, serving, replaced, let go, dead; and how many there shall be.
//!
//! One rule decides, after every change: [`settle`](Dispatcher::settle). A worker that says hello
//! is a spare one; spare ones are promoted while fewer serve than shall, then take the place of those
//! that are to be replaced, which drain; and places are opened and closed until as many workers are
//! there or on their way as shall be. So growth, standby, replacement and recovery are one thing.

use snakehouse_base::ByteSize;
use snakehouse_base::id::Incarnation;
use snakehouse_supervise::CancellationToken;
use snakehouse_wire::ToolInfo;
use tokio::time::Instant;

use crate::call::{Call, CallError};
use crate::death::{Death, KillReason};
use crate::phase::{Phase, Step};
use crate::window::Window;
use crate::worker::{Birth, Life, WorkerRef};

use super::ledger::{At, List, Ticket};
use super::nesting::RETURNS_WITHIN;
use super::seat::Why;
use super::weight::{Verdict, Weight};
use super::{After, Dispatcher, MOST_DEATHS, worker_id};

/// What a worker's hello says to the dispatcher.
#[derive(Debug)]
pub(crate) struct Hail {
    /// The tools it serves.
    pub(crate) tools: Vec<ToolInfo>,
    /// Calls it runs at once; at least 1.
    pub(crate) capacity: usize,
    /// Whether it is to be told of sessions.
    pub(crate) hears_of_sessions: bool,
}

/// What a dead worker had and did not start.
#[derive(Debug, Default)]
pub(crate) struct Unstarted {
    pub(crate) calls: Vec<Call>,
    /// Those whose callers had left before.
    pub(crate) cancelled: Vec<Ticket>,
}

/// What the keeper has to do.
#[derive(Debug, Default)]
pub(crate) struct Chores {
    /// Places whose workers are to be started.
    pub(crate) open: Vec<usize>,
    /// Workers whose memory is to be measured: place, incarnation, process.
    pub(crate) measure: Vec<(usize, Incarnation, u32)>,
    /// When it should look again, if nobody wakes it before.
    pub(crate) next: Option<Instant>,
}

impl Dispatcher {
    // What the children of the places tell.

    /// A new incarnation begins; `stop` tells it to end. `None`: no worker is wanted here any more.
    pub(crate) fn starting(
        &mut self,
        place: usize,
        stop: CancellationToken,
    ) -> Option<Incarnation> {
        let seat = &mut self.seats[place];
        seat.stop = stop;
        if seat.closing {
            return None;
        }
        if seat.incarnation.0 > 0 {
            seat.restarts += 1;
        }
        seat.returns_by = None;
        seat.incarnation = Incarnation(seat.incarnation.0 + 1);
        let incarnation = seat.incarnation;
        self.counters.starts += 1;
        self.step(place, Step::Begin);
        Some(incarnation)
    }

    /// The token that tells the incarnation to come to end before it begins.
    pub(crate) fn awaiting(&mut self, place: usize, stop: CancellationToken) -> bool {
        let seat = &mut self.seats[place];
        seat.stop = stop;
        !seat.closing
    }

    /// The incarnation has a process.
    pub(crate) fn started(&mut self, place: usize, pid: u32, birth: Birth) {
        // What is on another host cannot be looked at by its number.
        self.seats[place].pid = Some(pid).filter(|pid| *pid != 0);
        self.seats[place].birth = Some(birth);
    }

    /// The incarnation said hello.
    pub(crate) fn serving(&mut self, place: usize, hail: Hail, now: Instant, after: &mut After) {
        if self.seats[place].phase == Phase::Stopping {
            // It was told to end before it could say it.
            return;
        }
        self.step(place, Step::Hello);
        self.counters.served += 1;
        let recycle = &self.config.recycle;
        let part = 1.0 - recycle.jitter.clamp(0.0, 1.0) * self.chance.next_unit();
        let seat = &mut self.seats[place];
        seat.window = Window::new();
        seat.capacity = hail.capacity.max(1);
        seat.hears_of_sessions = hail.hears_of_sessions;
        seat.numbers = hail.tools.iter().map(|tool| (tool.name.clone(), tool.number)).collect();
        seat.tools = hail.tools.into();
        seat.too_old = recycle.age.map(|age| now + age.mul_f64(part));
        seat.calls_left = recycle.calls.map(|calls| part_of(calls, part));
        let weighed = seat.pid.and(recycle.memory); // Only a process here can be.
        seat.weight = weighed.map(|limit| Weight::new(limit.0, seat.capacity, now));
        seat.was_spare = false;
        seat.life = Some(Life::new(WorkerRef {
            id: worker_id(place),
            incarnation: seat.incarnation,
            pid: seat.pid.unwrap_or_default(),
        }));
        let times = [seat.too_old, seat.weight.as_ref().and_then(Weight::due)];
        for at in times.into_iter().flatten() {
            self.arm(at, after);
        }
        self.settle(now, after);
        let seat = &mut self.seats[place];
        seat.was_spare = seat.phase == Phase::Standby;
    }

    /// The worker was told to end and gets no more calls.
    pub(crate) fn stopping(&mut self, place: usize) {
        self.step(place, Step::Stop);
    }

    /// The incarnation is dead, and this is what it had and did not start. Whether nobody had asked
    /// for its end.
    pub(crate) fn gone(
        &mut self,
        place: usize,
        death: &Death,
        unstarted: Unstarted,
        now: Instant,
        after: &mut After,
    ) -> bool {
        let was_unasked = self.seats[place].phase != Phase::Stopping && !self.stopped;
        self.counters.deaths += u64::from(was_unasked);
        let served = self.seats[place].phase.is_up();
        self.step(place, Step::Die);
        let lost = CallError::SessionLost {
            worker: worker_id(place),
            incarnation: self.seats[place].incarnation,
            cause: death.clone(),
        };
        self.lose_sessions(place, death, &lost, after);
        let seat = &mut self.seats[place];
        let mut given = std::mem::take(&mut seat.given);
        let mut outbox = std::mem::take(&mut seat.outbox);
        seat.pid = None;
        seat.birth = None;
        seat.streams = 0;
        (seat.stuck, seat.recalls) = (false, false);
        (seat.blocked, seat.nested) = (Vec::new(), Vec::new());
        seat.own.clear();
        seat.pinned_chained.clear();
        seat.returns_by = (served && was_unasked).then(|| now + RETURNS_WITHIN);
        seat.retire = None;
        seat.too_old = None;
        seat.calls_left = None;
        seat.weight = None;
        seat.drain_by = None;
        seat.idle_since = None;
        seat.cancels.clear();
        for ticket in unstarted.cancelled {
            if self.ledger.find(ticket) == Some(At::Given(place)) {
                self.ledger.remove(ticket, &mut given);
                self.counters.cancelled += 1;
            }
        }
        for call in unstarted.calls {
            self.again(place, call, &mut given, death, &lost, after);
        }
        while let Some(first) = self.ledger.first(&outbox) {
            match self.ledger.lend(first) {
                Some(call) => self.again(place, call, &mut outbox, death, &lost, after),
                None => drop(self.ledger.remove(first, &mut outbox)),
            }
        }
        // Those are told by the connection that had them.
        while let Some(first) = self.ledger.first(&given) {
            self.ledger.remove(first, &mut given);
            self.counters.failed += 1;
        }
        self.settle(now, after);
        self.nest(now, after);
        if !self.waiting.is_empty() {
            self.miss_workers(now, after);
        }
        was_unasked
    }

    /// A call that a dead worker had and did not start.
    fn again(
        &mut self,
        place: usize,
        call: Call,
        list: &mut List,
        death: &Death,
        lost: &CallError,
        after: &mut After,
    ) {
        let ticket = call.ticket;
        let error = if self.ledger.is_cancelled(ticket) || call.is_abandoned() {
            // The cancel came too late for the connection.
            self.ledger.remove(ticket, list);
            self.counters.cancelled += 1;
            after.over.push(call);
            return;
        } else if call.session.as_ref().is_some_and(|tag| tag.is_strict()) {
            lost.clone()
        } else if self.stopped {
            CallError::Stopped
        } else if call.deaths > MOST_DEATHS {
            let (worker, incarnation) = (worker_id(place), self.seats[place].incarnation);
            let cause = death.clone();
            CallError::WorkerDied { worker, incarnation, started: false, cause }
        } else {
            self.counters.given_back += 1;
            self.give_back(call, At::Waiting, list);
            return;
        };
        self.ledger.remove(ticket, list);
        self.fail(Some(call), error, after);
    }

    /// An incarnation ended, or could not begin, for this reason. If none ever served and none is
    /// about to, what waits need not wait for its deadline.
    pub(crate) fn ended(&mut self, why: String, now: Instant, after: &mut After) {
        let starting = self.seats.iter().any(|seat| seat.phase == Phase::Starting);
        if self.counters.served == 0 && !starting {
            self.failed_starts += 1;
            self.fail_waiting(&CallError::NoWorker { cause: why.clone() }, after);
            self.close_books(now, after);
        }
        self.last_end = Some(why);
    }

    /// Whether no worker is wanted here once this one is gone.
    pub(crate) fn is_closing(&self, place: usize) -> bool {
        self.seats[place].closing
    }

    /// The child of a place that was closed is gone.
    pub(crate) fn closed(&mut self, place: usize, now: Instant, after: &mut After) {
        if self.seats[place].closing && self.step(place, Step::Close) {
            self.seats[place].closing = false;
            // There may have been no place for a worker that is wanted.
            self.settle(now, after);
        }
    }

    // What the keeper does.

    /// What is due: growth if `room` is left for starts, age, memory, drains, idleness.
    pub(crate) fn chores(&mut self, now: Instant, room: bool, after: &mut After) -> Chores {
        if self.stopped {
            return Chores::default();
        }
        self.grow(now, room);
        self.shrink(now, after);
        self.expire_sessions(now, after);
        for place in 0..self.seats.len() {
            let old = self.seats[place].too_old.is_some_and(|at| at <= now);
            if old && self.can_retire(place) {
                self.retire(place, Why::Age, now, after);
            }
            if self.seats[place].drain_by.is_some_and(|by| by <= now) {
                self.give_up_drain(place, after);
            }
        }
        let mut measure = Vec::new();
        for (place, seat) in self.seats.iter_mut().enumerate() {
            let in_flight = seat.in_flight();
            if let Some(weight) = &mut seat.weight
                && weight.due().is_some_and(|from| from <= now)
                && let Some(pid) = seat.pid
            {
                weight.begin(in_flight, now);
                measure.push((place, seat.incarnation, pid));
            }
        }
        self.give_up_returns(now);
        // Who is weighed may have calls again.
        self.settle(now, after);
        self.nest(now, after);
        self.armed = self.next();
        after.keeper = false;
        Chores { open: std::mem::take(&mut self.opened), measure, next: self.armed }
    }

    /// The process group of a worker holds so much memory.
    pub(crate) fn measured(
        &mut self,
        place: usize,
        incarnation: Incarnation,
        held: ByteSize,
        now: Instant,
        after: &mut After,
    ) {
        let seat = &mut self.seats[place];
        let Some(weight) = seat.weight.as_mut().filter(|_| seat.incarnation == incarnation) else {
            return;
        };
        match weight.weighed(held.0, now) {
            Verdict::Light => self.was_light |= weight.has_answered(),
            // The next one would be the same.
            Verdict::TooHeavy { answered: 0, .. } => self.cannot_be_light(place, held),
            Verdict::TooHeavy { is_first: true, .. } if !self.was_light => {
                self.cannot_be_light(place, held);
            }
            Verdict::TooHeavy { .. } => {
                if self.can_retire(place) {
                    self.retire(place, Why::Memory, now, after);
                }
            }
        }
        self.settle(now, after);
        if let Some(at) = self.seats[place].weight.as_ref().and_then(Weight::due) {
            self.arm(at, after);
        }
    }

    /// The memory to recycle at is less than a worker needs to begin: it is kept.
    fn cannot_be_light(&mut self, place: usize, held: ByteSize) {
        self.counters.memory_too_low += 1;
        if self.counters.memory_too_low == 1 {
            let worker = worker_id(place);
            tracing::warn!(
                event = "memory_too_low", %worker, %held,
                "the memory to recycle at is less than a fresh worker holds: nothing is replaced for it"
            );
        }
    }

    /// Somebody wants a worker to be replaced; whether there is one that can be.
    pub(crate) fn asked_to_recycle(
        &mut self,
        place: usize,
        now: Instant,
        after: &mut After,
    ) -> bool {
        let can = self.can_retire(place);
        if can {
            self.retire(place, Why::Asked, now, after);
            self.settle(now, after);
        }
        can
    }

    fn can_retire(&self, place: usize) -> bool {
        let lives = |phase| matches!(phase, Phase::Serving | Phase::Standby);
        self.seats.get(place).is_some_and(|seat| lives(seat.phase) && seat.retire.is_none())
    }

    /// When something is due that nobody tells.
    fn next(&self) -> Option<Instant> {
        let seats = self.seats.iter().enumerate().flat_map(|(place, seat)| {
            let shrinks = self.target > self.config.least();
            let idle = seat.idle_until(self.config.shrink_after).filter(|_| shrinks);
            let old = seat.too_old.filter(|_| self.can_retire(place));
            let measure = seat.weight.as_ref().and_then(Weight::due);
            [idle, old, measure, seat.drain_by]
        });
        let returns = self.returns_by().filter(|_| !self.nesting.is_empty());
        let others = [returns, self.grows_at(), self.sessions.next_expiry()];
        seats.chain(others).flatten().min()
    }

    /// Has the keeper look at that time at the latest.
    pub(super) fn arm(&mut self, at: Instant, after: &mut After) {
        if self.armed.is_none_or(|armed| at < armed) {
            self.armed = Some(at);
            after.keeper = true;
        }
    }

    // How many there shall be.

    /// A call waits, or a session: a pool that has no workers needs the first one, and one that may
    /// grow looks again later.
    pub(super) fn miss_workers(&mut self, now: Instant, after: &mut After) {
        if self.target == 0 {
            self.target = self.config.least().max(1);
            self.grown = Some(now);
            self.settle(now, after);
        } else if let Some(at) = self.grows_at() {
            self.arm(at, after);
        }
    }

    /// When the pool may grow for the oldest call that waits. Not for calls that the workers which
    /// are on their way will take.
    fn grows_at(&self) -> Option<Instant> {
        if self.target >= self.config.most() || self.target == 0 {
            return None;
        }
        let missing = self.target.saturating_sub(self.open_workers());
        let capacity = self.seats.iter().map(|seat| seat.capacity).max().unwrap_or(1);
        if self.waiting.len() <= missing * capacity {
            return None;
        }
        let waits = self.ledger.accepted(self.ledger.first(&self.waiting)?)?;
        // One at a time: the last one may be what was needed.
        let since = self.grown.map_or(waits, |grown| grown.max(waits));
        Some(since + self.config.grow_after)
    }

    fn grow(&mut self, now: Instant, room: bool) {
        if self.grows_at().is_some_and(|at| at <= now) {
            self.grown = Some(now);
            if room {
                self.target += 1;
                self.counters.grown += 1;
                tracing::info!(workers = self.target, "pool grows: calls wait");
            }
        }
    }

    fn shrink(&mut self, now: Instant, after: &mut After) {
        while self.target > self.config.least() {
            let due = |place: &usize| {
                self.seats[*place].idle_until(self.config.shrink_after).is_some_and(|at| at <= now)
            };
            let idle = (0..self.seats.len()).filter(due);
            let Some(place) = idle.max_by_key(|place| self.seats[*place].retire.is_some()) else {
                return;
            };
            self.target -= 1;
            self.counters.shrunk += 1;
            tracing::info!(workers = self.target, "pool shrinks: a worker had nothing to do");
            self.close(place, now, after);
        }
    }

    /// Marks a worker to be replaced. A spare one is let go: the next is started for it.
    fn retire(&mut self, place: usize, why: Why, now: Instant, after: &mut After) {
        match self.seats[place].phase {
            Phase::Serving => self.seats[place].retire = Some(why),
            Phase::Standby => self.close(place, now, after),
            // Whoever asks looks first.
            _ => return,
        }
        // It is not held up for a second reason.
        self.seats[place].weight = None;
        match why {
            Why::Age => self.counters.recycled_age += 1,
            Why::Calls => self.counters.recycled_calls += 1,
            Why::Memory => self.counters.recycled_memory += 1,
            Why::Asked => self.counters.recycled_asked += 1,
        }
        let (worker, incarnation) = (worker_id(place), self.seats[place].incarnation);
        tracing::info!(%worker, %incarnation, ?why, "worker is to be replaced");
    }

    /// A worker answered calls.
    pub(super) fn wear(&mut self, place: usize, calls: u64, now: Instant, after: &mut After) {
        if let Some(weight) = &mut self.seats[place].weight {
            weight.answered(calls, now);
            if let Some(at) = weight.due() {
                self.arm(at, after);
            }
        }
        let seat = &mut self.seats[place];
        if let Some(left) = &mut seat.calls_left {
            *left = left.saturating_sub(calls);
            if *left == 0 && self.can_retire(place) {
                self.retire(place, Why::Calls, now, after);
                self.settle(now, after);
            }
        }
    }

    /// Has as many workers serve, spare and on their way as shall be, and gives out calls.
    fn settle(&mut self, now: Instant, after: &mut After) {
        if !self.stopped {
            self.furnish(now, after);
            self.fit_places(now, after);
        }
        self.hand_out(now, after);
        if let Some(at) = self.grows_at() {
            self.arm(at, after);
        }
    }

    /// Spare workers serve while fewer serve than shall, and then in place of those that are to be
    /// replaced.
    fn furnish(&mut self, now: Instant, after: &mut After) {
        while let Some(spare) = self.find(Phase::Standby) {
            let open = self.open_workers();
            let retiring = self.seats.iter().position(|s| s.is_open() && s.retire.is_some());
            if open >= self.target && retiring.is_none() {
                return;
            }
            if self.seats[spare].was_spare {
                self.counters.promoted += 1;
                tracing::info!(worker = %worker_id(spare), "spare worker takes over");
            }
            self.step(spare, Step::Promote);
            self.rest(spare, now, after);
            if open >= self.target
                && let Some(old) = retiring
            {
                self.close(old, now, after);
            }
        }
    }

    /// Opens and closes places.
    pub(super) fn fit_places(&mut self, now: Instant, after: &mut After) {
        let retiring = self.seats.iter().filter(|s| s.is_kept() && s.retire.is_some()).count();
        let at_once = self.target.div_ceil(4);
        let wanted = self.target + self.config.standby + retiring.min(at_once);
        let mut kept = self.seats.iter().filter(|seat| seat.is_kept()).count();
        while kept < wanted {
            // A place that is still being left is told of by `closed`.
            let Some(place) = self.find(Phase::Vacant) else { break };
            self.step(place, Step::Open);
            self.opened.push(place);
            after.keeper = true;
            kept += 1;
        }
        while kept > wanted {
            let one =
                [Phase::Dead, Phase::Starting, Phase::Standby].into_iter().find_map(|phase| {
                    self.seats.iter().rposition(|seat| seat.phase == phase && !seat.closing)
                });
            let Some(place) = one else { break };
            self.close(place, now, after);
            kept -= 1;
        }
    }

    /// No worker is wanted at this place any more.
    fn close(&mut self, place: usize, now: Instant, after: &mut After) {
        let seat = &mut self.seats[place];
        seat.closing = true;
        match seat.phase {
            Phase::Vacant | Phase::Draining | Phase::Stopping => {}
            Phase::Serving => {
                let by = now + self.config.recycle.drain_within;
                self.seats[place].drain_by = Some(by);
                self.step(place, Step::Drain);
                self.arm(by, after);
                self.rest(place, now, after);
            }
            Phase::Dead => match self.opened.iter().position(|opened| *opened == place) {
                // Its child was not started yet, and never is.
                Some(opened) => {
                    self.opened.remove(opened);
                    self.seats[place].closing = false;
                    self.step(place, Step::Close);
                }
                None => after.stop.push(self.seats[place].stop.clone()),
            },
            Phase::Starting | Phase::Standby => self.end(place, after),
        }
    }

    /// Tells a worker to end.
    pub(super) fn end(&mut self, place: usize, after: &mut After) {
        self.step(place, Step::Stop);
        let seat = &mut self.seats[place];
        seat.drain_by = None;
        after.stop.push(seat.stop.clone());
    }

    /// A worker that is to be replaced was not done in time.
    fn give_up_drain(&mut self, place: usize, after: &mut After) {
        let death = Death::Killed(KillReason::Recycled);
        let (worker, incarnation) = (worker_id(place), self.seats[place].incarnation);
        tracing::warn!(%worker, %incarnation, "worker that is replaced is not done in time");
        let lost = CallError::SessionLost { worker, incarnation, cause: death.clone() };
        self.lose_sessions(place, &death, &lost, after);
        self.end(place, after);
    }

    fn find(&self, phase: Phase) -> Option<usize> {
        self.seats.iter().position(|seat| seat.phase == phase)
    }
}

/// The same part of a number of calls; at least one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a part between 0 and 1 of a count, where a few calls more or less are the point"
)]
fn part_of(calls: u64, part: f64) -> u64 {
    ((calls as f64 * part) as u64).max(1)
}
