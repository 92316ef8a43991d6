//! A deadline around a future.

use std::future::Future;

use snakehouse_base::Deadline;
use tokio::time::{Instant, timeout_at};

/// What `future` gives, or `None` at the deadline: then it is dropped.
///
/// A result that is there at the deadline's instant is given, also at one that has passed. Without a
/// deadline this is the future itself, and no timer. Cancel safe if the future is.
pub async fn by<F: Future>(deadline: Deadline, future: F) -> Option<F::Output> {
    match deadline.instant() {
        Some(at) => timeout_at(Instant::from_std(at), future).await.ok(),
        None => Some(future.await),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_there_is_given_and_what_is_not_ends_at_the_instant() {
        let start = Instant::now();
        let deadline = Deadline::after(start.into_std(), Duration::from_secs(7));
        assert_eq!(by(deadline, ready(1)).await, Some(1));
        assert_eq!(by(deadline, pending::<()>()).await, None);
        assert_eq!(start.elapsed(), Duration::from_secs(7));
        assert_eq!(by(deadline, ready(2)).await, Some(2), "it was there, however late it is");
        assert_eq!(by(deadline, pending::<()>()).await, None);
        // audit(deadline): this is what the test is about
        assert_eq!(by(Deadline::never(), ready(3)).await, Some(3));
        assert_eq!(start.elapsed(), Duration::from_secs(7));
    }
}
