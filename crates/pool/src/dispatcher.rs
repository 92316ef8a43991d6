//! Which call goes to which worker, and when: every decision of a pool, as one value without I/O.
//!
//! Owns the calls that wait and what is known about each worker. The pool keeps it behind one mutex
//! that is held for less than a microsecond and never across an await; callers and worker
//! connections change it and then ring the bells it names. One lock costs a call one task switch
//! less each way than a loop with a mailbox would (ADR 0003). It cannot fail; it is tested against
//! its rules in `dispatcher/tests.rs`.
//!
//! Rules: calls are given out in the order of their ids, which is the order of acceptance, and a
//! call that comes back from a dead worker keeps its id. A worker gets at most its [`Window`] of
//! calls. The least loaded worker is served first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use snakehouse_base::id::{Incarnation, WorkerId};
use snakehouse_wire::ToolInfo;

use crate::call::{Call, CallError, Where};
use crate::death::Death;
use crate::window::Window;
use crate::worker::{Life, WorkerInfo, WorkerRef, WorkerState};

#[cfg(test)]
mod tests;

/// A call that had to be given out again so often, because its worker died before it ran anything,
/// is not given out once more.
const MOST_DEATHS: u32 = 3;

/// The state of a pool.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    limit: usize,
    next_call: u64,
    next_session: u64,
    /// Calls that any worker may run.
    waiting: BTreeMap<u64, Call>,
    /// Calls that wait, those of sessions included.
    count: usize,
    seats: Vec<Seat>,
    /// Why the last worker ended.
    last_end: Option<String>,
    stopped: bool,
}

/// A worker's place, over all its incarnations.
#[derive(Debug)]
struct Seat {
    incarnation: Incarnation,
    state: SeatState,
    pid: Option<u32>,
    restarts: u64,
    answered: u64,
    /// Given to the worker and not answered: those in `outbox` and those its connection has.
    in_flight: usize,
    window: Window,
    /// Calls of sessions on the current incarnation.
    pinned: BTreeMap<u64, Call>,
    outbox: Vec<Call>,
    /// Calls to be cancelled, by id. Nobody here knows which connection has a call, so every one
    /// that has any is told; those that do not have it ignore it. Emptied by the next exchange.
    cancels: Vec<u64>,
    numbers: HashMap<String, u16>,
    tools: Arc<[ToolInfo]>,
    life: Option<Arc<Life>>,
    sessions: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SeatState {
    Starting,
    Serving,
    Stopping,
    Dead,
}

/// What the caller of a method has to do once the lock is free.
#[derive(Debug, Default)]
pub(crate) struct After {
    /// Connections to wake, by the place of their worker.
    pub(crate) ring: Vec<usize>,
    /// Calls to finish.
    pub(crate) fail: Vec<(Call, CallError)>,
}

impl Dispatcher {
    /// A pool of so many workers, none of which has begun, where `limit` calls may wait.
    pub(crate) fn new(workers: usize, limit: usize) -> Self {
        let seat = || Seat {
            incarnation: Incarnation(0),
            state: SeatState::Dead,
            pid: None,
            restarts: 0,
            answered: 0,
            in_flight: 0,
            window: Window::new(),
            pinned: BTreeMap::new(),
            outbox: Vec::new(),
            cancels: Vec::new(),
            numbers: HashMap::new(),
            tools: Arc::default(),
            life: None,
            sessions: 0,
        };
        Self {
            limit,
            next_call: 1,
            next_session: 1,
            waiting: BTreeMap::new(),
            count: 0,
            seats: std::iter::repeat_with(seat).take(workers).collect(),
            last_end: None,
            stopped: false,
        }
    }

    // What callers do.

    /// Accepts a call, for one incarnation if `life` names it. Sets its id and returns it.
    pub(crate) fn submit(
        &mut self,
        mut call: Call,
        life: Option<&Life>,
        after: &mut After,
    ) -> Result<u64, CallError> {
        if self.stopped {
            return Err(CallError::Stopped);
        }
        if self.count >= self.limit {
            return Err(CallError::Saturated { limit: self.limit });
        }
        call.id = self.next_call;
        let id = call.id;
        match life {
            None => {
                self.waiting.insert(id, call);
            }
            Some(life) => {
                let seat = self.seat_of(life)?;
                self.seats[seat].pinned.insert(id, call);
            }
        }
        self.next_call += 1;
        self.count += 1;
        self.hand_out(after);
        Ok(id)
    }

    /// Forgets a call whose caller is gone. A call that is at a worker is cancelled there and
    /// answered nonetheless, since only the answer shows that the worker is free.
    pub(crate) fn cancel(&mut self, id: u64, after: &mut After) -> Where {
        if self.waiting.remove(&id).is_some() {
            self.count -= 1;
            return Where::Queue;
        }
        for seat in &mut self.seats {
            if seat.pinned.remove(&id).is_some() {
                self.count -= 1;
                return Where::Queue;
            }
            if let Some(place) = seat.outbox.iter().position(|call| call.id == id) {
                seat.outbox.remove(place);
                seat.in_flight -= 1;
                self.hand_out(after);
                return Where::Queue;
            }
        }
        for (place, seat) in self.seats.iter_mut().enumerate() {
            if seat.in_flight > seat.outbox.len() {
                seat.cancels.push(id);
                after.ring.push(place);
            }
        }
        Where::Worker
    }

