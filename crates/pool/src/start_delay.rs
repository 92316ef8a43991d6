//! How long to wait before something is started again.
//!
//! What served is replaced at once, whatever ended it: the ones who need it are waiting. What could
//! not be started, or died before it was of any use, is tried again later and later, so that a
//! broken module or interpreter costs no more than a start every five seconds.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use snakehouse_base::{Backoff, Jitter};
use snakehouse_supervise::{CancellationToken, ChildSpec, Restart};
use tokio::time::sleep;

const LAW: Backoff =
    match Backoff::new(Duration::from_millis(50), Duration::from_secs(5), Jitter::None) {
        Ok(law) => law,
        Err(_) => unreachable!(),
    };

/// The supervisor's own pause; the one that matters is here.
const PAUSE: Duration = Duration::from_nanos(1);
const AT_ONCE: Backoff = match Backoff::new(PAUSE, PAUSE, Jitter::None) {
    Ok(law) => law,
    Err(_) => unreachable!(),
};

/// Counts starts in a row that were of no use.
#[derive(Debug, Default)]
pub(crate) struct StartDelay(AtomicU32);

impl StartDelay {
    /// The start was of use: the next one need not wait.
    pub(crate) fn useful(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// A start begins; it counts as useless until [`useful`](Self::useful). Waits as long as the
    /// ones before ask for, or until `stop`. Gives whether the one before was useless. Cancel safe.
    pub(crate) async fn begin(&self, stop: &CancellationToken) -> bool {
        let useless = self.0.fetch_add(1, Ordering::Relaxed);
        if useless > 0 {
            tokio::select! {
                () = sleep(LAW.delay(useless - 1, 0.0)) => {}
                () = stop.cancelled() => {}
            }
        }
        useless > 0
    }

    /// Has a child restarted for ever, and leaves the pauses to this.
    pub(crate) fn supervise(spec: ChildSpec) -> ChildSpec {
        spec.restart(Restart::Permanent).backoff(AT_ONCE).intensity(u32::MAX, PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    async fn waited(delay: &StartDelay) -> Duration {
        let before = Instant::now();
        delay.begin(&CancellationToken::new()).await;
        before.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn only_useless_starts_are_spaced() {
        let delay = StartDelay::default();
        assert_eq!(waited(&delay).await, Duration::ZERO);
        for _ in 0..5 {
            delay.useful();
            assert_eq!(waited(&delay).await, Duration::ZERO);
        }
        let mut waits = Vec::new();
        for _ in 0..10 {
            waits.push(waited(&delay).await.as_millis());
        }
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_wait() {
        let delay = StartDelay::default();
        waited(&delay).await;
        let stop = CancellationToken::new();
        stop.cancel();
        let before = Instant::now();
        delay.begin(&stop).await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
