//! The supervisor of one child: incarnation after incarnation, until it is told to stop, is done,
//! or fails too often.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use crate::child::{ChildCtx, ChildShared, CtxInner};
use crate::event::Happening;
use crate::exit::{BoxError, Exit, ScopeFailure, chain_text, payload_text};
use crate::member::BoxFuture;
use crate::scope::{Leave, ScopeInner};
use crate::spec::ChildSpec;
use crate::tree::NodeState;

/// What timers count in. They would make a millisecond or two of a pause that is shorter.
const TICK: Duration = Duration::from_millis(1);

/// Runs a child for its whole life.
pub(crate) fn supervise(
    spec: ChildSpec,
    shared: Arc<ChildShared>,
    scope: Arc<ScopeInner>,
    leave: Leave,
) -> impl Future<Output = ()> + Send {
    // Made here and not in the loop: a supervisor that is dropped before its first turn reports too.
    let gone = Gone(shared.clone());
    async move {
        incarnations(spec, shared, scope, leave).await;
        drop(gone);
    }
}

async fn incarnations(
    mut spec: ChildSpec,
    shared: Arc<ChildShared>,
    scope: Arc<ScopeInner>,
    leave: Leave,
) {
    // Failures in a row, for the back-off.
    let mut streak = 0;
    for attempt in 0u64.. {
        shared.set(NodeState::Starting);
        let born = Instant::now();
        let exit = live(&mut spec, ChildCtx::new(shared.clone(), scope.clone(), attempt)).await;
        shared.log_exit(&scope, &exit);
        if shared.stop.is_cancelled() || !spec.restart.wants(&exit) {
            shared.ended(&exit, NodeState::Stopped);
            break;
        }
        let now = Instant::now();
        if !spec.intensity.admit(now.into_std()) {
            shared.ended(&exit, NodeState::Failed);
            scope.fail(&ScopeFailure {
                scope: scope.path().to_owned(),
                member: shared.name.clone(),
                restarts: shared.restarts(),
                last: exit,
            });
            break;
        }
        if now - born >= spec.intensity.within() {
            streak = 0;
        }
        let pause = spec.backoff.delay(streak, scope.chance().next_unit());
        streak = streak.saturating_add(1);
        shared.ended(&exit, NodeState::BackingOff);
        scope.tell(&shared.name, || Happening::Restarting(pause));
        tracing::info!(scope = %scope.path(), child = %shared.name, ?pause, "restart scheduled");
        if pause < TICK {
            yield_now().await;
        } else if timeout(pause, shared.stop.cancelled()).await.is_ok() {
            shared.set(NodeState::Stopped);
            break;
        }
    }
    drop(leave);
}

/// Reports, when dropped, that a child is gone for good.
struct Gone(Arc<ChildShared>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.left();
    }
}

/// Takes the incarnation's own scope with it when it is dropped in the middle.
struct Incarnation(Arc<CtxInner>);

impl Drop for Incarnation {
    fn drop(&mut self) {
        self.0.abort_scope();
    }
}

/// Runs one incarnation to its end, its own scope included.
pub(crate) async fn live(spec: &mut ChildSpec, ctx: ChildCtx) -> Exit {
    let inner = ctx.inner().clone();
    let _incarnation = Incarnation(inner.clone());
    let start = &mut spec.start;
    let exit = match catch_unwind(AssertUnwindSafe(|| start(ctx))) {
        Ok(future) => drive(spec.grace, spec.ready_within, &inner, future).await,
        Err(payload) => Exit::Panicked(payload_text(&*payload)),
    };
    inner.token.cancel();
    inner.stop_scope().await;
    exit
}

async fn drive(
    grace: Duration,
    ready_within: Option<Duration>,
    ctx: &Arc<CtxInner>,
    future: BoxFuture<Result<(), BoxError>>,
) -> Exit {
    let mut future = AssertUnwindSafe(future).catch_unwind();
    tokio::select! {
        biased;
        () = ctx.told_to_stop() => {
            ctx.token.cancel();
            // Its tasks are told together with it: it may be waiting for them.
            let (last, ()) = join(timeout(grace, &mut future), ctx.stop_scope()).await;
            match last {
                Ok(Err(payload)) => Exit::Panicked(payload_text(&*payload)),
                Ok(Ok(_)) => Exit::Stopped,
                Err(_) => Exit::Aborted,
            }
        }
        outcome = &mut future => exit_of(outcome),
        () = ctx.broken.cancelled() => Exit::ScopeFailed(ctx.failure_text()),
        () = not_ready(ready_within, ctx) => Exit::NotReady,
    }
}

fn exit_of(outcome: std::thread::Result<Result<(), BoxError>>) -> Exit {
    match outcome {
        Ok(Ok(())) => Exit::Finished,
        Ok(Err(error)) => Exit::Failed(chain_text(&*error)),
        Err(payload) => Exit::Panicked(payload_text(&*payload)),
    }
}

/// Resolves when the bound has passed without a report of readiness.
async fn not_ready(bound: Option<Duration>, ctx: &CtxInner) {
    if let Some(bound) = bound {
        sleep(bound).await;
        if !ctx.is_ready() {
            return;
        }
    }
    std::future::pending().await
}