    /// A session on the serving worker that has the fewest.
    pub(crate) fn open_session(&mut self) -> Result<Option<(u64, Arc<Life>)>, CallError> {
        if self.stopped {
            return Err(CallError::Stopped);
        }
        let serving = self.seats.iter_mut().filter(|seat| seat.state == SeatState::Serving);
        let Some(seat) = serving.min_by_key(|seat| seat.sessions) else { return Ok(None) };
        let Some(life) = seat.life.clone() else { return Ok(None) };
        seat.sessions += 1;
        let id = self.next_session;
        self.next_session += 1;
        Ok(Some((id, life)))
    }

    /// A session ended.
    pub(crate) fn close_session(&mut self, life: &Life) {
        if let Ok(seat) = self.seat_of(life) {
            self.seats[seat].sessions -= 1;
        }
    }

    /// Refuses everything from now on; what waits is stopped.
    pub(crate) fn stop(&mut self, after: &mut After) {
        self.stopped = true;
        let pinned = self.seats.iter_mut().flat_map(|seat| std::mem::take(&mut seat.pinned));
        let calls = std::mem::take(&mut self.waiting).into_iter().chain(pinned);
        after.fail.extend(calls.map(|(_, call)| (call, CallError::Stopped)));
        self.count = 0;
    }

    // What connections do.

    /// A new incarnation begins.
    pub(crate) fn starting(&mut self, place: usize) -> Incarnation {
        let seat = &mut self.seats[place];
        if seat.incarnation.0 > 0 {
            seat.restarts += 1;
        }
        seat.incarnation = Incarnation(seat.incarnation.0 + 1);
        seat.state = SeatState::Starting;
        seat.incarnation
    }

    /// The incarnation has a process.
    pub(crate) fn started(&mut self, place: usize, pid: u32) {
        self.seats[place].pid = Some(pid);
    }

    /// The incarnation said hello and serves.
    pub(crate) fn serving(&mut self, place: usize, tools: Vec<ToolInfo>, after: &mut After) {
        let seat = &mut self.seats[place];
        seat.state = SeatState::Serving;
        seat.window = Window::new();
        seat.numbers = tools.iter().map(|tool| (tool.name.clone(), tool.number)).collect();
        seat.tools = tools.into();
        seat.life = Some(Life::new(WorkerRef {
            id: worker_id(place),
            incarnation: seat.incarnation,
            pid: seat.pid.unwrap_or_default(),
        }));
        self.hand_out(after);
    }

    /// The worker was told to end and gets no more calls.
    pub(crate) fn stopping(&mut self, place: usize) {
        self.seats[place].state = SeatState::Stopping;
    }

    /// What the connection has to do. `answered` calls came back since the last time, after `busy`
    /// of working time.
    pub(crate) fn exchange(
        &mut self,
        place: usize,
        answered: usize,
        busy: Duration,
        calls: &mut Vec<Call>,
        cancels: &mut Vec<u64>,
        after: &mut After,
    ) {
        if answered > 0 {
            let seat = &mut self.seats[place];
            seat.in_flight -= answered;
            seat.answered += answered as u64;
            seat.window.record(answered, busy);
            self.hand_out(after);
            // The one who asks need not be woken.
            after.ring.retain(|&rung| rung != place);
        }
        let seat = &mut self.seats[place];
        calls.append(&mut seat.outbox);
        cancels.append(&mut seat.cancels);
    }

    /// The incarnation is dead. `unstarted` are calls that it had and did not start.
    pub(crate) fn gone(
        &mut self,
        place: usize,
        death: &Death,
        unstarted: Vec<Call>,
        after: &mut After,
    ) {
        let seat = &mut self.seats[place];
        seat.state = SeatState::Dead;
        seat.pid = None;
        seat.in_flight = 0;
        seat.sessions = 0;
        let cancels = std::mem::take(&mut seat.cancels);
        if let Some(life) = seat.life.take() {
            life.end(death.clone());
        }
        let lost = CallError::SessionLost {
            worker: worker_id(place),
            incarnation: seat.incarnation,
            cause: death.clone(),
        };
        let pinned = std::mem::take(&mut seat.pinned);
        self.count -= pinned.len();
        after.fail.extend(pinned.into_values().map(|call| (call, lost.clone())));
        for call in std::mem::take(&mut seat.outbox).into_iter().chain(unstarted) {
            if cancels.contains(&call.id) || call.is_abandoned() {
                // The cancel came too late for the connection.
            } else if call.session != 0 {
                after.fail.push((call, lost.clone()));
            } else if self.stopped {
                after.fail.push((call, CallError::Stopped));
            } else if call.deaths > MOST_DEATHS {
                let (worker, incarnation) = (worker_id(place), seat.incarnation);
                let cause = death.clone();
                let error = CallError::WorkerDied { worker, incarnation, started: false, cause };
                after.fail.push((call, error));
            } else {
                self.count += 1;
                self.waiting.insert(call.id, call);
            }
        }
        self.hand_out(after);
    }

