//! Permanent threads: for loops that must stay on one OS thread, such as the one that forks.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, payload_text};
use crate::member::{BoxFuture, Member};
use crate::scope::Scope;
use crate::spawn;
use crate::stop::{DEFAULT_GRACE, StopReport, Stopped};
use crate::tree::{Node, NodeKind, NodeState};

/// A handle of a permanent thread. Dropping it stops nothing.
#[derive(Clone)]
pub struct OsThread {
    member: Arc<ThreadMember>,
}

/// Starts a permanent thread that the scope owns.
///
/// `body` runs once and must return when it is told through its own channel, descriptor or a clone
/// of [`Scope::cancelled`]; the scope's stop waits for it (5 s after telling, then it is reported
/// as [`Stopped::Stuck`] and left behind). A panic is logged and stands in the tree. If the scope is
/// stopping, or the operating system refuses a thread, `body` never runs and
/// [`OsThread::gone`] says so.
pub fn thread(scope: &Scope, name: &str, body: impl FnOnce() + Send + 'static) -> OsThread {
    let member = Arc::new(ThreadMember {
        name: name.to_owned(),
        gone: CancellationToken::new(),
        exit: OnceLock::new(),
        handle: Mutex::new(None),
    });
    let Some(leave) = scope.inner().add(member.clone()) else {
        member.end(Exit::Stopped);
        return OsThread { member };
    };
    let inside = member.clone();
    let started = spawn::thread(name, move || {
        let exit = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(()) => Exit::Finished,
            Err(payload) => {
                let what = payload_text(&*payload);
                leave.note_panic(&what);
                Exit::Panicked(what)
            }
        };
        drop(leave);
        inside.end(exit);
    });
    match started {
        Ok(handle) => {
            *member.handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
        }
        // The closure, and with it its place in the scope, is dropped already.
        Err(error) => {
            tracing::error!(thread = name, %error, "thread not started");
            member.end(Exit::Failed(error.to_string()));
        }
    }
    OsThread { member }
}

impl OsThread {
    /// The name it was started with.
    pub fn name(&self) -> &str {
        &self.member.name
    }

    /// Whether it has ended.
    pub fn is_gone(&self) -> bool {
        self.member.gone.is_cancelled()
    }

    /// Waits until it has ended; says how. Cancel safe.
    pub async fn gone(&self) -> Exit {
        self.member.gone.cancelled().await;
        self.member.exit.get().cloned().unwrap_or(Exit::Finished)
    }
}

impl fmt::Debug for OsThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OsThread")
            .field("name", &self.member.name)
            .field("exit", &self.member.exit.get())
            .finish_non_exhaustive()
    }
}

struct ThreadMember {
    name: String,
    gone: CancellationToken,
    exit: OnceLock<Exit>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl ThreadMember {
    fn end(&self, exit: Exit) {
        let _first = self.exit.set(exit);
        self.gone.cancel();
    }
}

impl Member for ThreadMember {
    fn node(&self, id: u64) -> Node {
        let gone = self.gone.is_cancelled();
        Node {
            id,
            name: self.name.clone(),
            kind: NodeKind::Thread,
            state: if gone { NodeState::Stopped } else { NodeState::Running },
            restarts: 0,
            last_exit: self.exit.get().map(ToString::to_string),
            children: Vec::new(),
        }
    }

    fn stop(self: Arc<Self>, told: Instant) -> BoxFuture<StopReport> {
        async move {
            let ended = tokio::time::timeout_at(told + DEFAULT_GRACE, self.gone.cancelled()).await;
            let how = if ended.is_ok() {
                let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
                // It has said its last word; the join takes as long as the thread's exit.
                handle.map(JoinHandle::join);
                Stopped::Gracefully
            } else {
                tracing::error!(thread = %self.name, "thread left behind after its grace");
                Stopped::Stuck
            };
            let mut report = StopReport::default();
            report.add(&self.name, how);
            report
        }
        .boxed()
    }

    fn abort(&self) {}
}
