//! The two runtimes of tests.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

/// Virtual time after which a simulated test is considered stuck.
const VIRTUAL_LIMIT: Duration = Duration::from_secs(400 * 24 * 3600);

/// Real time after which a real test is considered stuck.
const REAL_LIMIT: Duration = Duration::from_secs(120);

/// Runs a simulated test: one thread, a paused clock that jumps to the next timer whenever every
/// task waits, and no I/O driver, so that no real descriptor can be mixed in.
///
/// Fails if a task outlives `test`, and instead of hanging when nothing can ever wake it.
///
/// ```
/// use std::time::Duration;
/// use tokio::time::{Instant, sleep};
///
/// let waited = snakehouse_testkit::virtual_time(async {
///     let start = Instant::now();
///     sleep(Duration::from_secs(7200)).await;
///     start.elapsed()
/// });
/// assert_eq!(waited, Duration::from_secs(7200));
/// ```
///
/// # Panics
/// When the test is stuck or leaks a task.
pub fn virtual_time<T>(test: impl Future<Output = T>) -> T {
    virtual_time_counted(async |_| test.await)
}

/// How often the virtual clock has jumped: to a moment at which timers fire, or on the way there (a
/// timer is reached in at most six jumps). A handle: clones count the same.
#[derive(Clone, Debug, Default)]
pub struct Jumps(Arc<AtomicUsize>);

impl Jumps {
    /// Jumps so far. Timers that are due at the same moment share theirs.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// [`virtual_time`] with a count of the clock's jumps: what waits without a timer adds none, and what
/// sleeps and looks again adds thousands.
///
/// ```
/// use std::time::Duration;
/// use tokio::time::sleep;
///
/// let jumps = snakehouse_testkit::virtual_time_counted(async |jumps| {
///     sleep(Duration::from_secs(3600)).await;
///     jumps.count()
/// });
/// assert!((1..=6).contains(&jumps));
/// ```
///
/// # Panics
/// As `virtual_time`.
pub fn virtual_time_counted<T>(test: impl AsyncFnOnce(Jumps) -> T) -> T {
    let jumps = Jumps::default();
    let counted = jumps.clone();
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        // It parks when every task waits, and then the clock jumps.
        .on_thread_park(move || {
            counted.0.fetch_add(1, Ordering::SeqCst);
        })
        .build()
        .expect("a current-thread runtime without I/O needs nothing of the system");
    let value = runtime.block_on(async {
        tokio::time::timeout(VIRTUAL_LIMIT, test(jumps)).await.unwrap_or_else(|_| {
            panic!("the test is stuck: for {VIRTUAL_LIMIT:?} of virtual time nothing ended it")
        })
    });
    require_no_tasks(&runtime);
    value
}

/// Runs a real test: two threads, the real clock, real I/O.
///
/// Fails if a task outlives `test`, and after 120 s.
///
/// # Panics
/// When the test is stuck or leaks a task.
pub fn real_time<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a test gets two threads and an epoll descriptor");
    let value = runtime.block_on(async {
        tokio::time::timeout(REAL_LIMIT, test)
            .await
            .unwrap_or_else(|_| panic!("the test is stuck: it did not end within {REAL_LIMIT:?}"))
    });
    require_no_tasks(&runtime);
    value
}

/// Fails if a task is alive, after giving those that are ending their last turns: 200 turns, then 2 s
/// of the runtime's clock.
fn require_no_tasks(runtime: &Runtime) {
    let alive = || runtime.metrics().num_alive_tasks();
    runtime.block_on(async {
        for turn in 0..2200 {
            if alive() == 0 {
                return;
            }
            if turn < 200 {
                yield_now().await;
            } else {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    assert_eq!(alive(), 0, "tasks outlived the test that started them");
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use tokio::time::{Instant, sleep};

    use super::*;

    fn verdict(test: impl FnOnce()) -> String {
        let payload = catch_unwind(AssertUnwindSafe(test)).expect_err("the kit finds the fault");
        payload.downcast_ref::<String>().cloned().unwrap_or_default()
    }

    #[test]
    fn hours_pass_at_once_and_exactly() {
        let elapsed = virtual_time(async {
            let start = Instant::now();
            sleep(Duration::from_secs(4 * 3600)).await;
            start.elapsed()
        });
        assert_eq!(elapsed, Duration::from_secs(4 * 3600));
    }

    #[test]
    fn a_test_that_nothing_can_wake_fails_instead_of_hanging() {
        let verdict = verdict(|| virtual_time(std::future::pending()));
        assert!(verdict.contains("stuck"), "{verdict}");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the fault the kit must find")]
    fn a_leaked_task_fails_the_test_that_leaked_it() {
        for leak in [virtual_time::<()> as fn(_), real_time::<()>] {
            let verdict = verdict(|| {
                leak(Box::pin(async {
                    // audit(spawn): the fault the kit must find
                    drop(tokio::spawn(std::future::pending::<()>()));
                }) as std::pin::Pin<Box<dyn Future<Output = ()>>>);
            });
            assert!(verdict.contains("outlived"), "{verdict}");
        }
    }
}
