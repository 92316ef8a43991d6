//! A result that is on its way.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;

use crate::error::ClientError;

/// The result of an operation that the service has accepted. Await it whenever it is needed: the
/// operation runs in the service meanwhile, so the next one can be submitted first.
///
/// Cancel safe: dropping it abandons the result, not the operation.
#[must_use = "the operation runs, but its result and its failure are only seen by awaiting this"]
pub struct Pending<T> {
    result: BoxFuture<'static, Result<T, ClientError>>,
}

impl<T> Pending<T> {
    pub(crate) fn new(
        result: impl Future<Output = Result<T, ClientError>> + Send + 'static,
    ) -> Self {
        Self { result: Box::pin(result) }
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.result.as_mut().poll(cx)
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}
