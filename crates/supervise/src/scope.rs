//! A branch of the tree: owns whatever is started in it.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use snakehouse_base::Chance;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::child::{Child, ChildShared, CtxInner};
use crate::event::{Event, Events, Happening};
use crate::exit::{BoxError, ScopeFailure, payload_text};
use crate::group::{self, Group, GroupSpec};
use crate::member::{BoxFuture, Member};
use crate::runner;
use crate::spawn;
use crate::spec::ChildSpec;
use crate::stop::{StopReport, Stopped};
use crate::task::{Task, TaskError, TaskMember};
use crate::tree::{Node, NodeKind, NodeState};

/// Owns tasks, children, lanes, threads and nested scopes; stops and joins them in reverse order.
///
/// A handle: cheap to clone, and dropping it stops nothing. Once a stop has begun, nothing new
/// starts in the scope: a task resolves to [`TaskError::Cancelled`], a child is stopped from the
/// beginning.
#[derive(Clone)]
pub struct Scope {
    inner: Arc<ScopeInner>,
}

/// Who hears of a scope's failure.
pub(crate) enum Owner {
    /// The scope is the root, or contains its failures.
    Nobody,
    /// The failure goes on to the scope around it.
    Scope(Weak<ScopeInner>),
    /// The failure ends the incarnation the scope belongs to.
    Incarnation(Weak<CtxInner>),
}

pub(crate) struct ScopeInner {
    name: String,
    path: String,
    runtime: Handle,
    chance: Arc<Chance>,
    events: Events,
    owner: Owner,
    token: CancellationToken,
    members: Mutex<Members>,
    phase: watch::Sender<Phase>,
    failure: watch::Sender<Option<ScopeFailure>>,
}

#[derive(Default)]
struct Members {
    next: u64,
    closed: bool,
    by_id: BTreeMap<u64, Arc<dyn Member>>,
    last_panic: Option<String>,
    /// Of a nested scope: its place in the scope around it.
    leave: Option<Leave>,
}

#[derive(Clone)]
enum Phase {
    Open,
    Stopping,
    Stopped(Arc<StopReport>),
}

// === impl Scope ===

impl From<Arc<ScopeInner>> for Scope {
    fn from(inner: Arc<ScopeInner>) -> Self {
        Self { inner }
    }
}

impl Scope {
    /// Opens a nested scope. It ends with this scope at the latest, before everything that was
    /// started here earlier. Its failure is a failure of this scope.
    pub fn open(&self, name: &str) -> Scope {
        self.open_owned(name, Owner::Scope(Arc::downgrade(&self.inner)))
    }

    /// Opens a nested scope whose failure stays inside: it stops its own members and this scope
    /// goes on. Whoever opens it watches [`failed`](Scope::failed).
    pub fn open_contained(&self, name: &str) -> Scope {
        self.open_owned(name, Owner::Nobody)
    }

    fn open_owned(&self, name: &str, owner: Owner) -> Scope {
        let parent = &self.inner;
        let nested = ScopeInner::new(
            name,
            &format!("{}/{name}", parent.path),
            parent.runtime.clone(),
            parent.chance.clone(),
            parent.events.clone(),
            owner,
        );
        match parent.add(nested.clone()) {
            Some(leave) => nested.leave_when_stopped(leave),
            None => nested.close_empty(),
        }
        Scope { inner: nested }
    }

    /// Starts a supervised child; see [`ChildSpec`]. Returns at once; the child starts in the
    /// background and its handle tells when it is ready.
    pub fn child(&self, spec: ChildSpec) -> Child {
        let shared = Arc::new(ChildShared::new(&spec.name));
        match self.inner.add(shared.clone()) {
            Some(leave) => {
                let id = leave.id;
                let run = runner::supervise(spec, shared.clone(), self.inner.clone(), leave);
                shared.abort.arm(spawn::task(&self.inner.runtime, run).abort_handle());
                Child::new(id, shared)
            }
            None => {
                shared.never_started();
                Child::new(u64::MAX, shared)
            }
        }
    }

    /// Starts children that belong together; see [`GroupSpec`]. Returns at once.
    pub fn group(&self, spec: GroupSpec) -> Group {
        let shared = spec.share(&self.inner);
        match self.inner.add(shared.clone()) {
            Some(leave) => {
                let id = leave.id;
                let run = group::coordinate(spec, shared.clone(), self.inner.clone(), leave);
                shared.abort.arm(spawn::task(&self.inner.runtime, run).abort_handle());
                Group::new(id, shared)
            }
            None => {
                shared.never_started();
                Group::new(u64::MAX, shared)
            }
        }
    }

