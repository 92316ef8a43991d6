//! One connection to a server, for the generated clients.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use snakehouse_base::Secret;
use snakehouse_supervise::{Scope, Task};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::access::present;
use crate::error::GrpcError;
use crate::running::{Requests, Started};
use crate::tls::ClientTls;

/// From the first packet to a connection that carries requests.
const REACH_WITHIN: Duration = Duration::from_secs(10);

/// How to reach a server.
#[derive(Clone, Debug)]
pub struct Dial {
    /// `http://HOST:PORT`, or `https://HOST:PORT` with [`tls`](Self::tls).
    pub url: String,
    /// What it asks for.
    pub token: Option<Secret>,
    /// Who vouches for it. Needed for `https`.
    pub tls: Option<ClientTls>,
    /// Whether a token may go beyond loopback without TLS: where something else encrypts. Default no.
    pub plaintext: bool,
    /// How long the connection may be silent before the server is asked whether it is there. Default
    /// 5 s.
    pub ping_every: Duration,
    /// How long it may take to answer. Default 5 s.
    pub ping_within: Duration,
}

impl Dial {
    /// With the defaults, and neither token nor TLS.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: None,
            tls: None,
            plaintext: false,
            ping_every: Duration::from_secs(5),
            ping_within: Duration::from_secs(5),
        }
    }

    fn bad(&self, why: &'static str) -> GrpcError {
        GrpcError::BadUrl { url: self.url.clone(), why }
    }

    fn not_reached(&self, why: impl fmt::Display) -> GrpcError {
        GrpcError::NotReached { url: self.url.clone(), why: why.to_string() }
    }

    /// The server's place, and whether it speaks TLS.
    fn target(&self) -> Result<(Authority, Option<&ClientTls>), GrpcError> {
        let uri: Uri = self.url.parse().map_err(|_| self.bad("it is no URL"))?;
        let authority = uri.authority().cloned().ok_or_else(|| self.bad("it names no host"))?;
        if authority.port_u16().is_none() {
            return Err(self.bad("it names no port"));
        }
        if !matches!(uri.path(), "" | "/") || authority.as_str().contains('@') {
            return Err(self.bad("it has more than a host and a port"));
        }
        match (uri.scheme_str(), &self.tls) {
            (Some("http"), Some(_)) => Err(self.bad("certificates are for https")),
            (Some("http"), None) => Ok((authority, None)),
            (Some("https"), None) => Err(self.bad("https needs to know who vouches for it")),
            (Some("https"), Some(tls)) => Ok((authority, Some(tls))),
            _ => Err(self.bad("it is neither http nor https")),
        }
    }
}

/// A connection. Cheap to clone: requests share it. With the last clone it is closed once what is
/// under way is over, and with its scope at once.
///
/// A stream whose response is dropped is cancelled once its requests have ended as well.
#[derive(Clone)]
pub struct Channel {
    send: http2::SendRequest<Body>,
    scheme: Scheme,
    authority: Authority,
    authorization: Option<HeaderValue>,
}

impl Channel {
    /// Connects, within 10 s. A server closes a connection without a request in its first 10 s. The
    /// scope owns what drives the connection, and the returned task ends
    /// with it.
    ///
    /// # Errors
    /// [`GrpcError::BadUrl`], [`BadToken`](GrpcError::BadToken), and
    /// [`NotReached`](GrpcError::NotReached) with what happened.
    pub async fn connect(scope: &Scope, dial: &Dial) -> Result<(Self, Task<()>), GrpcError> {
        let (authority, tls) = dial.target()?;
        let authorization = dial.token.as_ref().map(present).transpose()?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or_default();
        let connecting = async {
            // audit(deadline): all of this stands in `REACH_WITHIN`.
            let stream = TcpStream::connect((host.as_str(), port)).await;
            let stream = stream.map_err(|error| dial.not_reached(error))?;
            let beyond = stream.peer_addr().is_ok_and(|peer| !peer.ip().is_loopback());
            if beyond && tls.is_none() && authorization.is_some() && !dial.plaintext {
                return Err(dial.bad("a token does not go beyond loopback without TLS"));
            }
            let _ = stream.set_nodelay(true);
            match tls {
                None => handshake(scope, dial, stream).await,
                Some(tls) => {
                    let name = ServerName::try_from(host.clone());
                    let name = name.map_err(|_| dial.bad("no certificate can name such a host"))?;
                    let stream = tls.connector().connect(name, stream).await;
                    handshake(scope, dial, stream.map_err(|error| dial.not_reached(error))?).await
                }
            }
        };
        let connected = timeout(REACH_WITHIN, connecting).await;
        let (send, driver) =
            connected.unwrap_or_else(|_| Err(dial.not_reached("it took more than 10 s")))?;
        let scheme = if tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        Ok((Self { send, scheme, authority, authorization }, driver))
    }
}

async fn handshake(
    scope: &Scope,
    dial: &Dial,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(http2::SendRequest<Body>, Task<()>), GrpcError> {
    let started = Started::default();
    let shaken = http2::Builder::new(started.clone())
        .timer(TokioTimer::new())
        .keep_alive_interval(dial.ping_every)
        .keep_alive_timeout(dial.ping_within)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await;
    let (send, mut connection) = shaken.map_err(|error| dial.not_reached(error))?;
    let stop = scope.cancelled();
    let driver = scope.task("connection", async move {
        let mut requests = Requests::new(started);
        let driving = async {
            if let Err(error) = poll_fn(|cx| requests.poll_with(&mut connection, cx)).await {
                tracing::debug!(%error, "connection ended");
            }
            // It takes no more; what was sent goes on.
            poll_fn(|cx| requests.poll_rest(cx)).await;
        };
        tokio::select! {
            () = driving => {}
            () = stop.cancelled() => {}
        }
    });
    Ok((send, driver))
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.send.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
        // All three are there.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        Box::pin(self.send.send_request(request))
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("authority", &self.authority).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use snakehouse_base::Coded;

    use super::*;

    #[test]
    fn a_url_is_a_scheme_a_host_and_a_port() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let tls = ClientTls::from_pem(made.cert.pem().as_bytes(), None).unwrap();
        let code = |url: &str, tls: Option<&ClientTls>| {
            let dial = Dial { tls: tls.cloned(), ..Dial::new(url) };
            dial.target().map(|(authority, _)| authority.to_string()).map_err(|error| error.code())
        };
        assert_eq!(code("http://127.0.0.1:8401", None), Ok("127.0.0.1:8401".into()));
        assert_eq!(code("http://[::1]:8401/", None), Ok("[::1]:8401".into()));
        assert_eq!(code("https://pool:8401", Some(&tls)), Ok("pool:8401".into()));
        for (url, tls) in [
            ("", None),
            ("pool", None),
            ("http://pool", None),
            ("ftp://pool:1", None),
            ("http://pool:1/path", None),
            ("http://me@pool:1", None),
            ("https://pool:8401", None),
            ("http://pool:8401", Some(&tls)),
        ] {
            assert_eq!(code(url, tls), Err("bad_url"), "{url}");
        }
    }
}
