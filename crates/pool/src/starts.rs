//! Whose turn it is to start a worker: one order for all pools of a reaper.
//!
//! Starting is work for a CPU, most of it the import of libraries, so as many workers start at once as
//! there are CPUs; the next one begins when one has said hello or died. Nothing sleeps in between.
//!
//! Fair: at most as many starts of one pool are in the common queue as may run at once, so a pool of a
//! hundred workers is a few starts ahead of a pool of one, and not a hundred. A pool whose last start
//! was of no use queues elsewhere, with one permit for all such pools: what is broken never delays
//! what works. And a start that takes very long is taken for one that waits for something other than
//! a CPU: its permit goes on to the next after [`AT_MOST`].
//!
//! It cannot fail. Tested below with a virtual clock, and with real pools in `tests/it/pools.rs`.

use std::time::Duration;

use snakehouse_base::ByteSize;
use snakehouse_guard::{Permit, Permits};
use tokio::time::{Instant, sleep_until};

/// A start holds its permit no longer than this.
const AT_MOST: Duration = Duration::from_secs(2);

/// The order of starts on one host.
#[derive(Clone, Debug)]
pub(crate) struct Starts {
    at_once: usize,
    common: Permits,
    suspect: Permits,
}

/// One pool's way into that order.
#[derive(Debug)]
pub(crate) struct PoolStarts {
    host: Starts,
    own: Permits,
}

/// The right to start a worker now.
#[derive(Debug)]
pub(crate) struct Turn {
    permits: Option<(Permit, Option<Permit>)>,
    until: Instant,
}

impl Starts {
    /// As many at once as there are CPUs for this process.
    pub(crate) fn new() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self::at_once(cpus)
    }

    fn at_once(at_once: usize) -> Self {
        let permits = |count| Permits::counted(count).expect("it is at least one");
        Self { at_once, common: permits(at_once.max(1)), suspect: permits(1) }
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
        Turn { permits: Some(permits), until: Instant::now() + AT_MOST }
    }

    /// Whether a start would have its turn at once.
    pub(crate) fn has_room(&self) -> bool {
        self.host.common.waiting() == 0 && self.host.common.in_flight().0 < self.host.at_once
    }
}

impl Turn {
    /// Waits for the end of a start, and gives the permit on if that takes too long. Cancel safe.
    pub(crate) async fn during<T>(mut self, start: impl Future<Output = T>) -> T {
        tokio::pin!(start);
        tokio::select! {
            biased;
            outcome = &mut start => return outcome,
            () = sleep_until(self.until) => self.permits = None,
        }
        start.await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use snakehouse_supervise::Root;
    use tokio::sync::mpsc;

    use super::*;

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
        let host = Starts::at_once(2);
        let pool = host.pool();
        let before = Instant::now();
        order(&[("a", &pool); 6]).await;
        assert_eq!(before.elapsed(), Duration::from_millis(300));
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_pool_is_a_few_starts_ahead_of_a_small_one() {
        let host = Starts::at_once(2);
        let (large, small) = (host.pool(), host.pool());
        let mut starts = vec![("large", &large); 20];
        starts.push(("small", &small));
        let order = order(&starts).await;
        let place = order.iter().position(|name| *name == "small").unwrap();
        assert!(place <= 4, "{order:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_hangs_gives_its_permit_on() {
        let host = Starts::at_once(1);
        let (hangs, works) = (host.pool(), host.pool());
        let root = Root::new("test");
        let turn = hangs.turn(false).await;
        let hanging = root.scope().task("hanging", turn.during(pending::<()>()));
        let before = Instant::now();
        works.turn(false).await.during(async {}).await;
        assert_eq!(before.elapsed(), AT_MOST);
        hanging.abort();
        root.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_broken_queues_elsewhere() {
        let host = Starts::at_once(1);
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
