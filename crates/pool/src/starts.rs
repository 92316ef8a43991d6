//! Whose turn it is to start a worker: one order for all pools of a reaper.
//!
//! Starting is work for a CPU, most of it the import of libraries, so as many workers start at once as
//! there are CPUs; the next one begins when one has said hello or died. Nothing sleeps in between.
//!
//! Fair: at most as many starts of one pool are in the common queue as may run at once, so a pool of a
//! hundred workers is a few starts ahead of a pool of one, and not a hundred. A pool whose last start
//! was of no use queues elsewhere, with one permit for all such pools: what is broken never delays
//! what works. And a start holds its permit only while it wants a CPU: one that waits for something
//! else, or for ever, is found out by the kernel's account of its time within a fifth of a second,
//! and where the kernel keeps none, after [`UNKNOWN`].
//!
//! It cannot fail. Tested below with a virtual clock, and with real pools in `tests/it/pools.rs`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use snakehouse_base::ByteSize;
use snakehouse_guard::{Permit, Permits};
use tokio::time::{Instant, sleep};

use crate::os;

/// How often a start that has its turn is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A start that wanted a CPU for less than this between two looks waits for something else.
const BUSY: Duration = Duration::from_millis(20);

/// A start of which nothing is known holds its permit no longer than this.
const UNKNOWN: Duration = Duration::from_secs(2);

/// How long a process has run or waited for a CPU so far.
type Account = dyn Fn(u32) -> Option<Duration> + Send + Sync;

/// The order of starts on one host.
#[derive(Clone)]
pub(crate) struct Starts {
    at_once: usize,
    common: Permits,
    suspect: Permits,
    account: Arc<Account>,
}

/// One pool's way into that order.
#[derive(Debug)]
pub(crate) struct PoolStarts {
    host: Starts,
    own: Permits,
}

/// The right to start a worker now.
pub(crate) struct Turn {
    permits: (Permit, Option<Permit>),
    /// 0 until it is known.
    pid: Arc<AtomicU32>,
    account: Arc<Account>,
}

impl Starts {
    /// As many at once as there are CPUs for this process.
    pub(crate) fn new() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self::at_once(cpus, os::wanted_cpu)
    }

    fn at_once(
        at_once: usize,
        account: impl Fn(u32) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        let permits = |count| Permits::counted(count).expect("it is at least one");
        let account = Arc::new(account);
        Self { at_once, common: permits(at_once.max(1)), suspect: permits(1), account }
    }

    /// The way of one more pool.
    pub(crate) fn pool(&self) -> PoolStarts {
        let own = Permits::counted(self.at_once.max(1)).expect("it is at least one");
        PoolStarts { host: self.clone(), own }
    }
}

impl PoolStarts {
    /// Waits for a turn. `suspect` is whether the last start at this place was of no use. Cancel
    /// safe: who leaves the queue delays nobody.
    pub(crate) async fn turn(&self, suspect: bool) -> Turn {
        let one = ByteSize(1);
        let permits = match suspect {
            true => (self.host.suspect.acquire(one).await, None),
            false => {
                let own = self.own.acquire(one).await;
                (self.host.common.acquire(one).await, Some(own))
            }
        };
        Turn { permits, pid: Arc::default(), account: self.host.account.clone() }
    }

    /// Whether a start would have its turn at once.
    pub(crate) fn has_room(&self) -> bool {
        self.host.common.waiting() == 0 && self.host.common.in_flight().0 < self.host.at_once
    }
}

impl Turn {
    /// Where to say which process is starting, as soon as it is known.
    pub(crate) fn process(&self) -> Arc<AtomicU32> {
        self.pid.clone()
    }

    /// Waits for the end of a start, with the permit for as long as it wants a CPU. Cancel safe.
    pub(crate) async fn during<T>(self, start: impl Future<Output = T>) -> T {
        tokio::pin!(start);
        tokio::select! {
            biased;
            outcome = &mut start => return outcome,
            () = self.while_busy() => {}
        }
        start.await
    }

