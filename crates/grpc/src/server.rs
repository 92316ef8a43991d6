//! A server of pools: where it listens, who may come in, what it serves.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use snakehouse_base::{ByteSize, Deadline, Secret};
use snakehouse_pool::{Attachments, Pool};
use snakehouse_supervise::{BoxError, ChildSpec, Scope, accept};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status};

use crate::access::Access;
use crate::attach::AttachService;
use crate::budget::{Account, Budget, Holding, Metered};
use crate::error::GrpcError;
use crate::front_door::FrontDoor;
use crate::listen::{Serving, connection};
use crate::proto::pool_server::PoolServer;
use crate::proto::worker_server::WorkerServer;
use crate::tls::ServerTls;
use crate::trace;

/// Most bytes of a message with frames: the longest frame, and what stands around it.
const FRAMES: usize = snakehouse_wire::MAX_FRAMES + 1024;

/// How a server works.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where it listens. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// What clients must present. Needed beyond loopback. 16 or more letters and digits.
    pub token: Option<Secret>,
    /// What agents must present. Needed where workers are taken in and clients need a token, and beyond
    /// loopback; another one than the clients': whoever attaches a worker reads the arguments of others.
    pub worker_token: Option<Secret>,
    /// Needed beyond loopback, unless [`plaintext`](Self::plaintext) is said.
    pub tls: Option<ServerTls>,
    /// Whether it may listen beyond loopback without TLS: where something else encrypts. The token
    /// is readable on the wire then. Default no.
    pub plaintext: bool,
    /// Longest message of the front door, in both directions. Default 64 MiB.
    pub max_message: ByteSize,
    /// Most bytes that all requests of the front door hold together: arguments until their call is
    /// answered, results until they are sent. One more is refused by `front_door_full`. Default 512 MiB.
    pub max_bytes: ByteSize,
    /// Most sessions at once that clients have; they count for the pool's own quota as well. Default
    /// `None`: half of that.
    pub sessions: Option<usize>,
    /// Most connections at once; further ones wait in the system's backlog. Default 256.
    pub connections: usize,
    /// Most requests at once on one connection. Default 256.
    pub streams: u32,
    /// How long a peer may take from its connection to its first request that is let in; it is closed
    /// then. Default 10 s.
    pub first_within: Duration,
    /// How long a connection may be silent before it is asked whether it is there. Default 5 s.
    pub ping_every: Duration,
    /// How long it may take to answer; it is closed then, and what it carried fails. Default 5 s.
    pub ping_within: Duration,
}

impl ServerConfig {
    /// With the defaults, and neither tokens nor TLS.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            token: None,
            worker_token: None,
            tls: None,
            plaintext: false,
            max_message: ByteSize::mib(64),
            max_bytes: ByteSize::mib(512),
            sessions: None,
            connections: 256,
            streams: 256,
            first_within: Duration::from_secs(10),
            ping_every: Duration::from_secs(5),
            ping_within: Duration::from_secs(5),
        }
    }

    /// Closed by default. `takes_workers` is whether agents may come in.
    fn check(&self, takes_workers: bool) -> Result<Doors, GrpcError> {
        let listen = self.listen;
        if !listen.ip().is_loopback() {
            if self.token.is_none() {
                return Err(GrpcError::TokenNeeded { listen });
            }
            if self.tls.is_none() && !self.plaintext {
                return Err(GrpcError::TlsNeeded { listen });
            }
        }
        // Whoever asks clients for a token does not mean that anybody may read what they send.
        let is_open = listen.ip().is_loopback() && self.token.is_none();
        if takes_workers && self.worker_token.is_none() && !is_open {
            return Err(GrpcError::WorkerTokenNeeded { listen });
        }
        if let (Some(token), Some(of_workers)) = (&self.token, &self.worker_token)
            && token.expose() == of_workers.expose()
        {
            return Err(GrpcError::OneTokenForBoth);
        }
        let workers = Access::new(self.worker_token.clone())?;
        Ok(Doors { clients: Access::new(self.token.clone())?, workers })
    }
}

/// Who may come in where.
#[derive(Clone, Debug)]
struct Doors {
    clients: Access,
    workers: Access,
}

/// What a server serves.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// The pool behind the front door.
    pub front_door: Option<Pool>,
    /// Where workers of other hosts are taken in.
    pub workers: Option<Attachments>,
}

