//! The accept loop of a server: every connection is a task of one scope.
//!
//! Owns nothing but the places: one more connection than there are waits in the system's backlog. A
//! connection that the system refuses, for want of descriptors say, costs a pause and not the server.
//! Tested in `tests/it/accept.rs` with real sockets.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::scope::Scope;

/// The pause after the system refused a connection.
const REFUSED: Duration = Duration::from_millis(50);

/// Accepts until `cancelled` fires, and serves at most `most` connections at once, at least 1.
///
/// Each is a task of `owner`, which joins it: what `serve` returns should watch that scope's
/// [`cancelled`](Scope::cancelled) and finish. Dropping the future closes nothing but the accept
/// itself.
pub async fn accept<F>(
    listener: &TcpListener,
    owner: &Scope,
    most: usize,
    cancelled: &CancellationToken,
    mut serve: impl FnMut(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)));
    loop {
        let place = tokio::select! {
            biased;
            () = cancelled.cancelled() => return,
            place = places.clone().acquire_owned() => place,
        };
        let stream = tokio::select! {
            biased;
            () = cancelled.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(REFUSED).await;
                    continue;
                }
            },
        };
        let serving = serve(stream);
        // Nobody waits for a connection; the scope joins it.
        drop(owner.task("connection", async move {
            serving.await;
            drop(place);
        }));
    }
}
