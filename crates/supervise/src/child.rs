//! A supervised child: the handle outside, the context inside.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::FutureExt as _;
use snakehouse_base::{Coded, Kind};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::event::Happening;
use crate::exit::{Exit, ScopeFailure};
use crate::member::{BoxFuture, Member};
use crate::scope::{Scope, ScopeInner};
use crate::stop::{StopReport, Stopped};
use crate::task::AbortSlot;
use crate::tree::{Node, NodeKind, NodeState};

/// The handle of a supervised child. Dropping it stops nothing.
#[derive(Clone)]
pub struct Child {
    id: u64,
    shared: Arc<ChildShared>,
}

/// What an incarnation of a child gets from its supervisor. Cheap to clone.
#[derive(Clone)]
pub struct ChildCtx {
    inner: Arc<CtxInner>,
}

/// Why a child will never be ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("child {name} is gone: it {exit}")]
pub struct ChildError {
    /// Its name.
    pub name: String,
    /// Its last exit.
    pub exit: Exit,
}

impl Coded for ChildError {
    fn kind(&self) -> Kind {
        match self.exit {
            Exit::Stopped | Exit::Aborted | Exit::Finished => Kind::Unavailable,
            _ => Kind::Internal,
        }
    }

    fn code(&self) -> &'static str {
        "child_gone"
    }
}

/// The state of a child over all its incarnations.
pub(crate) struct ChildShared {
    pub(crate) name: String,
    status: watch::Sender<Status>,
    pub(crate) stop: CancellationToken,
    pub(crate) gone: CancellationToken,
    pub(crate) abort: AbortSlot,
    current: Mutex<Option<Arc<CtxInner>>>,
}

#[derive(Clone, Debug)]
struct Status {
    state: NodeState,
    restarts: u64,
    last_exit: Option<Exit>,
}

/// The state of one incarnation.
pub(crate) struct CtxInner {
    child: Arc<ChildShared>,
    parent: Arc<ScopeInner>,
    /// Tells this incarnation's supervisor to end it.
    pub(crate) stop: CancellationToken,
    pub(crate) token: CancellationToken,
    pub(crate) broken: CancellationToken,
    failure: OnceLock<ScopeFailure>,
    ready: AtomicBool,
    attempt: u64,
    scope: OnceLock<Scope>,
}

// === impl Child ===

impl Child {
    pub(crate) fn new(id: u64, shared: Arc<ChildShared>) -> Self {
        Self { id, shared }
    }