/// What bounds a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) streams: u32,
    pub(crate) first_within: Duration,
    pub(crate) ping_every: Duration,
    pub(crate) ping_within: Duration,
}

/// A server that listens. Cheap to clone; the scope it was started in owns it: at its stop the server
/// accepts nothing more, requests under way have 5 s, and attached workers are let go. Stop their pool
/// before, and they finish what they have.
#[derive(Clone, Debug)]
pub struct Server {
    local: SocketAddr,
}

impl Server {
    /// Begins to listen.
    ///
    /// Start it after its pool, in the same scope or a later one, so that it stops before it.
    ///
    /// # Errors
    /// [`GrpcError::TokenNeeded`], [`WorkerTokenNeeded`](GrpcError::WorkerTokenNeeded),
    /// [`OneTokenForBoth`](GrpcError::OneTokenForBoth), [`TlsNeeded`](GrpcError::TlsNeeded),
    /// [`BadToken`](GrpcError::BadToken), [`NotBound`](GrpcError::NotBound).
    pub async fn start(
        scope: &Scope,
        config: ServerConfig,
        services: Services,
    ) -> Result<Self, GrpcError> {
        let doors = config.check(services.workers.is_some())?;
        let listen = config.listen;
        let not_bound = |source| GrpcError::NotBound { listen, source };
        let listener = Arc::new(TcpListener::bind(listen).await.map_err(not_bound)?);
        let local = listener.local_addr().map_err(not_bound)?;
        let most = usize::try_from(config.max_message.0).unwrap_or(usize::MAX);
        let scope = scope.open("grpc");
        let budget = Budget::new(config.max_bytes, config.max_message);
        let front_door = services.front_door.map(|pool| {
            PoolServer::new(FrontDoor::new(pool, config.sessions, scope.clone()))
                .max_decoding_message_size(most)
                .max_encoding_message_size(most)
        });
        let workers = services.workers.map(|attachments| {
            WorkerServer::new(AttachService::new(attachments, scope.clone()))
                .max_decoding_message_size(FRAMES)
        });
        let (peer, has_entered) = (Arc::from(""), Arc::default());
        let router = Router { doors, budget, front_door, workers, peer, has_entered };
        let limits = Limits {
            streams: config.streams,
            first_within: config.first_within,
            ping_every: config.ping_every,
            ping_within: config.ping_within,
        };
        let tls = config.tls.as_ref().map(ServerTls::acceptor);
        let serving = Serving { router, tls, limits };
        let (owner, most) = (scope.clone(), config.connections);
        scope.child(ChildSpec::new("accept", move |ctx| {
            let (serving, listener, owner) = (serving.clone(), listener.clone(), owner.clone());
            async move {
                ctx.ready();
                let serve = |stream| connection(stream, serving.clone(), owner.cancelled());
                accept(&listener, &owner, most, &ctx.cancelled(), serve).await;
                Ok::<(), BoxError>(())
            }
        }));
        Ok(Self { local })
    }

    /// Where it listens, with the port it got.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

/// Gives a request to its service, if it may come in.
#[derive(Clone)]
pub(crate) struct Router {
    doors: Doors,
    budget: Budget,
    front_door: Option<PoolServer<FrontDoor>>,
    workers: Option<WorkerServer<AttachService>>,
    peer: Arc<str>,
    has_entered: Arc<AtomicBool>,
}

/// Who sent a request, for people.
#[derive(Clone, Debug)]
pub(crate) struct PeerName(pub(crate) Arc<str>);

/// What a request of the front door holds, and until when it is to be answered.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) account: Account,
    /// Counted from the request.
    pub(crate) deadline: Deadline,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Router {
    /// The router of one connection.
    pub(crate) fn of(&self, peer: &str) -> Self {
        Self { peer: Arc::from(peer), has_entered: Arc::default(), ..self.clone() }
    }

    /// Whether a request was let in.
    pub(crate) fn has_entered(&self) -> Arc<AtomicBool> {
        self.has_entered.clone()
    }
}

impl hyper::service::Service<Request<Incoming>> for Router {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        let (is_pool, is_worker) =
            (service == "snakehouse.v1.Pool", service == "snakehouse.v1.Worker");
        let door = if is_worker { &self.doors.workers } else { &self.doors.clients };
        if let Err(status) = door.admit(request.headers()) {
            return answer(status);
        }
        self.has_entered.store(true, Relaxed);
        match (&self.front_door, &self.workers) {
            (Some(pool), _) if is_pool => self.through_front_door(pool.clone(), request),
            (_, Some(workers)) if is_worker => {
                let mut request = request;
                request.extensions_mut().insert(PeerName(self.peer.clone()));
                workers.clone().call(request)
            }
            _ => answer(Status::new(Code::Unimplemented, "this server has no such service")),
        }
    }
}

