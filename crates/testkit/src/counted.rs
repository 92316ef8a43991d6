//! How often a future is polled: waiting must cost nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// A future that counts its polls.
#[derive(Debug)]
pub struct Counted<F> {
    future: Pin<Box<F>>,
    polls: Polls,
}

/// The count, readable while the future runs elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Polls(Arc<AtomicUsize>);

/// Wraps a future so that its polls are counted.
pub fn counted<F: Future>(future: F) -> (Counted<F>, Polls) {
    let polls = Polls::default();
    (Counted { future: Box::pin(future), polls: polls.clone() }, polls)
}

impl Polls {
    /// Polls so far.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.polls.0.fetch_add(1, Ordering::SeqCst);
        self.future.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sleep_is_two_polls() {
        crate::virtual_time(async {
            let hour = tokio::time::sleep(std::time::Duration::from_secs(3600));
            let (sleep, polls) = counted(hour);
            sleep.await;
            assert_eq!(polls.count(), 2);
        });
    }
}
