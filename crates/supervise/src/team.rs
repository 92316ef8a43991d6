//! CPU work on a fixed number of threads, with results that do not depend on how many.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::spawn;

/// A fixed team of threads for CPU work; needs no runtime and never waits for I/O.
///
/// Work is cut into numbered pieces. Which thread computes a piece is open; results come back in
/// the order of their numbers, so a caller that combines them in that order gets the same bits
/// with any number of threads. The caller's thread is one of the team, and a team of one runs
/// everything inline. Dropping the team joins its threads.
pub struct Team {
    name: String,
    threads: usize,
    pool: Option<rayon_core::ThreadPool>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

type Panic = Box<dyn Any + Send>;

impl Team {
    /// A team of `threads` (at least 1), the caller's included.
    ///
    /// If the operating system refuses the threads, the team runs inline and says so in the log.
    pub fn new(name: &str, threads: usize) -> Self {
        let threads = threads.max(1);
        let handles = Mutex::new(Vec::new());
        let pool = (threads > 1).then(|| helpers(name, threads - 1, &handles)).and_then(|made| {
            made.inspect_err(|error| tracing::error!(team = name, %error, "team runs inline")).ok()
        });
        Self {
            name: name.to_owned(),
            threads: if pool.is_some() { threads } else { 1 },
            pool,
            handles,
        }
    }

    /// How many threads work on a call.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Computes `f(0)` to `f(n - 1)`; the results are in that order.
    ///
    /// # Panics
    /// With the payload of the lowest-numbered piece that panicked, after every piece that had
    /// begun has ended. Pieces that had not begun are left out.
    pub fn map<T, F>(&self, n: usize, f: &F) -> Vec<T>
    where
        T: Send,
        F: Fn(usize) -> T + Sync + ?Sized,
    {
        let next = AtomicUsize::new(0);
        let take = || {
            let index = next.fetch_add(1, Ordering::Relaxed);
            (index < n).then_some((index, ()))
        };
        self.fan_out(n, take, |index, ()| f(index))
    }

    /// Calls `f(i, &mut items[i])` for every item; the results are in the order of the items.
    ///
    /// # Panics
    /// As [`map`](Team::map).
    pub fn map_mut<I, T, F>(&self, items: &mut [I], f: &F) -> Vec<T>
    where
        I: Send,
        T: Send,
        F: Fn(usize, &mut I) -> T + Sync + ?Sized,
    {
        let n = items.len();
        let rest = Mutex::new(items.iter_mut().enumerate());
        let take = || lock(&rest).next();
        self.fan_out(n, take, f)
    }

    /// Lets every thread take pieces, in order, until there are none or one has panicked.
    fn fan_out<X, T>(
        &self,
        n: usize,
        take: impl Fn() -> Option<(usize, X)> + Sync,
        run: impl Fn(usize, X) -> T + Sync,
    ) -> Vec<T>
    where
        T: Send,
    {
        let helpers = self.threads.min(n).saturating_sub(1);
        let Some(pool) = self.pool.as_ref().filter(|_| helpers > 0) else {
            return std::iter::from_fn(take).map(|(index, piece)| run(index, piece)).collect();
        };
        let done: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::with_capacity(n));
        let first_panic: Mutex<Option<(usize, Panic)>> = Mutex::new(None);
        let broken = AtomicBool::new(false);
        let work = || {
            let mut mine = Vec::new();
            while !broken.load(Ordering::Relaxed)
                && let Some((index, piece)) = take()
            {
                match catch_unwind(AssertUnwindSafe(|| run(index, piece))) {
                    Ok(value) => mine.push((index, value)),
                    Err(payload) => {
                        broken.store(true, Ordering::Relaxed);
                        let mut first = lock(&first_panic);
                        if first.as_ref().is_none_or(|(known, _)| index < *known) {
                            *first = Some((index, payload));
                        }
                    }
                }
            }
            lock(&done).append(&mut mine);
        };
        pool.in_place_scope(|scope| {
            for _ in 0..helpers {
                scope.spawn(|_| work());
            }
            work();
        });
        if let Some((_, payload)) = lock(&first_panic).take() {
            resume_unwind(payload);
        }
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, value)| value).collect()
    }
}

/// A lock that a panic cannot spoil: nothing under these locks runs foreign code.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads of a team besides the caller's.
fn helpers(
    name: &str,
    threads: usize,
    handles: &Mutex<Vec<JoinHandle<()>>>,
) -> Result<rayon_core::ThreadPool, rayon_core::ThreadPoolBuildError> {
    rayon_core::ThreadPoolBuilder::new()
        .num_threads(threads)
        .spawn_handler(|thread| {
            let handle = spawn::thread(&format!("{name}-{}", thread.index() + 1), || thread.run())?;
            lock(handles).push(handle);
            Ok(())
        })
        .build()
}

impl Drop for Team {
    fn drop(&mut self) {
        // Dropping the pool tells its threads to end once they are idle, and they are.
        drop(self.pool.take());
        for handle in std::mem::take(&mut *lock(&self.handles)) {
            // A helper catches the panics of its pieces, so there is no outcome to look at.
            let _ = handle.join();
        }
    }
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team")
            .field("name", &self.name)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_index_order_with_any_number_of_threads() {
        let expected: Vec<usize> = (0..1000).map(|i| i * i).collect();
        for threads in [1, 2, 3, 8] {
            let team = Team::new("squares", threads);
            for _ in 0..20 {
                assert_eq!(team.map(1000, &|i| i * i), expected, "{threads} threads");
            }
        }
    }

    #[test]
    fn a_team_of_one_and_a_call_of_one_stay_on_the_callers_thread() {
        let here = std::thread::current().id();
        for (threads, n) in [(1, 50), (4, 1)] {
            let ids = Team::new("inline", threads).map(n, &|_| std::thread::current().id());
            assert!(ids.iter().all(|id| *id == here));
        }
    }

    #[test]
    fn every_item_is_changed_once() {
        let mut items = vec![0u32; 500];
        let team = Team::new("items", 3);
        let indices = team.map_mut(&mut items, &|index, item| {
            *item += 1;
            index
        });
        assert_eq!(items, vec![1; 500]);
        assert_eq!(indices, (0..500).collect::<Vec<_>>());
    }

    #[test]
    fn the_lowest_panic_reaches_the_caller_and_the_team_goes_on() {
        for threads in [1, 2, 4] {
            let team = Team::new("panics", threads);
            for _ in 0..20 {
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    team.map(64, &|i| assert!(i != 20 && i != 40, "piece {i}"))
                }));
                let payload = outcome.expect_err("two pieces panic");
                assert_eq!(payload.downcast_ref::<String>().map(String::as_str), Some("piece 20"));
            }
            assert_eq!(team.map(3, &|i| i), [0, 1, 2]);
        }
    }
}
