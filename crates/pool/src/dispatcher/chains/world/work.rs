//! What workers, host tools and keepers do.

use super::*;

impl World {
    /// The calls of a worker that may go on now.
    fn runnable(&self, pool: usize, place: usize) -> Vec<usize> {
        let p = &self.pools[pool];
        let worker = &p.workers[place];
        if !worker.said_hello {
            return Vec::new();
        }
        let (mut running, mut nested) = (Vec::new(), Vec::new());
        for (at, call) in worker.has.iter().enumerate() {
            match call.chain.is_nested {
                true => nested.push(at),
                false if running.len() < p.capacity => running.push(at),
                false => {}
            }
        }
        running.extend(nested);
        if p.capacity == 1 {
            // One on top of the other.
            running = running.split_off(running.len().saturating_sub(1));
        }
        running.retain(|at| !self.waits((pool, worker.has[*at].ticket.id)));
        running
    }

    /// Whether a call waits for a callback.
    fn waits(&self, key: Key) -> bool {
        self.callbacks.values().any(|callback| callback.of == key)
    }

    pub(super) fn can_go_on(&self) -> bool {
        let is_due = |worker: &Worker| {
            worker.rung && worker.said_hello
                || worker.child && (!worker.alive || !worker.said_hello)
                || worker.alive && worker.stop.is_cancelled() && worker.has.is_empty()
        };
        let runs = |(pool, place)| !self.runnable(pool, place).is_empty();
        let nothing_waits = self.open.is_empty() && self.callbacks.is_empty();
        nothing_waits
            || !self.dropping.is_empty()
            || self.callbacks.values().any(|callback| callback.calls.is_empty())
            || !self.places(is_due).is_empty()
            || self.pools.iter().any(|pool| pool.keeper)
            || self.places(|worker| worker.said_hello).into_iter().any(runs)
    }

    /// A worker, or a host tool, does its next step. `asks`: they may call more.
    pub(super) fn work(&mut self, asks: bool) {
        if self.pick(2) == 0 {
            let all: Vec<_> = self.callbacks.keys().copied().collect();
            if let Some(serial) = self.one_of(&all) {
                if asks && self.pick(4) == 0 && self.open.len() < 150 {
                    self.ask(serial);
                } else if self.callbacks[&serial].calls.is_empty() {
                    self.end_callback(serial);
                }
            }
            return;
        }
        let mut running = Vec::new();
        for (pool, place) in self.places(|worker| !worker.has.is_empty()) {
            running.extend(self.runnable(pool, place).into_iter().map(|at| (pool, place, at)));
        }
        // Half of the time the deepest chain goes on: else none would ever come to its limit.
        let depth = |&&(pool, place, at): &&(usize, usize, usize)| {
            self.pools[pool].workers[place].has[at].chain.depth
        };
        let deepest = running.iter().max_by_key(depth).copied().filter(|_| self.pick(2) == 0);
        let Some((pool, place, at)) = deepest.or_else(|| self.one_of(&running)) else { return };
        if asks && self.pick(10) < 7 && self.open.len() < 150 {
            self.call_back(pool, place, at);
        } else {
            let call = self.pools[pool].workers[place].has.remove(at);
            let ticket = call.ticket;
            self.chains.remove(&(pool, ticket.id));
            call.finish(Ok(Bytes::new()));
            self.exchange(pool, place, &[ticket]);
        }
    }

    /// A call asks for a host tool, which calls further tools.
    fn call_back(&mut self, pool: usize, place: usize, at: usize) {
        let call = &self.pools[pool].workers[place].has[at];
        let (ticket, depth) = (call.ticket, call.chain.depth + 1);
        let of = (pool, ticket.id);
        let incarnation = self.pools[pool].dispatcher.seats[place].incarnation;
        let (outer, deadline) = self.chains[&of].clone();
        let links = [(pool, place, incarnation)].into_iter().chain(outer).collect();
        self.serial += 1;
        let serial = self.serial;
        let callback = Callback { of, depth, links, deadline, calls: Vec::new() };
        self.callbacks.insert(serial, callback);
        if depth == Chain::MAX_DEPTH {
            self.ends.add("deepest", 1);
        }
        // The host tool may be faster than its connection.
        let is_fast = self.pick(2) == 0;
        if is_fast {
            self.ask(serial);
        }
        self.change(pool, |p, now, after| p.waits(place, ticket, true, now, after));
        if !is_fast {
            self.ask(serial);
        }
    }

    fn ask(&mut self, serial: u64) {
        let many = match self.pick(40) {
            0 => 20,
            1..5 => 3,
            _ => 1,
        };
        for _ in 0..many {
            let pool = self.pick(self.pools.len());
            let callback = &self.callbacks[&serial];
            let (depth, links, deadline) =
                (callback.depth, callback.links.clone(), callback.deadline);
            let made = self.submit(pool, depth, links, deadline);
            if let (Some(key), Some(callback)) = (made, self.callbacks.get_mut(&serial)) {
                callback.calls.push(key);
            }
        }
    }

    /// A host tool is over, or dropped with calls that it waits for.
    fn end_callback(&mut self, serial: u64) {
        let Some(callback) = self.callbacks.remove(&serial) else { return };
        self.dropping.extend(callback.calls);
        let (pool, id) = callback.of;
        if self.waits(callback.of) {
            return;
        }
        let workers = self.pools[pool].workers.iter().enumerate();
        let found = workers
            .flat_map(|(place, worker)| worker.has.iter().map(move |call| (place, call.ticket)));
        let found = found.into_iter().find(|(_, ticket)| ticket.id == id);
        if let Some((place, ticket)) = found {
            self.change(pool, |p, now, after| p.waits(place, ticket, false, now, after));
        }
    }

