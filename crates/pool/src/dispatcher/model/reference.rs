//! What the dispatcher is compared with: all calls in one vector, and rules that look at all of it.

use snakehouse_base::Deadline;

use super::*;

/// A call as the reference sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RefCall {
    pub(super) id: u64,
    pub(super) stream: bool,
    /// The incarnation that its session is bound to.
    pub(super) pin: Option<(usize, Incarnation)>,
    /// Where it is; `None` is waiting.
    pub(super) at: Option<usize>,
    pub(super) cancelled: bool,
    pub(super) deadline: Deadline,
    /// Workers that died with it as the next to start.
    pub(super) deaths: u32,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Answered,
    Cancelled,
    Failed,
}

/// What a place looks like to the reference.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) incarnation: Incarnation,
    pub(super) open: bool,
    pub(super) sessions: bool,
    pub(super) capacity: usize,
    pub(super) window: usize,
    /// Calls are taken back from it.
    pub(super) recalls: bool,
    /// Calls that it may get before its memory is looked at.
    pub(super) budget: u64,
}

#[derive(Debug, Default)]
pub(super) struct Reference {
    /// Open calls by number, which is their age.
    pub(super) calls: Vec<RefCall>,
    pub(super) ends: BTreeMap<u64, End>,
    pub(super) stopped: bool,
}

impl Reference {
    pub(super) fn waiting(&self) -> usize {
        self.calls.iter().filter(|call| call.at.is_none()).count()
    }

    pub(super) fn enter(
        &mut self,
        id: u64,
        stream: bool,
        pin: Option<(usize, Incarnation)>,
        deadline: Deadline,
    ) {
        let call = RefCall { id, stream, pin, at: None, cancelled: false, deadline, deaths: 0 };
        self.calls.push(call);
        self.calls.sort_by_key(|call| call.id);
    }

    pub(super) fn end(&mut self, id: u64, end: End) {
        let before = self.calls.len();
        self.calls.retain(|call| call.id != id);
        assert_eq!(self.calls.len() + 1, before, "call {id} was not open");
        assert_eq!(self.ends.insert(id, end), None, "call {id} ended twice");
    }

    pub(super) fn call(&mut self, id: u64) -> &mut RefCall {
        self.calls.iter_mut().find(|call| call.id == id).expect("it is open")
    }

    /// What a worker's death does to the calls it had; `started` are those that it had begun, and
    /// `suspect` the one that may have been what ended it.
    pub(super) fn dead(&mut self, place: usize, started: &BTreeSet<u64>, suspect: Option<u64>) {
        let had: Vec<_> = self.calls.iter().filter(|c| c.at == Some(place)).cloned().collect();
        for call in had {
            let deaths = call.deaths + u32::from(suspect == Some(call.id));
            if started.contains(&call.id) {
                self.end(call.id, End::Failed);
            } else if call.cancelled {
                self.end(call.id, End::Cancelled);
            } else if call.pin.is_some() || self.stopped || deaths > MOST_DEATHS {
                self.end(call.id, End::Failed);
            } else {
                let call = self.call(call.id);
                (call.at, call.deaths) = (None, deaths);
            }
        }
    }

    /// These calls were at a worker, which did not start them and never will.
    pub(super) fn taken_back(&mut self, ids: &[u64]) {
        for &id in ids {
            if self.call(id).cancelled {
                self.end(id, End::Cancelled);
            } else {
                self.call(id).at = None;
            }
        }
    }

    /// The pool stops: what waits ends, and what comes back from a worker.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        let waiting: Vec<_> = self.calls.iter().filter(|c| c.at.is_none()).map(|c| c.id).collect();
        for id in waiting {
            self.end(id, End::Failed);
        }
    }

    /// Sessions whose worker serves them no more lose what waits.
    pub(super) fn lose_sessions(&mut self, places: &[View]) {
        let lost = |call: &&RefCall| {
            call.at.is_none()
                && call.pin.is_some_and(|(place, incarnation)| {
                    !places[place].sessions || places[place].incarnation != incarnation
                })
        };
        let lost: Vec<_> = self.calls.iter().filter(lost).map(|call| call.id).collect();
        for id in lost {
            self.end(id, End::Failed);
        }
    }

    /// Gives out calls by the rules as they read.
    pub(super) fn hand_out(&mut self, places: &[View], now: Instant) {
        let mut places = places.to_vec();
        while let Some((id, place)) = self.next(&places) {
            match self.call(id).deadline.is_over(now.into_std()) {
                true => self.end(id, End::Cancelled),
                false => {
                    places[place].budget -= 1;
                    self.call(id).at = Some(place);
                }
            }
        }
    }

    fn next(&self, places: &[View]) -> Option<(u64, usize)> {
        let mut stuck_stream = false;
        let mut seen_other = false;
        for call in self.calls.iter().filter(|call| call.at.is_none()) {
            match call.pin {
                Some((place, _)) => {
                    let oldest = self.oldest_pinned(place) == Some(call.id);
                    let held = places[place].open && stuck_stream;
                    if oldest && !held && self.room(place, &places[place], call.stream) {
                        return Some((call.id, place));
                    }
                }
                // Strictly one after the other.
                None if seen_other => {}
                None => {
                    seen_other = true;
                    let free = (0..places.len()).filter(|&place| {
                        places[place].open
                            && self.room(place, &places[place], call.stream)
                            && self.oldest_pinned(place).is_none_or(|pinned| pinned > call.id)
                    });
                    match free.min_by_key(|&place| (self.in_flight(place), place)) {
                        Some(place) => return Some((call.id, place)),
                        None => stuck_stream = call.stream,
                    }
                }
            }
        }
        None
    }

    fn room(&self, place: usize, view: &View, stream: bool) -> bool {
        let has = self.calls.iter().filter(|call| call.at == Some(place));
        let streams = has.filter(|call| call.stream).count();
        let in_flight = self.in_flight(place);
        if !view.sessions || view.recalls || view.budget == 0 {
            false
        } else if stream {
            in_flight < view.capacity
        } else if streams >= view.capacity {
            false
        } else {
            in_flight - streams < view.window.max(view.capacity - streams)
        }
    }

    pub(super) fn in_flight(&self, place: usize) -> usize {
        self.calls.iter().filter(|call| call.at == Some(place)).count()
    }

    fn oldest_pinned(&self, place: usize) -> Option<u64> {
        let pinned = |call: &&RefCall| {
            call.at.is_none() && call.pin.is_some_and(|(bound, _)| bound == place)
        };
        self.calls.iter().find(pinned).map(|call| call.id)
    }
}