    /// An incarnation ended, or could not begin, for this reason.
    pub(crate) fn ended(&mut self, why: String) {
        self.last_end = Some(why);
    }

    // What others see.

    /// Why the last worker ended, if none serves now. `None` also while the first ones start.
    pub(crate) fn why_none_serves(&self) -> Option<&str> {
        let serves = |seat: &Seat| matches!(seat.state, SeatState::Serving | SeatState::Stopping);
        self.last_end.as_deref().filter(|_| !self.seats.iter().any(serves))
    }

    /// Every worker, without its memory.
    pub(crate) fn workers(&self) -> Vec<WorkerInfo> {
        let info = |(place, seat): (usize, &Seat)| WorkerInfo {
            id: worker_id(place),
            incarnation: seat.incarnation,
            state: match seat.state {
                SeatState::Starting => WorkerState::Starting,
                SeatState::Serving if seat.in_flight > 0 => WorkerState::Busy,
                SeatState::Serving => WorkerState::Ready,
                SeatState::Stopping => WorkerState::Stopping,
                SeatState::Dead => WorkerState::Dead,
            },
            pid: seat.pid,
            calls: seat.answered,
            in_flight: seat.in_flight,
            window: seat.window.size(),
            restarts: seat.restarts,
            rss: None,
        };
        self.seats.iter().enumerate().map(info).collect()
    }

    /// Calls that wait for a worker.
    pub(crate) fn waiting(&self) -> usize {
        self.count
    }

    /// The tools of the first worker that ever served.
    pub(crate) fn tools(&self) -> Arc<[ToolInfo]> {
        let known = self.seats.iter().find(|seat| !seat.tools.is_empty());
        known.map(|seat| seat.tools.clone()).unwrap_or_default()
    }

    // The decision.

    /// Gives out calls for as long as a worker has room.
    fn hand_out(&mut self, after: &mut After) {
        // A session's calls have only one place to go to.
        for place in 0..self.seats.len() {
            while self.seats[place].has_room() {
                let Some((&first, _)) = self.seats[place].pinned.first_key_value() else { break };
                if self.waiting.first_key_value().is_some_and(|(&id, _)| id < first)
                    && self.least_loaded() == Some(place)
                {
                    // An older call goes to this worker first, so that neither kind starves.
                    let call = self.waiting.pop_first();
                    self.give(place, call, after);
                    continue;
                }
                let call = self.seats[place].pinned.pop_first();
                self.give(place, call, after);
            }
        }
        while !self.waiting.is_empty() {
            let Some(place) = self.least_loaded() else { break };
            let call = self.waiting.pop_first();
            self.give(place, call, after);
        }
    }

    fn give(&mut self, place: usize, call: Option<(u64, Call)>, after: &mut After) {
        let Some((_, mut call)) = call else { return };
        self.count -= 1;
        if call.is_abandoned() {
            return;
        }
        let seat = &mut self.seats[place];
        let Some(&number) = seat.numbers.get(&call.tool) else {
            let known = seat.tools.iter().map(|tool| tool.name.clone()).collect();
            let error = CallError::UnknownTool { tool: call.tool.clone(), known };
            after.fail.push((call, error));
            return;
        };
        call.number = number;
        seat.in_flight += 1;
        seat.outbox.push(call);
        if !after.ring.contains(&place) {
            after.ring.push(place);
        }
    }

    fn least_loaded(&self) -> Option<usize> {
        let with_room = self.seats.iter().enumerate().filter(|(_, seat)| seat.has_room());
        with_room.min_by_key(|(_, seat)| seat.in_flight).map(|(place, _)| place)
    }

    /// Where an incarnation serves, if it still does.
    fn seat_of(&self, life: &Life) -> Result<usize, CallError> {
        let place = usize::try_from(life.worker.id.0).unwrap_or(usize::MAX);
        match self.seats.get(place) {
            Some(seat)
                if seat.incarnation == life.worker.incarnation
                    && matches!(seat.state, SeatState::Serving | SeatState::Stopping) =>
            {
                Ok(place)
            }
            _ => Err(CallError::SessionLost {
                worker: life.worker.id,
                incarnation: life.worker.incarnation,
                cause: life.death().cloned().unwrap_or(Death::Unknown),
            }),
        }
    }
}

impl Seat {
    fn has_room(&self) -> bool {
        self.state == SeatState::Serving && self.in_flight < self.window.size()
    }
}

/// Workers are named by their place.
pub(crate) fn worker_id(place: usize) -> WorkerId {
    WorkerId(place as u64)
}