impl Router {
    fn through_front_door(
        &self,
        mut pool: PoolServer<FrontDoor>,
        request: Request<Incoming>,
    ) -> Answer {
        let is_stream = request.uri().path() == "/snakehouse.v1.Pool/Stream";
        let otherwise = if is_stream { Deadline::STREAM } else { Deadline::CALL };
        let deadline = match trace::deadline(request.headers(), otherwise) {
            Ok(deadline) => deadline,
            Err(status) => return answer(status),
        };
        let account = self.budget.account(is_stream);
        let mut request = request.map(|body| Metered::new(body, account.clone(), deadline));
        request.extensions_mut().insert(Terms { account: account.clone(), deadline });
        Box::pin(async move {
            let response = pool.call(request).await?;
            Ok(response.map(|body| Body::new(Holding::new(body, account))))
        })
    }
}

fn answer(status: Status) -> Answer {
    Box::pin(std::future::ready(Ok(status.into_http())))
}

#[cfg(test)]
mod tests {
    use snakehouse_base::Coded;

    use super::*;

    #[test]
    fn beyond_loopback_it_needs_a_token_and_tls_or_a_word_for_plaintext() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let tls = ServerTls::from_pem(cert.as_bytes(), key.as_bytes(), None).unwrap();
        let token = Secret::new("0123456789abcdef");
        let code = |listen: &str, token: Option<&Secret>, tls: Option<&ServerTls>, plaintext| {
            let mut config = ServerConfig::new(listen.parse().unwrap());
            (config.token, config.tls, config.plaintext) =
                (token.cloned(), tls.cloned(), plaintext);
            config.check(false).map(drop).map_err(|error| error.code())
        };
        assert_eq!(code("127.0.0.1:0", None, None, false), Ok(()));
        assert_eq!(code("[::1]:0", None, None, false), Ok(()));
        for open in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0"] {
            assert_eq!(code(open, None, Some(&tls), true), Err("token_needed"), "{open}");
            assert_eq!(code(open, Some(&token), None, false), Err("tls_needed"), "{open}");
            assert_eq!(code(open, Some(&token), Some(&tls), false), Ok(()), "{open}");
            assert_eq!(code(open, Some(&token), None, true), Ok(()), "{open}");
        }
        let weak = Secret::new("weak");
        assert_eq!(code("127.0.0.1:0", Some(&weak), None, false), Err("bad_token"));
    }

    #[test]
    fn where_clients_need_a_token_or_beyond_loopback_workers_have_one_of_their_own() {
        let (one, other) = (Secret::new("0123456789abcdef"), Secret::new("fedcba9876543210"));
        let code = |listen: &str, token: Option<&Secret>, worker_token: Option<&Secret>| {
            let mut config = ServerConfig::new(listen.parse().unwrap());
            (config.token, config.worker_token) = (token.cloned(), worker_token.cloned());
            config.plaintext = true;
            config.check(true).map(drop).map_err(|error| error.code())
        };
        let (here, beyond) = ("127.0.0.1:0", "0.0.0.0:0");
        assert_eq!(code(here, None, None), Ok(()));
        assert_eq!(code(here, Some(&one), None), Err("worker_token_needed"));
        assert_eq!(code(here, None, Some(&other)), Ok(()));
        assert_eq!(code(here, Some(&one), Some(&other)), Ok(()));
        assert_eq!(code(here, Some(&one), Some(&one)), Err("one_token_for_both"));
        assert_eq!(code(beyond, None, Some(&other)), Err("token_needed"));
        assert_eq!(code(beyond, Some(&one), None), Err("worker_token_needed"));
        assert_eq!(code(beyond, Some(&one), Some(&one)), Err("one_token_for_both"));
        assert_eq!(code(beyond, Some(&one), Some(&other)), Ok(()));
        assert_eq!(code(here, None, Some(&Secret::new("weak"))), Err("bad_token"));
    }
}