    /// Everybody else does what is due.
    pub(super) fn tend(&mut self) {
        if let Some(key) = self.dropping.pop() {
            self.give_up(key);
        }
        let pool = self.pick(self.pools.len());
        self.keep(pool);
        if let Some((pool, place)) = self.one_of(&self.places(|w| w.rung && w.said_hello)) {
            self.exchange(pool, place, &[]);
        }
        let is_coming =
            |w: &Worker| w.child && (!w.alive || !w.said_hello || w.stop.is_cancelled());
        if let Some((pool, place)) = self.one_of(&self.places(is_coming)) {
            self.come_up(pool, place);
        }
    }

    pub(super) fn keep(&mut self, pool: usize) {
        let p = &mut self.pools[pool];
        if !p.keeper && p.next.is_none_or(|next| next > self.now) {
            return;
        }
        p.keeper = false;
        let chores = self.change(pool, |p, now, after| p.chores(now, true, after));
        let p = &mut self.pools[pool];
        p.next = chores.next;
        for place in chores.open {
            assert!(!std::mem::replace(&mut p.workers[place].child, true), "two children");
        }
    }

    /// The connection of a worker says what was answered and takes what is there.
    fn exchange(&mut self, pool: usize, place: usize, answered: &[Ticket]) {
        self.pools[pool].workers[place].rung = false;
        let (mut calls, mut cancels) = (Vec::new(), Vec::new());
        let busy = Duration::from_micros([1, 20, 5_000][self.pick(3)]);
        let report = Report { answered, busy, ..Report::default() };
        self.change(pool, |p, now, after| {
            p.exchange(place, &report, now, &mut calls, &mut cancels, after);
            p.session_news(place);
        });
        let (capacity, worker) = (self.pools[pool].capacity, &mut self.pools[pool].workers[place]);
        for call in calls {
            let plain = worker.has.iter().filter(|call| !call.chain.is_nested).count();
            let starts = call.chain.depth == 0 || call.chain.is_nested || plain < capacity;
            assert!(starts, "a call of a chain was sent ahead");
            worker.has.push(call);
        }
        for ticket in cancels {
            // The host tools of a call that is given up are dropped.
            let of_call = self.callbacks.iter().filter(|(_, cb)| cb.of == (pool, ticket.id));
            let of_call: Vec<_> = of_call.map(|(serial, _)| *serial).collect();
            of_call.into_iter().for_each(|serial| self.end_callback(serial));
        }
    }

    pub(super) fn die(&mut self, pool: usize, place: usize) {
        let capacity = self.pools[pool].capacity;
        let incarnation = self.pools[pool].dispatcher.seats[place].incarnation;
        let worker = &mut self.pools[pool].workers[place];
        let calls = std::mem::take(&mut worker.has);
        (worker.alive, worker.said_hello, worker.rung) = (false, false, false);
        let (mut unstarted, mut plain) = (Unstarted::default(), 0);
        for call in calls {
            let key = (pool, call.ticket.id);
            plain += usize::from(!call.chain.is_nested);
            if !call.chain.is_nested && plain > capacity {
                unstarted.calls.push(call);
                continue;
            }
            self.chains.remove(&key);
            let serials = self.callbacks.iter().filter(|(_, callback)| callback.of == key);
            let serials: Vec<_> = serials.map(|(serial, _)| *serial).collect();
            for callback in serials.into_iter().filter_map(|serial| self.callbacks.remove(&serial))
            {
                self.dropping.extend(callback.calls);
            }
            let (worker, cause) = (worker_id(place), Death::Unknown);
            call.finish(Err(CallError::WorkerDied { worker, incarnation, started: true, cause }));
        }
        self.change(pool, |p, now, after| p.gone(place, &Death::Unknown, unstarted, now, after));
        self.leave(pool, place);
    }

    /// The child of a place ends if no worker is wanted there.
    fn leave(&mut self, pool: usize, place: usize) {
        let p = &mut self.pools[pool];
        if p.workers[place].child && p.dispatcher.is_closing(place) {
            p.workers[place].child = false;
            self.change(pool, |p, now, after| p.closed(place, now, after));
        }
    }

    /// The next step of a place's child: an incarnation begins, says hello, or ends as it was told.
    fn come_up(&mut self, pool: usize, place: usize) {
        let worker = &self.pools[pool].workers[place];
        let is_stopped = worker.stop.is_cancelled();
        if !worker.alive {
            let stop = CancellationToken::new();
            let token = stop.clone();
            if self.change(pool, |p, _, _| p.starting(place, token)).is_none() {
                return self.leave(pool, place);
            }
            let worker = &mut self.pools[pool].workers[place];
            (worker.alive, worker.stop) = (true, stop);
            let birth = crate::Birth::Executed { why: None };
            self.change(pool, |p, _, _| p.started(place, 100, birth));
        } else if is_stopped {
            if worker.has.is_empty() {
                self.die(pool, place);
            }
        } else if !worker.said_hello {
            self.pools[pool].workers[place].said_hello = true;
            let capacity = self.pools[pool].capacity;
            let tools = vec![ToolInfo::new("t", 7, ToolKind::Function)];
            let hail = Hail { tools, capacity, hears_of_sessions: true };
            self.change(pool, |p, now, after| p.serving(place, hail, now, after));
        }
    }
}
