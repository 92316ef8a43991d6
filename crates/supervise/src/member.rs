//! What a scope owns, seen from the scope.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::time::Instant;

use crate::stop::StopReport;
use crate::tree::Node;

/// A boxed future that borrows nothing.
pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Something in a scope that can be shown and stopped.
pub(crate) trait Member: Send + Sync {
    /// Itself as data; `id` is its place in the scope.
    fn node(&self, id: u64) -> Node;

    /// Tells it to end, waits for its grace, drops it, waits until it is gone. `told` is when the
    /// scope's token was cancelled: members that were all told then share one grace.
    fn stop(self: Arc<Self>, told: Instant) -> BoxFuture<StopReport>;

    /// Drops it without waiting.
    fn abort(&self);

    /// Whether it is a nested scope: those have their own token and end before this scope's token
    /// is cancelled, if they were opened last.
    fn is_scope(&self) -> bool {
        false
    }
}
