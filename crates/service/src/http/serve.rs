//! The accept loop: every connection is a task of one scope.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use snakehouse_supervise::{CancellationToken, Scope};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at once. Further ones wait in the system's backlog.
const CONNECTIONS: usize = 2048;
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
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed, so a failed acquire cannot happen; it ends the loop.
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
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

/// Serves one connection to its end. When `stopping` fires, the request in progress is finished
/// and the connection closed.
async fn connection(stream: TcpStream, router: Router, stopping: CancellationToken) {
    // Answers are small and latency matters; a socket that refuses the option works all the same.
    let _ = stream.set_nodelay(true);
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
