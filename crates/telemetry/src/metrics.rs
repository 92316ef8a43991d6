//! A page with the numbers of pools, on loopback.
//!
//! `GET /metrics` and nothing else; each read asks the pools at that moment, so that nothing is
//! gathered while nobody looks. It has no key: the address must be a loopback one, and so must the
//! `Host` of a request, so that no page of the web reads it through a browser. At most 16 connections
//! at once; a silent one is closed.

mod text;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use snakehouse_base::ByteSize;
use snakehouse_guard::Permits;
use snakehouse_pool::Pool;
use snakehouse_supervise::{ChildSpec, Scope};
use tokio::net::{TcpListener, TcpStream};

use crate::error::TelemetryError;
use crate::otlp::Otlp;
use text::Shown;

/// Connections at once; further ones wait in the system's backlog.
const CONNECTIONS: usize = 16;
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// The pause after the system refused a connection.
const REFUSED: Duration = Duration::from_millis(50);

/// The page. The scope that it was started in owns it.
#[derive(Debug)]
pub struct Metrics {
    addr: SocketAddr,
}

impl Metrics {
    /// Serves the numbers of these pools, and those of an exporter, until the scope stops. Port 0
    /// takes a free one.
    ///
    /// # Errors
    /// [`TelemetryError::NotLoopback`] and [`TelemetryError::Listen`].
    pub async fn start(
        scope: &Scope,
        addr: SocketAddr,
        pools: Vec<Pool>,
        otlp: Option<Otlp>,
    ) -> Result<Self, TelemetryError> {
        if !addr.ip().is_loopback() {
            return Err(TelemetryError::NotLoopback { addr });
        }
        let listen = |error| TelemetryError::Listen { addr, error };
        let listener = Arc::new(TcpListener::bind(addr).await.map_err(listen)?);
        let addr = listener.local_addr().map_err(listen)?;
        let source = Arc::new(Source { pools, otlp });
        let scope = scope.open("metrics");
        let connections = scope.clone();
        scope.child(ChildSpec::new("listener", move |ctx| {
            let (listener, source, scope) = (listener.clone(), source.clone(), connections.clone());
            async move {
                ctx.ready();
                let cancelled = ctx.cancelled();
                cancelled.run_until_cancelled(accept(&listener, &source, &scope)).await;
                Ok(())
            }
        }));
        Ok(Self { addr })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

#[derive(Debug)]
struct Source {
    pools: Vec<Pool>,
    otlp: Option<Otlp>,
}

impl Source {
    fn page(&self) -> String {
        let shown = |pool: &Pool| Shown {
            stats: pool.stats(),
            sessions: pool.workers().iter().map(|worker| worker.sessions).sum(),
            latency: pool.latency_buckets(),
        };
        let pools: Vec<_> = self.pools.iter().map(shown).collect();
        text::page(&pools, self.otlp.as_ref().map(Otlp::counts))
    }
}

async fn accept(listener: &TcpListener, source: &Arc<Source>, scope: &Scope) {
    let places = Permits::counted(CONNECTIONS).expect("16 is not 0");
    loop {
        let place = places.acquire(ByteSize(0)).await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let (source, stopping) = (source.clone(), scope.cancelled());
                // Nobody waits for a connection; the scope joins it.
                drop(scope.task("connection", async move {
                    stopping.run_until_cancelled(connection(stream, &source)).await;
                    drop(place);
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(REFUSED).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, source: &Source) {
    let service =
        service_fn(
            |request| async move { Ok::<_, Infallible>(answer(&request, || source.page())) },
        );
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

fn answer<B>(request: &Request<B>, page: impl FnOnce() -> String) -> Response<Full<Bytes>> {
    const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    let (status, body) = if !is_loopback(request.headers().get(HOST)) {
        (StatusCode::FORBIDDEN, "this is for the machine itself\n".to_owned())
    } else if request.uri().path() != "/metrics" {
        (StatusCode::NOT_FOUND, "there is only /metrics\n".to_owned())
    } else if request.method() != Method::GET {
        (StatusCode::METHOD_NOT_ALLOWED, "it can only be read\n".to_owned())
    } else {
        (StatusCode::OK, page())
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

/// Whether a request names this machine; one without a name does.
fn is_loopback(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host else { return true };
    let Ok(host) = host.to_str() else { return false };
    if let Ok(addr) = host.parse::<SocketAddr>() {
        return addr.ip().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_answered_and_only_the_page_is_there() {
        let status = |method: Method, path: &str, host: Option<&str>| {
            let mut request = Request::new(());
            *request.method_mut() = method;
            *request.uri_mut() = path.parse().expect("a path");
            if let Some(host) = host {
                request.headers_mut().insert(HOST, host.parse().expect("a header"));
            }
            answer(&request, || "page".to_owned()).status().as_u16()
        };
        let local =
            ["127.0.0.1:9464", "127.0.0.1", "localhost", "LOCALHOST:1", "[::1]:9464", "[::1]"];
        for host in local {
            assert_eq!(status(Method::GET, "/metrics", Some(host)), 200, "{host}");
        }
        assert_eq!(status(Method::GET, "/metrics", None), 200);
        for host in ["evil.example", "10.0.0.1:9464", "localhost.evil.example", "é"] {
            assert_eq!(status(Method::GET, "/metrics", Some(host)), 403, "{host}");
        }
        assert_eq!(status(Method::GET, "/", None), 404);
        assert_eq!(status(Method::POST, "/metrics", None), 405);
    }
}
