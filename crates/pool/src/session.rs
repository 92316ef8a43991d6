//! Calls that belong together: pinned to one life of one worker.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use snakehouse_wire::Value;
use tokio::time::Instant;

use crate::attempts::call_bytes;
use crate::call::{Args, CallError, CallOptions};
use crate::death::Death;
use crate::pool::{Shared, call_value};
use crate::worker::{Life, WorkerRef};

/// A session on one incarnation of one worker.
///
/// State that the session's calls leave in the worker is there for its next call, or the session is
/// lost: it never moves to another incarnation. Other calls and sessions may use the same worker in
/// between. Dropping it ends it.
pub struct Session {
    shared: Arc<Shared>,
    life: Arc<Life>,
    id: u64,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, life: Arc<Life>, id: u64) -> Self {
        Self { shared, life, id }
    }

    /// Calls a Python tool. Dropping the future cancels the call.
    ///
    /// # Errors
    /// As [`Pool::call`](crate::Pool::call), and [`CallError::SessionLost`] if the incarnation is
    /// dead or dies before the call has started.
    pub async fn call(
        &self,
        tool: &str,
        args: Args,
        options: CallOptions,
    ) -> Result<Value, CallError> {
        call_value(&self.shared, Some((&self.life, self.id)), tool, args, options).await
    }

    /// Calls a tool that reads its own bytes. Dropping the future cancels the call.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_bytes(
        &self,
        tool: &str,
        body: Bytes,
        options: CallOptions,
    ) -> Result<Bytes, CallError> {
        call_bytes(&self.shared, Some((&self.life, self.id)), tool, body, options).await
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn pin(&self) -> (&Life, u64) {
        (&self.life, self.id)
    }

    /// The incarnation it is pinned to.
    pub fn worker(&self) -> WorkerRef {
        self.life.worker
    }

    /// Waits until the incarnation is dead; says how it died. Cancel safe.
    pub async fn lost(&self) -> Death {
        self.life.ended().await
    }

    /// Whether the incarnation is dead.
    pub fn is_lost(&self) -> bool {
        self.life.death().is_some()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let now = Instant::now();
        self.shared.change(|pool, after| pool.close_session(&self.life, now, after));
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).field("worker", &self.worker()).finish()
    }
}
