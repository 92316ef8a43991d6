//! Children that belong together: started in order, restarted by a strategy.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::child::{Child, ChildCtx, ChildError, ChildShared};
use crate::event::Happening;
use crate::exit::{Exit, ScopeFailure};
use crate::intensity::Intensity;
use crate::member::{BoxFuture, Member};
use crate::plan::{Strategy, plan};
use crate::runner::live;
use crate::scope::{Leave, Scope, ScopeInner};
use crate::spec::ChildSpec;
use crate::stop::{StopReport, Stopped};
use crate::task::{AbortSlot, Task};
use crate::tree::{Node, NodeKind, NodeState};

/// The description of a group.
///
/// Its members start one after the other: one starts when the one before has reported readiness,
/// also after a restart. The group's intensity (default: 10 restarts within 60 s) counts for all of
/// them together; those of their specs do not apply. Each member's restart policy, back-off and
/// grace do.
#[derive(Debug)]
pub struct GroupSpec {
    name: String,
    strategy: Strategy,
    intensity: Intensity,
    children: Vec<ChildSpec>,
}

/// The handle of a group. Dropping it stops nothing.
#[derive(Clone)]
pub struct Group {
    id: u64,
    shared: Arc<GroupShared>,
}

pub(crate) struct GroupShared {
    name: String,
    children: Vec<Arc<ChildShared>>,
    state: watch::Sender<NodeState>,
    stop: CancellationToken,
    gone: CancellationToken,
    pub(crate) abort: AbortSlot,
    /// Owns the tasks of the incarnations; not in the tree.
    tasks: Scope,
}

impl GroupSpec {
    /// An empty group.
    pub fn new(name: impl Into<String>, strategy: Strategy) -> Self {
        Self {
            name: name.into(),
            strategy,
            intensity: Intensity::new(10, Duration::from_secs(60)),
            children: Vec::new(),
        }
    }

    /// Adds a member at the end of the start order.
    #[must_use]
    pub fn child(mut self, spec: ChildSpec) -> Self {
        self.children.push(spec);
        self
    }

    /// At most `limit` restarts within `within`, all members together; one more and the scope
    /// fails.
    #[must_use]
    pub fn intensity(mut self, limit: u32, within: Duration) -> Self {
        self.intensity = Intensity::new(limit, within);
        self
    }

    pub(crate) fn share(&self, parent: &Arc<ScopeInner>) -> Arc<GroupShared> {
        Arc::new(GroupShared {
            name: self.name.clone(),
            children: self
                .children
                .iter()
                .map(|spec| Arc::new(ChildShared::new(&spec.name)))
                .collect(),
            state: watch::Sender::new(NodeState::Starting),
            stop: CancellationToken::new(),
            gone: CancellationToken::new(),
            abort: AbortSlot::default(),
            tasks: Scope::from(parent.private(&self.name)),
        })
    }
}

// === impl Group ===

impl Group {
    pub(crate) fn new(id: u64, shared: Arc<GroupShared>) -> Self {
        Self { id, shared }
    }

    /// Its place in the start order of its scope, as in [`Node::id`].
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The first member of this name.
    pub fn child(&self, name: &str) -> Option<Child> {
        let find = |(_, shared): &(usize, &Arc<ChildShared>)| shared.name == name;
        let (n, shared) = self.shared.children.iter().enumerate().find(find)?;
        Some(Child::new(n as u64, shared.clone()))
    }

    /// Waits until all members are ready at the same time. Cancel safe.
    ///
    /// # Errors
    /// [`ChildError`] when the group is gone for good.
    pub async fn wait_ready(&self) -> Result<(), ChildError> {
        let mut state = self.shared.state.subscribe();
        loop {
            match *state.borrow_and_update() {
                NodeState::Running => return Ok(()),
                NodeState::Stopped | NodeState::Failed => {
                    let name = self.shared.name.clone();
                    return Err(ChildError { name, exit: Exit::Stopped });
                }
                NodeState::Starting | NodeState::BackingOff | NodeState::Stopping => {}
            }
            if state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stops the members in reverse order. Once begun, it goes on even if this future is dropped.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.gone.cancelled().await;
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("id", &self.id)
            .field("name", &self.shared.name)
            .field("state", &*self.shared.state.borrow())
            .finish_non_exhaustive()
    }
}

// === impl GroupShared ===

impl GroupShared {
    /// The scope was stopping already.
    pub(crate) fn never_started(&self) {
        self.tasks.abort();
        for child in &self.children {
            child.never_started();
        }
        self.state.send_replace(NodeState::Stopped);
        self.gone.cancel();
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        for child in &self.shared.children {
            child.left();
        }
        self.shared.tasks.abort();
        self.shared.gone.cancel();
    }
}

impl Member for GroupShared {
    fn node(&self, id: u64) -> Node {
        let children = self.children.iter().zip(0..).map(|(child, n)| child.node(n)).collect();
        Node {
            id,
            name: self.name.clone(),
            kind: NodeKind::Group,
            state: *self.state.borrow(),
            restarts: self.children.iter().map(|child| child.restarts()).sum(),
            last_exit: None,
            children,
        }
    }

