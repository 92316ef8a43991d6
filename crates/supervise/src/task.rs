//! One-shot tasks.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use snakehouse_base::{Coded, Kind};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::member::{BoxFuture, Member};
use crate::stop::{DEFAULT_GRACE, StopReport, Stopped};
use crate::tree::{Node, NodeKind, NodeState};

/// The result of a task, awaited by whoever started it.
///
/// Dropping it loses the result; the task goes on, because its scope owns it. Cancel safe.
#[must_use = "a task's panic shows only in the log if nobody awaits it; drop it if that is meant"]
pub struct Task<T> {
    member: Arc<TaskMember>,
    result: oneshot::Receiver<Result<T, TaskError>>,
}

/// Why a task has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// It was dropped before its end, or its scope was stopping when it was to start.
    #[error("the task was cancelled")]
    Cancelled,
    /// It panicked; the text is the payload.
    #[error("the task panicked: {0}")]
    Panicked(String),
}

impl Coded for TaskError {
    fn kind(&self) -> Kind {
        match self {
            TaskError::Cancelled => Kind::Cancelled,
            TaskError::Panicked(_) => Kind::Internal,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            TaskError::Cancelled => "task_cancelled",
            TaskError::Panicked(_) => "task_panicked",
        }
    }
}

impl<T> Task<T> {
    pub(crate) fn new(
        member: Arc<TaskMember>,
        result: oneshot::Receiver<Result<T, TaskError>>,
    ) -> Self {
        Self { member, result }
    }

    /// Drops the task at its next await point. Its result is then [`TaskError::Cancelled`], unless
    /// it was faster.
    pub fn abort(&self) {
        self.member.abort();
    }

    /// The name it was started with.
    pub fn name(&self) -> &str {
        &self.member.name
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.result.poll_unpin(cx).map(|sent| sent.unwrap_or(Err(TaskError::Cancelled)))
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("name", &self.member.name).finish_non_exhaustive()
    }
}

/// A task seen from its scope.
pub(crate) struct TaskMember {
    name: String,
    gone: CancellationToken,
    pub(crate) abort: AbortSlot,
}

impl TaskMember {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), gone: CancellationToken::new(), abort: AbortSlot::default() }
    }

    /// Reports that the task is gone when dropped.
    pub(crate) fn going(&self) -> DropGuard {
        self.gone.clone().drop_guard()
    }
}

impl Member for TaskMember {
    fn node(&self, id: u64) -> Node {
        Node {
            id,
            name: self.name.clone(),
            kind: NodeKind::Task,
            state: NodeState::Running,
            restarts: 0,
            last_exit: None,
            children: Vec::new(),
        }
    }

    fn stop(self: Arc<Self>, told: Instant) -> BoxFuture<StopReport> {
        async move {
            let mut report = StopReport::default();
            let how =
                match tokio::time::timeout_at(told + DEFAULT_GRACE, self.gone.cancelled()).await {
                    Ok(()) => Stopped::Gracefully,
                    Err(_) => {
                        tracing::warn!(task = %self.name, "task aborted after its grace");
                        self.abort.abort();
                        self.gone.cancelled().await;
                        Stopped::Aborted
                    }
                };
            report.add(&self.name, how);
            report
        }
        .boxed()
    }

    fn abort(&self) {
        self.abort.abort();
    }
}

/// A place for the abort handle of a task that may be asked to abort before the handle is there.
#[derive(Default)]
pub(crate) struct AbortSlot {
    handle: OnceLock<AbortHandle>,
    wanted: AtomicBool,
}

impl AbortSlot {
    pub(crate) fn arm(&self, handle: AbortHandle) {
        let handle = self.handle.get_or_init(|| handle);
        if self.wanted.load(Ordering::SeqCst) {
            handle.abort();
        }
    }

    pub(crate) fn abort(&self) {
        self.wanted.store(true, Ordering::SeqCst);
        if let Some(handle) = self.handle.get() {
            handle.abort();
        }
    }
}
