//! A running service.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use snakehouse_store::StateDir;
use snakehouse_supervise::{BoxError, ChildCtx, ChildSpec, Lane, Node, Scope, StopReport, accept};
use tokio::net::TcpListener;

use super::access::Access;
use super::body::BodyRoom;
use super::error::ServeError;
use super::future::HeldPolls;
use super::routes::{Api, router};
use super::serve::{connection, most};
use super::workers::Workers;
use crate::core::{Core, CoreConfig, CoreError};

/// What a [`Service`] is started with.
#[derive(Debug)]
pub struct ServiceConfig {
    /// Where to listen; port 0 takes a free one. Loopback only.
    pub addr: SocketAddr,
    /// The core's configuration.
    pub core: CoreConfig,
    /// Web origins whose pages may send requests, such as `http://localhost:3000`. Usually none.
    pub origins: Vec<String>,
    /// The worker processes to show and offer, if any.
    pub workers: Option<Workers>,
}

impl ServiceConfig {
    /// A service at `addr` without web origins and workers.
    pub fn new(addr: SocketAddr, core: CoreConfig) -> Self {
        Self { addr, core, origins: Vec::new(), workers: None }
    }
}

/// A core and the port it is reached at. Everything runs in one scope below the caller's.
#[derive(Debug)]
pub struct Service {
    scope: Scope,
    core: Core,
    addr: SocketAddr,
}

impl Service {
    /// Takes the port, starts the core and begins to answer. Returns before the engine serves;
    /// [`wait_ready`](Self::wait_ready) waits for that. Until then `healthz` answers 503.
    ///
    /// If the future is dropped, what was started stays in `scope` until that stops.
    ///
    /// # Errors
    /// [`ServeError::NotLoopback`]; [`ServeError::PortInUse`], unless the state directory is held
    /// as well, which says more: then it is that error, with the holder's process and port.
    /// Nothing is left running.
    pub async fn start(scope: &Scope, config: ServiceConfig) -> Result<Self, ServeError> {
        let addr = config.addr;
        if !addr.ip().is_loopback() {
            return Err(ServeError::NotLoopback { addr });
        }
        let listener = match TcpListener::bind(addr).await {
            Ok(listener) => Arc::new(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                StateDir::open(&config.core.state_dir).map_err(CoreError::from)?;
                return Err(ServeError::PortInUse { addr });
            }
            Err(source) => return Err(ServeError::Bind { addr, source }),
        };
        let addr = listener.local_addr().map_err(|source| ServeError::Bind { addr, source })?;

        let scope = scope.open("service");
        let started = Self::start_core(&scope, config.core, addr.port()).await;
        let core = match started {
            Ok(core) => core,
            Err(error) => {
                scope.stop().await;
                return Err(error.into());
            }
        };
        let lane = Lane::new(&scope, "decode", 1, 64);
        // Opened before the accept loop, so that it is stopped after it.
        let connections = scope.open("connections");
        let api = Api {
            core: core.clone(),
            lane,
            bodies: BodyRoom::default(),
            stopping: connections.cancelled(),
            polls: HeldPolls::default(),
            workers: config.workers,
        };
        let router = router(api, Access::new(config.origins));
        let accepting = move |ctx: ChildCtx| {
            let (listener, router) = (listener.clone(), router.clone());
            let connections = connections.clone();
            async move {
                ctx.ready();
                let serve = |stream| connection(stream, router.clone(), connections.cancelled());
                accept(&listener, &connections, most(), &ctx.cancelled(), serve).await;
                Ok::<(), BoxError>(())
            }
        };
        let spec = ChildSpec::new("accept", accepting);
        drop(scope.child(spec));
        Ok(Self { scope, core, addr })
    }

    async fn start_core(scope: &Scope, config: CoreConfig, port: u16) -> Result<Core, CoreError> {
        let core = Core::start(scope, config).await?;
        core.record_port(port)?;
        Ok(core)
    }

    /// The address it listens on, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The core behind it.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Everything that runs in it, as data.
    pub fn tree(&self) -> Node {
        self.scope.tree()
    }

    /// Waits until the engine serves. Cancel safe.
    ///
    /// # Errors
    /// [`ServeError::Core`] if it never will.
    pub async fn wait_ready(&self) -> Result<(), ServeError> {
        Ok(self.core.wait_ready().await?)
    }

    /// Stops accepting, ends held polls, finishes requests in progress, then stops the core.
    ///
    /// Once begun it goes on if the future is dropped.
    pub async fn stop(&self) -> StopReport {
        self.scope.stop().await
    }
}
