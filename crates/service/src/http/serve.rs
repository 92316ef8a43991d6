//! One connection, and how many there may be.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use snakehouse_supervise::CancellationToken;
use tokio::net::TcpStream;

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

/// Most connections at once, by the descriptors that this process may have.
pub(crate) fn most() -> usize {
    connections(getrlimit(Resource::Nofile).current)
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
pub(crate) async fn connection(stream: TcpStream, router: Router, stopping: CancellationToken) {
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