    /// Starts periodic work as a supervised child; see [`ChildSpec::every`].
    pub fn every<W, F>(&self, name: &str, period: Duration, work: W) -> Child
    where
        W: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.child(ChildSpec::every(name, period, work))
    }

    /// Starts a one-shot task. The scope owns it: dropping the returned [`Task`] loses the result,
    /// not the task. At a stop it should end when [`cancelled`](Scope::cancelled) fires; 5 s later
    /// it is dropped at an await point.
    ///
    /// A panic is logged, stands in the tree as the scope's last exit, and is the task's result.
    pub fn task<T, F>(&self, name: &str, future: F) -> Task<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let member = Arc::new(TaskMember::new(name));
        let (result, receiver) = oneshot::channel();
        if let Some(leave) = self.inner.add(member.clone()) {
            let leaving = (leave, member.going());
            let run = async move {
                let outcome = AssertUnwindSafe(future).catch_unwind().await.map_err(|payload| {
                    let what = payload_text(&*payload);
                    leaving.0.note_panic(&what);
                    TaskError::Panicked(what)
                });
                // Out of the tree before the result is seen: who awaits a task finds it gone.
                drop(leaving);
                // A dropped handle means that nobody wants the result.
                let _ = result.send(outcome);
            };
            member.abort.arm(spawn::task(&self.inner.runtime, run).abort_handle());
        }
        Task::new(member, receiver)
    }

    /// Fires when the scope is stopping and its direct members should end. Nested scopes that were
    /// opened last end before that.
    pub fn cancelled(&self) -> CancellationToken {
        self.inner.token.clone()
    }

    /// Waits until the scope fails. Never resolves for a scope that does not.
    ///
    /// Cancel safe.
    pub async fn failed(&self) -> ScopeFailure {
        let mut failure = self.inner.failure.subscribe();
        loop {
            if let Some(failure) = failure.borrow_and_update().clone() {
                return failure;
            }
            if failure.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stops everything in reverse start order and waits until it is gone: nested scopes first if
    /// they were opened last, then this scope's token fires and members are joined, each dropped
    /// when its grace has passed; lanes finish what they accepted.
    ///
    /// The stop runs in the background once begun: dropping this future does not interrupt it, and
    /// a second call waits for the same stop. Awaiting it inside a member of the scope itself ends
    /// with that member being dropped when its grace has passed.
    pub async fn stop(&self) -> StopReport {
        self.inner.begin_stop();
        StopReport::clone(&*self.inner.stopped().await)
    }

    /// The scope and everything in it, as data.
    pub fn tree(&self) -> Node {
        self.inner.node(0)
    }

    /// Everything that happens in the whole tree from now on. Lossy: a receiver that is more than
    /// 256 events behind is told how many it has missed.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.listen()
    }

    /// The name it was opened with.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub(crate) fn inner(&self) -> &Arc<ScopeInner> {
        &self.inner
    }

    /// Drops everything without grace and without waiting.
    pub(crate) fn abort(&self) {
        self.inner.abort();
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

// === impl ScopeInner ===

impl ScopeInner {
    pub(crate) fn new(
        name: &str,
        path: &str,
        runtime: Handle,
        chance: Arc<Chance>,
        events: Events,
        owner: Owner,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            path: path.to_owned(),
            runtime,
            chance,
            events,
            owner,
            token: CancellationToken::new(),
            members: Mutex::default(),
            phase: watch::Sender::new(Phase::Open),
            failure: watch::Sender::new(None),
        })
    }

    /// A scope that belongs to one incarnation of a child and is shown below it.
    pub(crate) fn of_incarnation(self: &Arc<Self>, name: &str, ctx: Weak<CtxInner>) -> Arc<Self> {
        let path = format!("{}/{name}", self.path);
        let owner = Owner::Incarnation(ctx);
        let (runtime, chance) = (self.runtime.clone(), self.chance.clone());
        Self::new(name, &path, runtime, chance, self.events.clone(), owner)
    }

    /// A scope outside the tree, for tasks whose owner shows and stops them itself.
    pub(crate) fn private(self: &Arc<Self>, name: &str) -> Arc<Self> {
        let path = format!("{}/{name}", self.path);
        let (runtime, chance) = (self.runtime.clone(), self.chance.clone());
        Self::new(name, &path, runtime, chance, self.events.clone(), Owner::Nobody)
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Tells whoever listens what happened to a member.
    pub(crate) fn tell(&self, member: &str, what: impl FnOnce() -> Happening) {
        self.events.tell(&self.path, member, what);
    }

    pub(crate) fn chance(&self) -> &Chance {
        &self.chance
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // Nothing in the critical sections can leave the map half changed.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a member in, unless a stop has begun.
    pub(crate) fn add(self: &Arc<Self>, member: Arc<dyn Member>) -> Option<Leave> {
        let mut members = self.members();
        if members.closed {
            return None;
        }
        let id = members.next;
        members.next += 1;
        members.by_id.insert(id, member);
        Some(Leave { scope: Arc::downgrade(self), id })
    }

    /// Gives up: stops everything and tells the owner. Only the first failure counts.
    pub(crate) fn fail(self: &Arc<Self>, failure: &ScopeFailure) {
        let first = self.failure.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert_with(|| failure.clone());
            first
        });
        if !first {
            return;
        }
        tracing::error!(scope = %self.path, %failure, "scope failed");
        self.tell("", || Happening::ScopeFailed);
        self.begin_stop();
        match &self.owner {
            Owner::Nobody => {}
            Owner::Scope(parent) => {
                if let Some(parent) = parent.upgrade() {
                    parent.fail(failure);
                }
            }
            Owner::Incarnation(ctx) => {
                if let Some(ctx) = ctx.upgrade() {
                    ctx.scope_failed(failure);
                }
            }
        }
    }

    /// Begins the stop, once; it goes on by itself.
    pub(crate) fn begin_stop(self: &Arc<Self>) {
        if std::mem::replace(&mut self.members().closed, true) {
            return;
        }
        self.phase.send_replace(Phase::Stopping);
        self.tell("", || Happening::ScopeStopping);
        let scope = self.clone();
        spawn::task(&self.runtime, async move {
            let report = scope.stop_members().await;
            let leave = scope.members().leave.take();
            drop(leave);
            scope.tell("", || Happening::ScopeStopped);
            scope.phase.send_replace(Phase::Stopped(Arc::new(report)));
        });
    }

    async fn stop_members(&self) -> StopReport {
        let mut report = StopReport::default();
        let mut told = None;
        loop {
            let last = self.members().by_id.last_key_value().map(|(id, m)| (*id, m.clone()));
            let Some((id, member)) = last else { break };
            if told.is_none() && !member.is_scope() {
                self.token.cancel();
                told = Some(Instant::now());
            }
            let ended = member.stop(told.unwrap_or_else(Instant::now)).await;
            report.ended.extend(ended.ended);
            // Outside the lock: the last owner of a nested scope may take the lock again.
            let gone = self.members().by_id.remove(&id);
            drop(gone);
        }
        self.token.cancel();
        report
    }

    /// Waits until a stop that has begun is complete.
    pub(crate) async fn stopped(&self) -> Arc<StopReport> {
        let mut phase = self.phase.subscribe();
        loop {
            if let Phase::Stopped(report) = &*phase.borrow_and_update() {
                return report.clone();
            }
            if phase.changed().await.is_err() {
                // Unreachable while `self` holds the sender; resolve with an empty report.
                return Arc::default();
            }
        }
    }

    /// Marks a scope in which nothing was ever started as stopped.
    pub(crate) fn close_empty(&self) {
        self.members().closed = true;
        self.token.cancel();
        self.phase.send_replace(Phase::Stopped(Arc::default()));
    }

    /// Lets a nested scope that is stopped on its own leave its parent.
    fn leave_when_stopped(self: &Arc<Self>, leave: Leave) {
        self.members().leave = Some(leave);
    }
}

