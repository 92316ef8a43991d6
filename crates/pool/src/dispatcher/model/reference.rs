//! What the dispatcher is compared with: all calls in one vector, and rules that look at all of it.

use snakehouse_base::Deadline;

use super::*;

/// A call as the reference sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RefCall {
    pub(super) id: u64,
    pub(super) stream: bool,
    /// Its session.
    pub(super) session: Option<u64>,
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
    pub(super) retires: bool,
    /// It ends because it had nothing more to do.
    pub(super) in_peace: bool,
}

/// A session as the reference sees it.
#[derive(Clone, Debug)]
pub(super) struct RefSession {
    pub(super) id: u64,
    pub(super) affinity: Affinity,
    /// The incarnation that it is bound to, or prefers.
    pub(super) life: Option<(usize, Incarnation)>,
    /// Incarnations that were given calls of it.
    pub(super) homes: BTreeSet<(usize, Incarnation)>,
    /// It was closed, expired or lost.
    pub(super) over: bool,
    /// It is to be forgotten with its last call.
    pub(super) leaving: bool,
    pub(super) name: Option<Arc<str>>,
    ttl: Duration,
    used: Instant,
    /// Whether calls of it were open when it was last looked.
    was_open: bool,
}

#[derive(Debug, Default)]
pub(super) struct Reference {
    pub(super) sessions: Vec<RefSession>,
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
        session: Option<u64>,
        deadline: Deadline,
    ) {
        let call = RefCall { id, stream, session, at: None, cancelled: false, deadline, deaths: 0 };
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
            } else if self.is_strict(&call) || self.stopped || deaths > MOST_DEATHS {
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

    /// The session of a call.
    fn session(&self, call: &RefCall) -> Option<&RefSession> {
        self.sessions.iter().find(|session| Some(session.id) == call.session)
    }

    fn is_strict(&self, call: &RefCall) -> bool {
        self.session(call).is_some_and(|session| session.affinity != Affinity::Hint)
    }

    fn is_impatient(&self, call: &RefCall) -> bool {
        self.session(call).is_some_and(|session| session.affinity == Affinity::FailFast)
    }

    /// The place where a call has to run.
    pub(super) fn pin(&self, call: &RefCall) -> Option<usize> {
        let session = self.session(call).filter(|session| session.affinity != Affinity::Hint)?;
        session.life.map(|(place, _)| place)
    }

    /// Sessions whose worker serves them no more are lost, and what waits of them.
    pub(super) fn lose_sessions(&mut self, places: &[View]) {
        let mut lost = BTreeMap::new();
        for session in self.sessions.iter_mut().filter(|s| s.affinity != Affinity::Hint) {
            let gone = |(place, incarnation): (usize, Incarnation)| {
                !places[place].sessions || places[place].incarnation != incarnation
            };
            if let Some(life) = session.life.filter(|life| gone(*life)) {
                session.over = true;
                session.life = None;
                let view = &places[life.0];
                lost.insert(session.id, view.incarnation == life.1 && view.in_peace);
            }
        }
        let ends = self.calls.iter().filter(|call| call.at.is_none()).filter_map(|call| {
            let in_peace = lost.get(&call.session?)?;
            // A worker that ends in peace ends when the last that it had to do came too late.
            Some((call.id, if *in_peace { End::Cancelled } else { End::Failed }))
        });
        let ends: Vec<_> = ends.collect();
        for (id, end) in ends {
            self.end(id, end);
        }
    }

    pub(super) fn made(&mut self, tag: &Tag, life: Option<(usize, Incarnation)>, now: Instant) {
        self.sessions.push(RefSession {
            id: tag.id,
            affinity: tag.options.affinity,
            life,
            homes: BTreeSet::new(),
            over: false,
            leaving: false,
            name: tag.name.clone(),
            ttl: tag.options.ttl.unwrap_or(Duration::from_secs(8)),
            used: now,
            was_open: false,
        });
    }

    /// The session that a name finds.
    pub(super) fn named(&self, name: &str) -> Option<u64> {
        let has = |s: &&RefSession| s.name.as_deref() == Some(name) && !s.leaving;
        self.sessions.iter().find(has).map(|session| session.id)
    }

    pub(super) fn prefers(&self, id: u64) -> Option<(WorkerId, Incarnation)> {
        let life = self.sessions.iter().find(|session| session.id == id)?.life;
        life.map(|(place, incarnation)| (worker_id(place), incarnation))
    }

    /// Whether it takes no more calls, or is forgotten.
    pub(super) fn is_over(&self, id: u64) -> bool {
        self.sessions.iter().find(|session| session.id == id).is_none_or(|session| session.over)
    }

    pub(super) fn used(&mut self, id: u64, now: Instant) {
        if let Some(session) = self.sessions.iter_mut().find(|session| session.id == id) {
            session.used = now;
        }
    }

    /// Nobody finds it any more; whether somebody did.
    pub(super) fn leave(&mut self, id: u64) -> bool {
        let found = self.sessions.iter_mut().find(|session| session.id == id && !session.leaving);
        let known = found.is_some();
        if let Some(session) = found {
            (session.leaving, session.over) = (true, true);
        }
        self.forget_sessions();
        known
    }

    /// Sessions without open calls that were not used for as long as they live are over.
    pub(super) fn expire(&mut self, now: Instant) {
        let open: BTreeSet<_> = self.calls.iter().filter_map(|call| call.session).collect();
        for session in &mut self.sessions {
            let expires = session.used.checked_add(session.ttl);
            if !open.contains(&session.id) && expires.is_some_and(|at| at <= now) {
                (session.leaving, session.over) = (true, true);
            }
        }
        self.forget_sessions();
    }

    /// The end of a session's last open call is a use.
    pub(super) fn count_uses(&mut self, now: Instant) {
        let open: BTreeSet<_> = self.calls.iter().filter_map(|call| call.session).collect();
        for session in &mut self.sessions {
            let is_open = open.contains(&session.id);
            if session.was_open && !is_open {
                session.used = now;
            }
            session.was_open = is_open;
        }
    }

    /// Sessions that nobody finds are forgotten with their last call.
    pub(super) fn forget_sessions(&mut self) {
        let open: BTreeSet<_> = self.calls.iter().filter_map(|call| call.session).collect();
        self.sessions.retain(|session| !session.leaving || open.contains(&session.id));
    }

    /// Gives out calls by the rules as they read. Says which sessions are bound by that, or moved.
    pub(super) fn hand_out(&mut self, places: &[View], now: Instant) {
        let mut places = places.to_vec();
        loop {
            while let Some((id, place)) = self.next(&places) {
                if self.call(id).deadline.is_over(now.into_std()) {
                    self.end(id, End::Cancelled);
                    continue;
                }
                places[place].budget -= 1;
                self.call(id).at = Some(place);
                let (session, home) = (self.call(id).session, (place, places[place].incarnation));
                if let Some(session) = self.sessions.iter_mut().find(|s| Some(s.id) == session) {
                    session.life = Some(home);
                    session.homes.insert(home);
                }
            }
            let refused = |call: &&RefCall| {
                call.at.is_none() && self.is_impatient(call) && self.pin(call).is_some()
            };
            let refused: Vec<_> = self.calls.iter().filter(refused).map(|c| c.id).collect();
            if refused.is_empty() {
                return;
            }
            for id in refused {
                self.end(id, End::Failed);
            }
        }
    }

    fn next(&self, places: &[View]) -> Option<(u64, usize)> {
        let mut stuck_stream = false;
        let mut seen_other = false;
        for call in self.calls.iter().filter(|call| call.at.is_none()) {
            match self.pin(call) {
                Some(place) => {
                    let oldest = self.oldest_pinned(place) == Some(call.id);
                    let held = places[place].open && stuck_stream;
                    let at_once = call.stream || self.is_impatient(call);
                    if oldest && !held && self.room(place, &places[place], at_once) {
                        return Some((call.id, place));
                    }
                }
                // Strictly one after the other.
                None if seen_other => {}
                None => {
                    seen_other = true;
                    match self.free_place(call, places) {
                        Some(place) => return Some((call.id, place)),
                        None => stuck_stream = call.stream,
                    }
                }
            }
        }
        None
    }

    /// The place for a call that any worker may run.
    fn free_place(&self, call: &RefCall, places: &[View]) -> Option<usize> {
        let free = (0..places.len()).filter(|&place| {
            places[place].open
                && self.room(place, &places[place], call.stream)
                && self.oldest_pinned(place).is_none_or(|pinned| pinned > call.id)
        });
        let Some(session) = self.session(call) else {
            return free.min_by_key(|&place| (self.in_flight(place), place));
        };
        let home = |place: usize| (place, places[place].incarnation);
        free.min_by_key(|&place| {
            let strange = session.life != Some(home(place));
            (strange, places[place].retires, self.in_flight(place), self.homes(home(place)), place)
        })
    }

    /// How many sessions may have state in an incarnation.
    fn homes(&self, home: (usize, Incarnation)) -> usize {
        self.sessions.iter().filter(|session| session.homes.contains(&home)).count()
    }

    fn room(&self, place: usize, view: &View, at_once: bool) -> bool {
        let has = self.calls.iter().filter(|call| call.at == Some(place));
        let streams = has.filter(|call| call.stream).count();
        let in_flight = self.in_flight(place);
        if !view.sessions || view.recalls || view.budget == 0 {
            false
        } else if at_once {
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
        let pinned = |call: &&RefCall| call.at.is_none() && self.pin(call) == Some(place);
        self.calls.iter().find(pinned).map(|call| call.id)
    }
}
