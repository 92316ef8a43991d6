//! Pools, their workers, the calls between them, and everything that may happen to them.

use std::time::Duration;

use snakehouse_base::{Coded, Deadline};
use snakehouse_wire::{ToolInfo, ToolKind};
use tokio::sync::oneshot;

use super::*;
use crate::call::CallOptions;
use crate::host::chain::{Chain, Place};
use crate::session::{SessionOptions, Space};

mod work;

type Outcome = oneshot::Receiver<Result<Bytes, CallError>>;

/// A call: its pool, and its number there.
type Key = (usize, u64);

/// A worker that waits in a chain: pool, place, incarnation.
type Link = (usize, usize, Incarnation);

#[derive(Debug, Default)]
pub(super) struct Worker {
    child: bool,
    alive: bool,
    said_hello: bool,
    rung: bool,
    stop: CancellationToken,
    /// Calls in the order in which they came.
    has: Vec<Call>,
}

pub(super) struct Pool {
    dispatcher: Dispatcher,
    workers: Vec<Worker>,
    capacity: usize,
    keeper: bool,
    next: Option<Instant>,
    session: Option<Arc<Tag>>,
}

/// A call that somebody waits for.
struct Node {
    ticket: Ticket,
    outcome: Outcome,
    deadline: Option<Instant>,
}

/// A host tool that runs.
struct Callback {
    /// The call that it is made in.
    of: Key,
    /// Through how many callbacks its calls come.
    depth: u8,
    links: Vec<Link>,
    deadline: Option<Instant>,
    /// The calls that it waits for.
    calls: Vec<Key>,
}

pub(super) struct World {
    pools: Vec<Pool>,
    open: BTreeMap<Key, Node>,
    /// What the workers' calls know of their chains; also of calls that nobody waits for any more.
    chains: BTreeMap<Key, (Vec<Link>, Option<Instant>)>,
    callbacks: BTreeMap<u64, Callback>,
    serial: u64,
    /// Calls of host tools that were dropped and are about to be cancelled.
    dropping: Vec<Key>,
    now: Instant,
    chance: Chance,
    ends: Ends,
}

impl World {
    pub(super) fn new(chance: Chance) -> Self {
        let pick = |most: usize| usize::try_from(chance.next_u64() >> 1).unwrap() % most;
        let now = Instant::now();
        let pools = std::iter::repeat_with(|| {
            let config = PoolConfig {
                workers: 1 + pick(3),
                standby: pick(2),
                queue: if pick(4) == 0 { 3 } else { 10_000 },
                ..PoolConfig::default()
            };
            let (capacity, places) = ([1, 1, 2, 3][pick(4)], config.places());
            Pool {
                dispatcher: Dispatcher::new(config, now),
                workers: std::iter::repeat_with(Worker::default).take(places).collect(),
                capacity,
                keeper: true,
                next: None,
                session: None,
            }
        });
        let pools = pools.take(1 + pick(3)).collect();
        Self {
            pools,
            open: BTreeMap::new(),
            chains: BTreeMap::new(),
            callbacks: BTreeMap::new(),
            serial: 0,
            dropping: Vec::new(),
            now,
            chance,
            ends: Ends::default(),
        }
    }

    fn pick(&self, most: usize) -> usize {
        usize::try_from(self.chance.next_u64() >> 1).unwrap() % most
    }

    fn one_of<T: Copy>(&self, all: &[T]) -> Option<T> {
        (!all.is_empty()).then(|| all[self.pick(all.len())])
    }

    /// The places where something can happen.
    fn places(&self, can: impl Fn(&Worker) -> bool) -> Vec<(usize, usize)> {
        let pools = self.pools.iter().enumerate();
        let all = pools.flat_map(|(pool, p)| p.workers.iter().enumerate().map(move |w| (pool, w)));
        all.filter(|(_, (_, worker))| can(worker)).map(|(pool, (at, _))| (pool, at)).collect()
    }

    pub(super) fn event(&mut self) {
        match self.pick(100) {
            0..8 => self.call(),
            8..60 => self.work(true),
            60..66 => {
                let any: Vec<_> = self.open.keys().copied().collect();
                if let Some(key) = self.one_of(&any).filter(|_| self.pick(3) == 0) {
                    self.give_up(key);
                }
            }
            66..68 => {
                if let Some((pool, place)) = self.one_of(&self.places(|worker| worker.alive)) {
                    self.die(pool, place);
                }
            }
            68..69 => {
                if let Some((pool, place)) = self.one_of(&self.places(|w| w.said_hello)) {
                    self.change(pool, |p, now, after| p.asked_to_recycle(place, now, after));
                }
            }
            69..75 => {
                let most = [2, 50, 3_000][self.pick(3)];
                self.now += Duration::from_millis(self.pick(most) as u64);
                let due = self.open.iter().filter(|(_, node)| node.deadline <= Some(self.now));
                let due: Vec<_> =
                    due.filter(|(_, n)| n.deadline.is_some()).map(|(k, _)| *k).collect();
                due.into_iter().for_each(|key| self.give_up(key));
            }
            _ => self.tend(),
        }
        self.look();
    }

    /// Does what follows from a change.
    fn change<T>(
        &mut self,
        pool: usize,
        change: impl FnOnce(&mut Dispatcher, Instant, &mut After) -> T,
    ) -> T {
        let mut after = After::default();
        let result = change(&mut self.pools[pool].dispatcher, self.now, &mut after);
        for (call, error) in after.fail {
            call.finish(Err(error));
        }
        for stop in after.stop {
            stop.cancel();
        }
        for place in after.ring {
            self.pools[pool].workers[place].rung = true;
        }
        self.pools[pool].keeper |= after.keeper;
        self.pools[pool].dispatcher.check().unwrap();
        result
    }

