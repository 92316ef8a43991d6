//! What one HTTP/2 connection has running: its requests, or the sending of their bodies.
//!
//! The futures that hyper would have spawned run inside of the connection's own task. So a request
//! belongs to its connection and ends with it, and a small call costs no task, and no thread changes
//! between its reading and its writing. Bounded by the streams that a connection may have at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::rt::Executor;

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where hyper puts the futures of one connection.
#[derive(Clone, Default)]
pub(crate) struct Started(Arc<Mutex<Vec<Running>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Started {
    fn execute(&self, future: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(future));
    }
}

/// Runs them.
pub(crate) struct Requests {
    started: Started,
    running: FuturesUnordered<Running>,
}

impl Requests {
    pub(crate) fn new(started: Started) -> Self {
        Self { started, running: FuturesUnordered::new() }
    }

    /// Polls the connection, then everything that it started.
    pub(crate) fn poll_with<C: Future + Unpin>(
        &mut self,
        connection: &mut C,
        cx: &mut Context<'_>,
    ) -> Poll<C::Output> {
        let ended = Pin::new(connection).poll(cx);
        if ended.is_ready() {
            return ended;
        }
        let _ = self.poll_rest(cx);
        Poll::Pending
    }

    /// Polls what the connection started. Ready when nothing of it is left.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let new =
                std::mem::take(&mut *self.started.0.lock().unwrap_or_else(PoisonError::into_inner));
            let idle = new.is_empty();
            self.running.extend(new);
            let all = loop {
                match self.running.poll_next_unpin(cx) {
                    Poll::Ready(Some(())) => {}
                    Poll::Ready(None) => break Poll::Ready(()),
                    Poll::Pending => break Poll::Pending,
                }
            };
            if idle {
                return all;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_a_connection_starts_runs_with_it_and_ends_with_it() {
        let started = Started::default();
        let mut requests = Requests::new(started.clone());
        let (first, second) = (Arc::new(()), Arc::new(()));
        let (done, held) = (first.clone(), second.clone());
        started.execute(async move {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            drop(done);
        });
        started.execute(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        let mut connection = Box::pin(tokio::time::sleep(std::time::Duration::from_secs(2)));
        std::future::poll_fn(|cx| requests.poll_with(&mut connection, cx)).await;
        assert_eq!(Arc::strong_count(&first), 1, "it ran to its end");
        assert_eq!(Arc::strong_count(&second), 2);
        drop((requests, started));
        assert_eq!(Arc::strong_count(&second), 1, "it was dropped with the connection");
    }
}