    /// Holds the permits until the start waits for something other than a CPU.
    async fn while_busy(self) {
        let since = Instant::now();
        let mut wanted = None;
        loop {
            sleep(LOOK).await;
            let pid = Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0);
            let now = pid.and_then(|pid| (self.account)(pid));
            let idle = match (wanted, now) {
                (Some(before), Some(now)) => now.saturating_sub(before) < BUSY,
                _ => since.elapsed() >= UNKNOWN,
            };
            if idle {
                drop(self.permits);
                return;
            }
            wanted = now;
        }
    }
}

impl fmt::Debug for Starts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Starts").field("common", &self.common).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use snakehouse_supervise::Root;
    use tokio::sync::mpsc;

    use super::*;

    fn nothing(_: u32) -> Option<Duration> {
        None
    }

    /// Starts that each take 100 ms, in the order in which they began.
    async fn order(starts: &[(&'static str, &PoolStarts)]) -> Vec<&'static str> {
        let (begun, mut order) = mpsc::channel(64);
        let all = starts.iter().map(|(name, pool)| {
            let begun = begun.clone();
            async move {
                let turn = pool.turn(false).await;
                begun.send(*name).await.unwrap();
                turn.during(tokio::time::sleep(Duration::from_millis(100))).await;
            }
        });
        futures_join(all.collect()).await;
        drop(begun);
        let mut found = Vec::new();
        while let Some(name) = order.recv().await {
            found.push(name);
        }
        found
    }

    /// Polls them in order until all are done.
    async fn futures_join<F: Future<Output = ()>>(futures: Vec<F>) {
        let mut left: Vec<_> = futures.into_iter().map(Box::pin).collect();
        std::future::poll_fn(|context| {
            left.retain_mut(|future| future.as_mut().poll(context).is_pending());
            match left.is_empty() {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_start_at_once_as_there_are_cpus_and_nothing_sleeps_in_between() {
        let host = Starts::at_once(2, nothing);
        let pool = host.pool();
        let before = Instant::now();
        order(&[("a", &pool); 6]).await;
        assert_eq!(before.elapsed(), Duration::from_millis(300));
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_pool_is_a_few_starts_ahead_of_a_small_one() {
        let host = Starts::at_once(2, nothing);
        let (large, small) = (host.pool(), host.pool());
        let mut starts = vec![("large", &large); 20];
        starts.push(("small", &small));
        let order = order(&starts).await;
        let place = order.iter().position(|name| *name == "small").unwrap();
        assert!(place <= 4, "{order:?}");
    }

    /// How long the next one waits behind a start that never ends, by what is known of it.
    async fn waits_behind(host: &Starts, pid: u32) -> Duration {
        let (hangs, works) = (host.pool(), host.pool());
        let root = Root::new("test");
        let turn = hangs.turn(false).await;
        turn.process().store(pid, Ordering::Relaxed);
        let hanging = root.scope().task("hanging", turn.during(pending::<()>()));
        let before = Instant::now();
        let bound = Duration::from_secs(60);
        let next = async { works.turn(false).await.during(async {}).await };
        let _never = tokio::time::timeout(bound, next).await;
        hanging.abort();
        root.stop().await;
        before.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_holds_its_permit_while_it_wants_a_cpu() {
        const IDLE: u32 = 1;
        const BUSY: u32 = 2;
        let begin = Instant::now();
        let account = move |pid| match pid {
            IDLE => Some(Duration::ZERO),
            BUSY => Some(begin.elapsed() / 2),
            _ => None,
        };
        let host = Starts::at_once(1, account);
        assert_eq!(waits_behind(&host, IDLE).await, 2 * LOOK);
        assert_eq!(waits_behind(&host, 3).await, UNKNOWN, "nothing is known of it");
        assert_eq!(waits_behind(&host, 0).await, UNKNOWN, "it is no process yet");
        assert_eq!(waits_behind(&host, BUSY).await, Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_broken_queues_elsewhere() {
        let host = Starts::at_once(1, nothing);
        let (broken, works) = (host.pool(), host.pool());
        let _first = broken.turn(true).await;
        let before = Instant::now();
        works.turn(false).await.during(async {}).await;
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert!(works.has_room());
        let second = tokio::time::timeout(Duration::from_secs(60), broken.turn(true)).await;
        assert!(second.is_err(), "one at a time of all that is broken");
    }
}