impl Member for ScopeInner {
    fn node(&self, id: u64) -> Node {
        let members: Vec<_> =
            self.members().by_id.iter().map(|(id, member)| (*id, member.clone())).collect();
        let state = match (&*self.phase.borrow(), &*self.failure.borrow()) {
            (_, Some(_)) => NodeState::Failed,
            (Phase::Open, None) => NodeState::Running,
            (Phase::Stopping, None) => NodeState::Stopping,
            (Phase::Stopped(_), None) => NodeState::Stopped,
        };
        Node {
            id,
            name: self.name.clone(),
            kind: NodeKind::Scope,
            state,
            restarts: 0,
            last_exit: self.members().last_panic.clone(),
            children: members.into_iter().map(|(id, member)| member.node(id)).collect(),
        }
    }

    fn stop(self: Arc<Self>, _told: Instant) -> BoxFuture<StopReport> {
        async move {
            self.begin_stop();
            let below = self.stopped().await;
            let mut report = StopReport::default();
            report.add_nested(&self.name, &below);
            report.add(&self.name, Stopped::Gracefully);
            report
        }
        .boxed()
    }

    fn abort(&self) {
        self.token.cancel();
        let members = {
            let mut members = self.members();
            members.closed = true;
            std::mem::take(&mut members.by_id)
        };
        for member in members.into_values().rev() {
            member.abort();
        }
        self.phase.send_if_modified(|phase| {
            let open = matches!(phase, Phase::Open);
            if open {
                *phase = Phase::Stopped(Arc::default());
            }
            open
        });
    }

    fn is_scope(&self) -> bool {
        true
    }
}

/// Takes a member out of its scope when dropped. During a stop the member stays, so that the
/// report names it.
pub(crate) struct Leave {
    scope: Weak<ScopeInner>,
    pub(crate) id: u64,
}

impl Leave {
    /// Leaves the member in its scope until the scope stops.
    pub(crate) fn stay(mut self) {
        self.scope = Weak::new();
    }

    /// Logs a panic of the member and shows it in the tree.
    pub(crate) fn note_panic(&self, what: &str) {
        if let Some(scope) = self.scope.upgrade() {
            let member = scope.members().by_id.get(&self.id).cloned();
            let name = member.map(|member| member.node(self.id).name).unwrap_or_default();
            tracing::error!(scope = %scope.path, task = %name, panic = what, "task panicked");
            scope.tell(&name, || Happening::Panicked(what.to_owned()));
            scope.members().last_panic = Some(format!("{name} panicked: {what}"));
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Some(scope) = self.scope.upgrade() {
            let mut members = scope.members();
            if !members.closed {
                let gone = members.by_id.remove(&self.id);
                // Its destructors must not run under the lock.
                drop(members);
                drop(gone);
            }
        }
    }
}