    fn stop(self: Arc<Self>, _told: Instant) -> BoxFuture<StopReport> {
        async move {
            self.stop.cancel();
            self.gone.cancelled().await;
            let mut report = StopReport::default();
            for child in self.children.iter().rev() {
                report.add(&format!("{}/{}", self.name, child.name), child.how_it_stopped());
            }
            report.add(&self.name, Stopped::Gracefully);
            report
        }
        .boxed()
    }

    fn abort(&self) {
        self.stop.cancel();
        for child in &self.children {
            child.abort();
        }
        self.tasks.abort();
        self.abort.abort();
    }
}

// === The coordinator ===

/// An incarnation that has ended: whose, its spec for the next one, and why.
type Ended = (usize, ChildSpec, Exit);

struct Slot {
    spec: Option<ChildSpec>,
    stop: Option<CancellationToken>,
    born: Instant,
    attempts: u64,
    streak: u32,
    done: bool,
}

struct Coordinator {
    shared: Arc<GroupShared>,
    scope: Arc<ScopeInner>,
    strategy: Strategy,
    intensity: Intensity,
    members: Vec<Slot>,
    running: FuturesUnordered<Task<Ended>>,
    /// Exits that arrived while others were being stopped.
    backlog: Vec<Ended>,
    /// Who starts next, in order.
    pending: BTreeSet<usize>,
    starting: Option<usize>,
    resume_at: Option<Instant>,
}

/// Runs a group for its whole life.
pub(crate) fn coordinate(
    spec: GroupSpec,
    shared: Arc<GroupShared>,
    scope: Arc<ScopeInner>,
    leave: Leave,
) -> impl Future<Output = ()> + Send {
    let members: Vec<_> = spec
        .children
        .into_iter()
        .map(|spec| Slot {
            spec: Some(spec),
            stop: None,
            born: Instant::now(),
            attempts: 0,
            streak: 0,
            done: false,
        })
        .collect();
    // Made here and not below: one that is dropped before its first turn reports that it is gone.
    let mut coordinator = Coordinator {
        pending: (0..members.len()).collect(),
        shared,
        scope,
        strategy: spec.strategy,
        intensity: spec.intensity,
        members,
        running: FuturesUnordered::new(),
        backlog: Vec::new(),
        starting: None,
        resume_at: None,
    };
    async move {
        let end = coordinator.run().await;
        coordinator.stop_all().await;
        coordinator.shared.state.send_replace(end);
        coordinator.shared.tasks.stop().await;
        drop(leave);
    }
}

impl Coordinator {
    /// Until told to stop, done or failed.
    async fn run(&mut self) -> NodeState {
        loop {
            self.start_next();
            if self.members.iter().all(|member| member.done) {
                return NodeState::Stopped;
            }
            if let Some(ended) = self.backlog.pop() {
                if let Some(failure) = self.ended(ended).await {
                    return self.fail(failure);
                }
                continue;
            }
            let stop = self.shared.stop.clone();
            let ready = self.starting.map(|n| self.shared.children[n].clone());
            let resume_at = self.resume_at;
            tokio::select! {
                biased;
                () = stop.cancelled() => return NodeState::Stopped,
                Some(ended) = self.running.next() => {
                    let Ok(ended) = ended else {
                        // Only a destructor can panic there; its spec is lost with it.
                        return self.fail(self.failure(0, Exit::Panicked("in a destructor".into())));
                    };
                    if let Some(failure) = self.ended(ended).await {
                        return self.fail(failure);
                    }
                }
                () = became_ready(ready) => self.starting = None,
                () = passed(resume_at) => self.resume_at = None,
            }
        }
    }

