//! What callers do with sessions, and what is compared of them.

use super::*;

/// Sessions with a name, each of which always has the same options.
const NAMES: [(&str, Affinity); 5] = [
    ("a", Affinity::Queue),
    ("b", Affinity::FailFast),
    ("c", Affinity::Hint),
    ("d", Affinity::Queue),
    ("e", Affinity::Hint),
];

impl World {
    pub(super) fn compare_sessions(&self) {
        let mut infos = self.pool.session_infos(self.now);
        infos.sort_unstable_by_key(|info| info.id);
        let expected = self.reference.sessions.iter().map(|session| {
            let open = self.reference.calls.iter().filter(|c| c.session == Some(session.id));
            let life = session.life.map(|(place, incarnation)| (worker_id(place), incarnation));
            (session.id, life, session.over, open.count())
        });
        let found = infos.iter().map(|info| {
            let life = info.worker.map(|worker| (worker.id, worker.incarnation));
            let alive = life.filter(|_| {
                // That of one which only prefers it may be long gone.
                info.affinity != Affinity::Hint || self.reference.prefers(info.id) == life
            });
            (info.id, alive, info.end.is_some(), info.open)
        });
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "sessions");
        assert_eq!(self.pool.counters().sessions_refused, self.refused_sessions);
    }

    pub(super) fn open_session(&mut self) {
        let full = self.session_is_refused();
        let mut after = After::default();
        match self.pool.open_session(self.now, &mut after) {
            Ok(Some(tag)) => {
                assert!(!full);
                let life = self
                    .pool
                    .worker_of(&tag)
                    .map(|worker| (usize::try_from(worker.id.0).unwrap(), worker.incarnation));
                self.reference.made(&tag, life, self.now);
                self.sessions.push(tag);
            }
            // Nobody serves.
            Ok(None) => {}
            Err(CallError::SessionQuota { .. }) => {
                assert!(full);
                self.refused_sessions += 1;
            }
            Err(error) => panic!("{error}"),
        }
        self.settle(after);
    }

    /// Whether there are as many as may be. If so, those that have expired go first.
    fn session_is_refused(&mut self) -> bool {
        let most = self.pool.config.sessions.most;
        if self.reference.sessions.len() >= most && self.pool.open_workers() > 0 {
            self.reference.expire(self.now);
        }
        self.reference.sessions.len() >= most
    }

    pub(super) fn find_session(&mut self) {
        let (name, affinity) = NAMES[self.pick(0..NAMES.len())];
        let known = self.reference.named(name);
        if known.is_none() && self.reference.sessions.len() >= self.pool.config.sessions.most {
            self.reference.expire(self.now);
        }
        let full = self.reference.sessions.len() >= self.pool.config.sessions.most;
        let options = SessionOptions::default().affinity(affinity);
        let mut after = After::default();
        let found = self.pool.find_session((Space::HOST, name), options, self.now, &mut after);
        self.found(known, full, found);
        self.settle(after);
    }

    pub(super) fn recreate_session(&mut self) {
        if self.sessions.is_empty() {
            return;
        }
        let old = self.sessions[self.pick(0..self.sessions.len())].clone();
        let known = match old.name.as_deref() {
            Some(name) => self.reference.named(name),
            None => {
                let here = self.reference.sessions.iter().any(|s| s.id == old.id);
                (here && old.end().is_none()).then_some(old.id)
            }
        };
        let alive = known.filter(|id| !self.reference.is_over(*id));
        if alive.is_none() {
            if let Some(lost) = known {
                self.reference.leave(lost);
            }
            if self.reference.sessions.len() >= self.pool.config.sessions.most {
                self.reference.expire(self.now);
            }
        }
        let full = self.reference.sessions.len() >= self.pool.config.sessions.most;
        let mut after = After::default();
        let found = self.pool.recreate_session(&old, self.now, &mut after);
        self.found(alive, full, found);
        self.settle(after);
    }

    /// A session was looked for, and made if it was not `known`.
    fn found(&mut self, known: Option<u64>, full: bool, found: Result<Arc<Tag>, CallError>) {
        match (known, found) {
            (Some(id), Ok(tag)) => {
                assert_eq!(tag.id, id);
                self.reference.used(id, self.now);
                self.sessions.push(tag);
            }
            (None, Ok(tag)) => {
                assert!(!full);
                self.reference.made(&tag, None, self.now);
                self.sessions.push(tag);
            }
            (None, Err(CallError::SessionQuota { .. })) => {
                assert!(full);
                self.refused_sessions += 1;
            }
            (known, found) => panic!("{known:?} and {found:?}"),
        }
        // Handles are dropped; those of sessions without a name close them.
        if self.sessions.len() > 20 {
            self.close_session();
        }
    }

    pub(super) fn close_session(&mut self) {
        if self.sessions.is_empty() {
            return;
        }
        let nth = self.pick(0..self.sessions.len());
        let tag = self.sessions.swap_remove(nth);
        if tag.name.is_none() || self.pick(0..2) == 0 {
            self.close(&tag);
        }
    }

    fn close(&mut self, tag: &Tag) {
        let known = self.reference.leave(tag.id);
        let mut after = After::default();
        assert_eq!(self.pool.close_session(tag, self.now, &mut after), known);
        self.settle(after);
    }

    pub(super) fn close_all_sessions(&mut self) {
        for tag in std::mem::take(&mut self.sessions) {
            self.close(&tag);
        }
        for (name, _) in NAMES {
            if let Some(id) = self.reference.named(name) {
                self.reference.leave(id);
                let mut after = After::default();
                assert!(self.pool.close_named((Space::HOST, name), self.now, &mut after));
                self.settle(after);
            }
        }
    }
}
