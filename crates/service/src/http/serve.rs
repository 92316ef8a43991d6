//! The accept loop: every connection is a task of one scope.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use snakehouse_base::ByteSize;
use snakehouse_guard::Permits;
use snakehouse_supervise::{CancellationToken, Scope};
use tokio::net::{TcpListener, TcpStream};

/// Most connections at once. Further ones wait in the system's backlog.
const CONNECTIONS: u64 = 2048;
/// Descriptors that are left to everything else: the store, the workers, the runtime.
const OTHERS: u64 = 256;
/// Least connections, however few descriptors there are.
const FEWEST: u64 = 16;
/// How long a new connection may be silent. One that has spoken may pause as long as [`IDLE`].
const FIRST: Duration = Duration::from_secs(15);
/// How long a connection may be silent between requests: longer than any known client keeps one.
const IDLE: Duration = Duration::from_secs(300);
/// The pause after the system refused a connection, such as for want of descriptors.
const REFUSED: Duration = Duration::from_millis(50);

/// Accepts until `cancelled` fires.
///
/// Dropping the future closes nothing but the accept itself; connections belong to `scope`.
pub(crate) async fn accept(
    listener: Arc<TcpListener>,
    router: Router,
    scope: Scope,
    cancelled: CancellationToken,
) -> Result<(), Infallible> {
    let descriptors = getrlimit(Resource::Nofile).current;
    let places = Permits::counted(connections(descriptors)).expect("there is always a fewest");
    loop {
        let place = tokio::select! {
            place = places.acquire(ByteSize(0)) => place,
            () = cancelled.cancelled() => return Ok(()),
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(REFUSED).await;
                    continue;
                }
            },
            () = cancelled.cancelled() => return Ok(()),
        };
        let (router, stopping) = (router.clone(), scope.cancelled());
        // Nobody waits for a connection; the scope joins it.
        drop(scope.task("connection", async move {
            connection(stream, router, stopping).await;
            drop(place);
        }));
    }
}

/// How many connections fit `descriptors`; `None` is no limit. A descriptor that is wanted and not
/// there fails whoever comes next, such as an engine that is to be started again.
fn connections(descriptors: Option<u64>) -> usize {
    let most = descriptors
        .map_or(CONNECTIONS, |all| all.saturating_sub(OTHERS).clamp(FEWEST, CONNECTIONS));
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Serves one connection to its end. When `stopping` fires, the request in progress is finished
/// and the connection closed.
async fn connection(stream: TcpStream, router: Router, stopping: CancellationToken) {
    // Answers are small and latency matters; a socket that refuses the option works all the same.
    let _ = stream.set_nodelay(true);
    let spoke = tokio::select! {
        spoke = tokio::time::timeout(FIRST, stream.readable()) => spoke.is_ok(),
        () = stopping.cancelled() => true,
    };
    if !spoke {
        tracing::debug!("a connection was silent and is closed");
        return;
    }
    let service = TowerToHyperService::new(router);
    let connection =
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .serve_connection::<_, TowerToHyperService<Router>>(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_to_others() {
        for (descriptors, expected) in
            [(None, 2048), (Some(1 << 20), 2048), (Some(1024), 768), (Some(64), 16)]
        {
            assert_eq!(connections(descriptors), expected, "{descriptors:?}");
        }
    }
}
