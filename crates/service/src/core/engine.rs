//! The seam to the engine.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use snakehouse_base::{Deadline, Kind};
use snakehouse_supervise::Scope;

/// A future of the seam.
pub type EngineFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, EngineError>> + Send + 'a>>;

/// Where engines come from: one process at a time, replaced when it dies.
pub trait EngineSource: fmt::Debug + Send + Sync + 'static {
    /// Starts whatever makes engines, owned by `scope`. Called once per scope.
    fn open(&self, scope: &Scope) -> EngineFuture<'_, Box<dyn EngineConnector>>;
}

/// Gives engines, one after the other.
pub trait EngineConnector: Send + 'static {
    /// An engine that serves and holds nothing. Waits until there is one. Cancel safe.
    fn connect(&mut self) -> EngineFuture<'_, Box<dyn Engine>>;
}

/// One life of an engine. It loses everything when it dies.
pub trait Engine: Send + 'static {
    /// Calls a tool. Dropping the future cancels the call.
    fn call(
        &mut self,
        tool: &'static str,
        body: Bytes,
        deadline: Deadline,
    ) -> EngineFuture<'_, Bytes>;
    /// Who this is.
    fn identity(&self) -> EngineIdentity;
    /// Completes when this life is over.
    fn lost(&self) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>>;
    /// What ends this life at once, for a [`Fault`](super::Fault).
    fn killer(&self) -> Box<dyn FnOnce() + Send>;
}

/// Which process serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineIdentity {
    /// Its process, if it is one.
    pub pid: Option<u32>,
    /// Which life.
    pub incarnation: u64,
}

/// How a call of the engine ends without a result.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// This life is over; whatever it held is lost.
    #[error("the engine died: {0}")]
    Died(String),
    /// The engine refused or failed the operation, which left nothing behind.
    #[error("{message}")]
    Failed {
        /// The family.
        kind: Kind,
        /// A stable name.
        code: String,
        /// What happened and why.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// No engine can be had at all.
    #[error("no engine is available: {0}")]
    Unavailable(String),
}
