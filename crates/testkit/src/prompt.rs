//! Polls that hold up everybody else: a runtime of tests that finds them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use snakehouse_base::{Clock as _, SystemClock};

/// A poll that takes longer is a fault: the thread was computing or blocked.
const LONGEST: Duration = Duration::from_millis(5);

/// Watches futures for polls of more than 5 ms. A handle: clones report to the same place.
///
/// What counts is the time that the thread ran or was blocked, by the real clock, whatever clock the
/// test has; time in which other programs had the processor, and what the watching itself takes, is
/// left out.
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    slow: Mutex<Vec<SlowPoll>>,
    /// Nanoseconds that the watching took, inner futures' included.
    own: AtomicU64,
}

/// One poll that took too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowPoll {
    /// The name its future was watched under.
    pub name: String,
    /// How long it took.
    pub took: Duration,
}

/// A future whose polls are timed.
#[derive(Debug)]
pub struct Watched<F> {
    name: String,
    future: Pin<Box<F>>,
    watch: Watch,
}

/// [`virtual_time`](crate::virtual_time) that fails when a poll of `test`, or of a future that
/// it wraps with the [`Watch`] it gets, takes more than 5 ms of real time.
///
/// ```
/// use std::time::Duration;
/// use snakehouse_testkit::virtual_time_prompt;
///
/// virtual_time_prompt(async |watch| {
///     let hour = tokio::time::sleep(Duration::from_secs(3600));
///     watch.future("an hour", hour).await;
/// });
/// ```
///
/// The machine itself can stand still for longer than that, in a page fault or for another guest of
/// its host. Code that holds the thread does so again: a test with a poll that was too long runs up to
/// three times, and one prompt run is enough.
///
/// # Panics
/// As `virtual_time`, and with the name and the length of every poll that was too long.
pub fn virtual_time_prompt<T>(test: impl AsyncFn(Watch) -> T) -> T {
    let mut runs = (1..=3).map(|_| {
        let watch = Watch::default();
        let value = crate::virtual_time(watch.future("the test", test(watch.clone())));
        (value, watch.slow())
    });
    let mut slowest = Vec::new();
    runs.find_map(|(value, slow)| {
        let prompt = slow.is_empty();
        slowest = slow;
        prompt.then_some(value)
    })
    .unwrap_or_else(|| panic!("polls of more than {LONGEST:?}, three times: {slowest:?}"))
}

impl Watch {
    /// Times every poll of `future`.
    pub fn future<F: Future>(&self, name: &str, future: F) -> Watched<F> {
        Watched { name: name.to_owned(), future: Box::pin(future), watch: self.clone() }
    }

    /// Every poll of more than 5 ms so far.
    pub fn slow(&self) -> Vec<SlowPoll> {
        self.0.slow.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn own(&self) -> Duration {
        Duration::from_nanos(self.0.own.load(Ordering::Relaxed))
    }

    fn add_own(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0.own.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl fmt::Display for SlowPoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:?}", self.name, self.took)
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let entered = SystemClock.now();
        let (queued, start) = (queued(), SystemClock.now());
        self.watch.add_own(start - entered);
        let own = self.watch.own();
        let polled = self.future.as_mut().poll(cx);
        let took = (SystemClock.now() - start).saturating_sub(self.watch.own() - own);
        if took > LONGEST {
            let took = took.saturating_sub(self::queued().saturating_sub(queued));
            if took > LONGEST {
                let slow = SlowPoll { name: self.name.clone(), took };
                self.watch.0.slow.lock().unwrap_or_else(PoisonError::into_inner).push(slow);
            }
        }
        polled
    }
}

/// How long this thread has waited for a processor, as far as the system tells.
fn queued() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = told.split_whitespace().nth(1).and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn block() {
        std::thread::park_timeout(Duration::from_millis(30));
    }

    #[test]
    fn a_poll_that_blocks_is_found_and_named_and_others_are_not() {
        let watch = Watch::default();
        crate::virtual_time(async {
            watch.future("quick", tokio::time::sleep(Duration::from_secs(60))).await;
            watch.future("blocking", async { block() }).await;
        });
        let slow = watch.slow();
        assert_eq!(slow.len(), 1, "{slow:?}");
        assert_eq!(slow[0].name, "blocking");
        assert!(slow[0].took > LONGEST && slow[0].to_string().starts_with("blocking for"));
    }

    /// What happens once is the machine's doing.
    #[test]
    fn a_poll_that_is_slow_once_does_not_count() {
        let runs = std::cell::Cell::new(0);
        virtual_time_prompt(async |_| {
            runs.set(runs.get() + 1);
            if runs.get() == 1 {
                block();
            }
        });
        assert!(runs.get() >= 2);
    }

    /// Watching has a price, which is not the fault of who is watched.
    #[test]
    fn what_the_watch_itself_takes_does_not_count() {
        virtual_time_prompt(async |watch| {
            let crowd = (0..5000).map(|_| watch.future("one of many", std::future::ready(())));
            let mut crowd: Vec<_> = crowd.collect();
            // Making and dropping them is not what is measured.
            tokio::task::yield_now().await;
            std::future::poll_fn(|cx| {
                crowd.iter_mut().for_each(|one| assert!(Pin::new(one).poll(cx).is_ready()));
                Poll::Ready(())
            })
            .await;
            tokio::task::yield_now().await;
        });
    }

    #[test]
    fn the_runtime_fails_a_test_that_blocks_it() {
        let test = || virtual_time_prompt(async |_| block());
        let payload = catch_unwind(AssertUnwindSafe(test)).expect_err("the kit finds the fault");
        let text = payload.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(text.contains("the test") && text.contains("5ms"), "{text}");
    }
}
