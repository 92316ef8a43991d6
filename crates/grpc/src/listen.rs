//! One connection: its handshake, its requests, which belong to it, and its end.

use std::future::poll_fn;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use snakehouse_supervise::CancellationToken;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use crate::running::{Requests, Started};
use crate::server::{Limits, Router};

/// How long TLS may take to agree.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Room for the data of one request on its way, before its reader asks for more.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all requests of a connection. Half of it is what short frames may cost that were not read
/// yet, 256 bytes each: beyond, the connection is closed. So one stream of the shortest items, 11 bytes
/// of frame each, must find its own window full before.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const _: () = assert!(STREAM_WINDOW / 11 * 256 <= CONNECTION_WINDOW / 2);
/// Most bytes of a request's headers.
const HEADERS: u32 = 16 * 1024;

/// What every connection is served with.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) router: Router,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) limits: Limits,
}

/// Serves one connection to its end, its handshake included.
pub(crate) async fn connection(stream: TcpStream, serving: Serving, stopping: CancellationToken) {
    let first_by = Instant::now() + serving.limits.first_within;
    // Messages are small and latency matters; a socket that refuses the option works all the same.
    let _ = stream.set_nodelay(true);
    let peer = stream.peer_addr().map_or_else(|_| "?".to_owned(), |peer| peer.to_string());
    match &serving.tls {
        None => serve(stream, &peer, serving, first_by, stopping).await,
        Some(tls) => match timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => serve(stream, &peer, serving, first_by, stopping).await,
            Ok(Err(error)) => tracing::info!(peer, %error, "no TLS with this peer"),
            Err(_elapsed) => tracing::info!(peer, "this peer takes too long over TLS"),
        },
    }
}

/// Serves one connection to its end, which is `first_by` if no request was let in until then. When
/// `stopping` fires, what is under way is finished; what comes after is refused.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: &str,
    serving: Serving,
    first_by: Instant,
    stopping: CancellationToken,
) {
    let router = serving.router.of(peer);
    let has_entered = router.has_entered();
    let started = Started::default();
    let limits = &serving.limits;
    let connection = http2::Builder::new(started.clone())
        .timer(TokioTimer::new())
        // A peer that is silent without having said goodbye is found out.
        .keep_alive_interval(limits.ping_every)
        .keep_alive_timeout(limits.ping_within)
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADERS)
        .serve_connection(TokioIo::new(stream), router);
    let mut connection = Box::pin(connection);
    let mut requests = Requests::new(started);
    let mut stopped = Box::pin(stopping.cancelled());
    let mut is_stopping = false;
    let mut first = Some(Box::pin(sleep_until(first_by)));
    let ended = poll_fn(|cx| {
        if first.as_mut().is_some_and(|first| first.as_mut().poll(cx).is_ready()) {
            first = None;
            if !has_entered.load(Relaxed) {
                // It holds a place that others may wait for.
                tracing::info!(peer, "this peer takes too long to its first request");
                return Poll::Ready(Ok(()));
            }
        }
        if !is_stopping && stopped.as_mut().poll(cx).is_ready() {
            is_stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        requests.poll_with(&mut connection, cx)
    });
    if let Err(error) = ended.await {
        tracing::debug!(peer, %error, "connection ended");
    }
}