    /// Callers hear of outcomes, and every wait leads to something that can go on.
    fn look(&mut self) {
        let mut over = Vec::new();
        for (key, node) in &mut self.open {
            match node.outcome.try_recv() {
                Ok(outcome) => over.push((*key, outcome)),
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => panic!("{key:?} has no outcome"),
            }
        }
        for (key, outcome) in over {
            self.open.remove(&key);
            self.ends.add(outcome.map_or_else(|error| error.code(), |_| "answered"), 1);
            self.callbacks.values_mut().for_each(|cb| cb.calls.retain(|call| *call != key));
        }
        let mut waited = Duration::ZERO;
        while !self.can_go_on() {
            // A worker that is expected back, or a pool that grows.
            assert!(waited < Duration::from_secs(7), "stands still: {}", self.picture());
            let step = Duration::from_millis(200);
            (self.now, waited) = (self.now + step, waited + step);
            (0..self.pools.len()).for_each(|pool| self.keep(pool));
        }
    }

    fn picture(&self) -> String {
        let mut text = String::new();
        for (pool, p) in self.pools.iter().enumerate() {
            for (place, worker) in p.workers.iter().enumerate() {
                let has: Vec<_> =
                    worker.has.iter().map(|c| (c.ticket.id, c.chain.clone())).collect();
                let seat = &p.dispatcher.seats[place];
                let (phase, blocked, nested) = (seat.phase, &seat.blocked, &seat.nested);
                text += &format!("\n{pool}.{place} {phase:?} has {has:?} {blocked:?} {nested:?}");
            }
        }
        let callbacks = self.callbacks.values().map(|cb| (cb.of, &cb.calls));
        format!("{text}\n{:?}\nopen {:?}", callbacks.collect::<Vec<_>>(), self.open.keys())
    }

    // Callers.

    /// Somebody calls a tool.
    fn call(&mut self) {
        let pool = self.pick(self.pools.len());
        let deadline =
            (self.pick(3) == 0).then(|| self.now + Duration::from_millis(self.pick(5_000) as u64));
        self.submit(pool, 0, Vec::new(), deadline);
    }

    /// A call of a chain, or of none; `None` if it is refused.
    fn submit(
        &mut self,
        pool: usize,
        depth: u8,
        links: Vec<Link>,
        deadline: Option<Instant>,
    ) -> Option<Key> {
        if let Err(error) = Chain::check_depth(depth) {
            self.ends.add(error.code(), 1);
            return None;
        }
        let session = (self.pick(5) == 0).then(|| self.session(pool)).flatten();
        let (reply, outcome) = oneshot::channel();
        let of_pool = links.iter().filter(|link| link.0 == pool);
        let own = of_pool.map(|(_, place, incarnation)| (*place, *incarnation)).collect();
        let until = match deadline {
            Some(at) => Deadline::after(self.now.into_std(), at - self.now),
            // audit(deadline): the time of a world is its own
            None => Deadline::never(),
        };
        let call = Call {
            ticket: Ticket::default(),
            tool: "t".to_owned(),
            number: 0,
            body: Bytes::new().into(),
            options: CallOptions::until(until),
            session,
            stream: false,
            deaths: 0,
            chain: Place { depth, own, is_nested: false },
            outer: None,
            reply: reply.into(),
        };
        match self.change(pool, |p, now, after| p.submit(call, now, after)) {
            Ok(ticket) => {
                let key = (pool, ticket.id);
                self.chains.insert(key, (links, deadline));
                self.open.insert(key, Node { ticket, outcome, deadline });
                Some(key)
            }
            Err(error) => {
                self.ends.add(error.code(), 1);
                None
            }
        }
    }

    /// The one session of a pool, made again when it was lost.
    fn session(&mut self, pool: usize) -> Option<Arc<Tag>> {
        let is_over = |tag: &Arc<Tag>| tag.end().is_some();
        let made = match self.pools[pool].session.clone() {
            Some(tag) if !is_over(&tag) => Ok(tag),
            Some(tag) => self.change(pool, |p, now, after| p.recreate_session(&tag, now, after)),
            None => {
                let options = SessionOptions::default();
                self.change(pool, |p, now, after| {
                    p.find_session((Space::HOST, "s"), options, now, after)
                })
            }
        };
        self.pools[pool].session = made.ok();
        self.pools[pool].session.clone()
    }

    /// A caller goes, or its deadline passes.
    fn give_up(&mut self, key: Key) {
        let Some(node) = self.open.remove(&key) else { return };
        drop(node.outcome);
        self.ends.add("given up", 1);
        self.callbacks.values_mut().for_each(|cb| cb.calls.retain(|call| *call != key));
        self.change(key.0, |pool, now, after| pool.cancel(node.ticket, now, after));
    }

    /// Works off what there is: nobody asks for more, gives up or dies.
    pub(super) fn finish(mut self) -> Ends {
        for _ in 0..1_000_000 {
            if self.open.is_empty() && self.callbacks.is_empty() && self.dropping.is_empty() {
                break;
            }
            self.work(false);
            self.tend();
            self.look();
        }
        assert!(self.open.is_empty(), "never ends: {}", self.picture());
        for pool in 0..self.pools.len() {
            let (p, mut ends) = (&self.pools[pool].dispatcher, Vec::new());
            assert_eq!(p.waiting(), 0, "{}", self.picture());
            let counters = p.counters();
            ends.push(("nested", counters.nested));
            ends.push(("deaths", counters.deaths));
            ends.push(("recycled", counters.recycled_asked));
            ends.into_iter().for_each(|(end, count)| self.ends.add(end, count));
        }
        self.ends
    }
}