    /// Starts the next pending member, unless one is starting or the back-off runs.
    fn start_next(&mut self) {
        if self.starting.is_some() || self.resume_at.is_some() {
            return;
        }
        let Some(n) = self.pending.pop_first() else {
            self.shared.state.send_if_modified(|state| {
                let changed = *state != NodeState::Running;
                *state = NodeState::Running;
                changed
            });
            return;
        };
        let child = self.shared.children[n].clone();
        let member = &mut self.members[n];
        let Some(mut spec) = member.spec.take() else { return };
        let ctx = ChildCtx::new(child.clone(), self.shared.tasks.inner().clone(), member.attempts);
        child.set(NodeState::Starting);
        member.attempts += 1;
        member.born = Instant::now();
        member.stop = Some(ctx.inner().stop.clone());
        self.running.push(self.shared.tasks.task(&child.name, async move {
            let exit = live(&mut spec, ctx).await;
            (n, spec, exit)
        }));
        self.starting = Some(n);
    }

    /// Deals with an exit. Returns the failure if there were too many.
    async fn ended(&mut self, (n, spec, exit): Ended) -> Option<ScopeFailure> {
        let now = Instant::now();
        let member = &mut self.members[n];
        member.stop = None;
        let stopped = self.shared.children[n].stop.is_cancelled();
        let wants = !stopped && spec.restart.wants(&exit);
        let backoff = spec.backoff;
        member.spec = Some(spec);
        if self.starting == Some(n) {
            self.starting = None;
        }
        let child = self.shared.children[n].clone();
        child.log_exit(&self.scope, &exit);
        if !wants {
            child.ended(&exit, NodeState::Stopped);
            child.left();
            self.members[n].done = true;
            return None;
        }
        if !self.intensity.admit(now.into_std()) {
            child.ended(&exit, NodeState::Failed);
            return Some(self.failure(n, exit));
        }
        child.ended(&exit, NodeState::BackingOff);
        self.shared.state.send_replace(NodeState::BackingOff);
        let done: Vec<bool> = self.members.iter().map(|member| member.done).collect();
        let plan = plan(self.strategy, &done, n);
        for other in plan.stop {
            if let Some(exit) = self.stop_member(other).await {
                self.shared.children[other].ended(&exit, NodeState::BackingOff);
            }
            if self.starting == Some(other) {
                self.starting = None;
            }
        }
        self.pending.extend(plan.start);
        let member = &mut self.members[n];
        if now - member.born >= self.intensity.within() {
            member.streak = 0;
        }
        let pause = backoff.delay(member.streak, self.scope.chance().next_unit());
        member.streak = member.streak.saturating_add(1);
        self.scope.tell(&child.name, || Happening::Restarting(pause));
        let resume_at = Instant::now() + pause;
        self.resume_at = Some(self.resume_at.map_or(resume_at, |known| known.max(resume_at)));
        None
    }

    /// Stops one incarnation and waits for its end; exits of others meanwhile go to the backlog.
    async fn stop_member(&mut self, n: usize) -> Option<Exit> {
        if let Some(at) = self.backlog.iter().position(|(ended, ..)| *ended == n) {
            let (_, spec, exit) = self.backlog.remove(at);
            self.members[n].spec = Some(spec);
            self.members[n].stop = None;
            return Some(exit);
        }
        self.members[n].stop.take()?.cancel();
        while let Some(ended) = self.running.next().await {
            match ended {
                Ok((ended, spec, exit)) if ended == n => {
                    self.members[n].spec = Some(spec);
                    return Some(exit);
                }
                Ok(other) => self.backlog.push(other),
                Err(_) => return None,
            }
        }
        None
    }

    async fn stop_all(&mut self) {
        self.shared.state.send_replace(NodeState::Stopping);
        for n in (0..self.members.len()).rev() {
            let exit = self.stop_member(n).await;
            let child = self.shared.children[n].clone();
            match exit {
                Some(exit) => child.ended(&exit, NodeState::Stopped),
                None if child.is_gone_for_good() => {}
                None => child.set(NodeState::Stopped),
            }
        }
    }

    fn fail(&self, failure: ScopeFailure) -> NodeState {
        self.scope.fail(&failure);
        NodeState::Failed
    }

    fn failure(&self, n: usize, last: Exit) -> ScopeFailure {
        ScopeFailure {
            scope: self.scope.path().to_owned(),
            member: format!("{}/{}", self.shared.name, self.shared.children[n].name),
            restarts: self.shared.children.iter().map(|child| child.restarts()).sum(),
            last,
        }
    }
}

async fn became_ready(child: Option<Arc<ChildShared>>) {
    match child {
        Some(child) => child.became_running().await,
        None => std::future::pending().await,
    }
}

async fn passed(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