    /// Its place in the start order of its scope, as in [`Node::id`].
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The name of its spec.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Waits until an incarnation has reported readiness. Restarts in between are waited through.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ChildError`] when the child is gone for good.
    pub async fn wait_ready(&self) -> Result<(), ChildError> {
        let mut status = self.shared.status.subscribe();
        loop {
            let now = status.borrow_and_update().clone();
            match now.state {
                NodeState::Running => return Ok(()),
                NodeState::Stopped | NodeState::Failed => {
                    let exit = now.last_exit.unwrap_or(Exit::Stopped);
                    return Err(ChildError { name: self.shared.name.clone(), exit });
                }
                NodeState::Starting | NodeState::BackingOff | NodeState::Stopping => {}
            }
            // The sender lives in `self.shared`, so an error cannot happen; waiting for ever on
            // one would be worse than looking again.
            if status.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Tells the child to stop, waits for its grace, drops it if it must; returns the last exit.
    /// It is not restarted. Once begun, the stop goes on even if this future is dropped.
    pub async fn stop(&self) -> Exit {
        self.shared.stop.cancel();
        self.shared.gone.cancelled().await;
        self.shared.last_exit().unwrap_or(Exit::Stopped)
    }

    /// How often it has been restarted.
    pub fn restarts(&self) -> u64 {
        self.shared.status.borrow().restarts
    }

    /// What it is doing.
    pub fn state(&self) -> NodeState {
        self.shared.status.borrow().state
    }

    /// Waits until it is gone for good; returns the last exit. Cancel safe.
    pub async fn gone(&self) -> Exit {
        self.shared.gone.cancelled().await;
        self.shared.last_exit().unwrap_or(Exit::Stopped)
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("id", &self.id)
            .field("name", &self.shared.name)
            .field("status", &*self.shared.status.borrow())
            .finish_non_exhaustive()
    }
}

// === impl ChildCtx ===

impl ChildCtx {
    pub(crate) fn new(child: Arc<ChildShared>, parent: Arc<ScopeInner>, attempt: u64) -> Self {
        let stop = child.stop.child_token();
        let inner = Arc::new(CtxInner {
            child,
            parent,
            stop,
            token: CancellationToken::new(),
            broken: CancellationToken::new(),
            failure: OnceLock::new(),
            ready: AtomicBool::new(false),
            attempt,
            scope: OnceLock::new(),
        });
        inner.parent.tell(&inner.child.name, || Happening::Started(attempt));
        *inner.child.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(inner.clone());
        Self { inner }
    }

    /// Fires when this incarnation should end.
    pub fn cancelled(&self) -> CancellationToken {
        self.inner.token.clone()
    }

    /// Reports that this incarnation serves. Repeated calls change nothing.
    pub fn ready(&self) {
        if !self.inner.ready.swap(true, Ordering::SeqCst) {
            self.inner.child.became_ready();
            self.inner.parent.tell(&self.inner.child.name, || Happening::Ready);
        }
    }

    /// A scope that ends with this incarnation, whatever ends it. Its failure ends the incarnation.
    pub fn scope(&self) -> Scope {
        self.inner.scope.get_or_init(|| Scope::from(self.inner.new_scope())).clone()
    }

    /// How many incarnations came before this one.
    pub fn attempt(&self) -> u64 {
        self.inner.attempt
    }

    pub(crate) fn inner(&self) -> &Arc<CtxInner> {
        &self.inner
    }
}

impl fmt::Debug for ChildCtx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildCtx")
            .field("child", &self.inner.child.name)
            .field("attempt", &self.inner.attempt)
            .finish_non_exhaustive()
    }
}

// === impl CtxInner ===

impl CtxInner {
    /// Waits until the child is told to stop; shows that it is stopping.
    pub(crate) async fn told_to_stop(&self) {
        self.stop.cancelled().await;
        self.child.set(NodeState::Stopping);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    /// Hears that the incarnation's own scope failed.
    pub(crate) fn scope_failed(&self, failure: &ScopeFailure) {
        let _first = self.failure.set(failure.clone());
        self.broken.cancel();
    }

    pub(crate) fn failure_text(&self) -> String {
        self.failure.get().map(ToString::to_string).unwrap_or_default()
    }

    /// Stops the incarnation's own scope, and keeps it from getting one later: a context may
    /// outlive its incarnation.
    pub(crate) async fn stop_scope(self: &Arc<Self>) {
        self.last_scope().stop().await;
    }

    /// Drops the incarnation's own scope without waiting; for one that was dropped itself.
    pub(crate) fn abort_scope(self: &Arc<Self>) {
        self.last_scope().abort();
    }

    /// The incarnation's own scope, or from now on one in which nothing starts.
    fn last_scope(self: &Arc<Self>) -> &Scope {
        self.scope.get_or_init(|| {
            let scope = self.new_scope();
            scope.close_empty();
            Scope::from(scope)
        })
    }

    fn new_scope(self: &Arc<Self>) -> Arc<ScopeInner> {
        self.parent.of_incarnation(&self.child.name, Arc::downgrade(self))
    }
}

// === impl ChildShared ===

impl ChildShared {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            status: watch::Sender::new(Status {
                state: NodeState::Starting,
                restarts: 0,
                last_exit: None,
            }),
            stop: CancellationToken::new(),
            gone: CancellationToken::new(),
            abort: AbortSlot::default(),
            current: Mutex::new(None),
        }
    }

    /// The supervisor has left, in whatever way.
    pub(crate) fn left(&self) {
        // The context points back here; a supervisor that was dropped has not cleared it.
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.gone.cancel();
    }

    /// The scope was stopping already.
    pub(crate) fn never_started(&self) {
        self.set(NodeState::Stopped);
        self.gone.cancel();
    }

    pub(crate) fn set(&self, state: NodeState) {
        self.status.send_modify(|status| status.state = state);
    }

    pub(crate) fn ended(&self, exit: &Exit, state: NodeState) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.status.send_modify(|status| {
            status.state = state;
            status.last_exit = Some(exit.clone());
            if state == NodeState::BackingOff {
                status.restarts += 1;
            }
        });
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.status.borrow().restarts
    }

    fn became_ready(&self) {
        self.status.send_if_modified(|status| {
            let starting = status.state == NodeState::Starting;
            if starting {
                status.state = NodeState::Running;
            }
            starting
        });
    }

    /// Waits until the current incarnation has reported readiness.
    pub(crate) async fn became_running(&self) {
        let mut status = self.status.subscribe();
        // The sender lives as long as this borrow, so the wait ends with the condition.
        let _ready = status.wait_for(|status| status.state == NodeState::Running).await;
    }

    /// Whether it has ended and is not started again.
    pub(crate) fn is_gone_for_good(&self) -> bool {
        matches!(self.status.borrow().state, NodeState::Stopped | NodeState::Failed)
    }

    pub(crate) fn how_it_stopped(&self) -> Stopped {
        match self.last_exit() {
            Some(Exit::Aborted) => Stopped::Aborted,
            _ => Stopped::Gracefully,
        }
    }

    pub(crate) fn log_exit(&self, scope: &ScopeInner, exit: &Exit) {
        scope.tell(&self.name, || Happening::Ended(exit.clone()));
        let scope = scope.path();
        let (child, restarts) = (&self.name, self.restarts());
        if exit.is_failure() {
            tracing::warn!(%scope, %child, restarts, %exit, "child ended");
        } else {
            tracing::debug!(%scope, %child, restarts, %exit, "child ended");
        }
    }

    fn last_exit(&self) -> Option<Exit> {
        self.status.borrow().last_exit.clone()
    }
}

impl Member for ChildShared {
    fn node(&self, id: u64) -> Node {
        let status = self.status.borrow().clone();
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let scope = current.and_then(|ctx| ctx.scope.get().cloned());
        Node {
            id,
            name: self.name.clone(),
            kind: NodeKind::Child,
            state: status.state,
            restarts: status.restarts,
            last_exit: status.last_exit.map(|exit| exit.to_string()),
            children: scope.map(|scope| scope.tree().children).unwrap_or_default(),
        }
    }

    fn stop(self: Arc<Self>, _told: Instant) -> BoxFuture<StopReport> {
        async move {
            self.stop.cancel();
            self.gone.cancelled().await;
            let mut report = StopReport::default();
            report.add(&self.name, self.how_it_stopped());
            report
        }
        .boxed()
    }

    fn abort(&self) {
        self.stop.cancel();
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(scope) = current.and_then(|ctx| ctx.scope.get().cloned()) {
            scope.abort();
        }
        self.abort.abort();
    }
}
