//! Calls that belong together: what one leaves in its worker is there for the next.
//!
//! A [`Session`] is a handle. What the pool knows of a session is in its dispatcher: to which life of
//! which worker it is bound, and until when it lives. A session with a name is there for whoever
//! names it, until it is closed, expires, or is lost with its worker; one without a name ends with its
//! handle. Tested in `dispatcher/session_rules.rs` and its model without workers, and with real ones in
//! `tests/it/sessions.rs` and `tests/it/named_sessions.rs`.

mod options;
mod space;
mod tag;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use snakehouse_base::Deadline;
use snakehouse_guard::by;
use snakehouse_wire::Value;
use tokio::time::Instant;

use crate::attempts::call_bytes;
use crate::call::{Args, CallError, CallOptions};
use crate::dispatcher::SeenSession;
use crate::pool::{Pool, Shared, call_value};
use crate::worker::WorkerRef;

pub(crate) use self::options::check_name;
pub use self::options::{Affinity, SessionEnd, SessionInfo, SessionLimits, SessionOptions};
pub use self::space::SessionSpace;
pub(crate) use self::tag::{Space, Tag};

/// A session: calls that go to one incarnation of one worker, or (with [`Affinity::Hint`]) to the
/// same one if they can.
///
/// State that the session's calls leave in the worker is there for its next call, or the session is
/// lost: it never moves to another incarnation by itself. Other calls and sessions may use the same
/// worker in between. A lost session stays lost, for every call and every handle, until somebody
/// says [`recreate`](Self::recreate).
///
/// Dropping a handle ends a session without a name, and nothing else.
///
/// ```no_run
/// # use snakehouse_pool::{Args, CallError, CallOptions, Pool, SessionOptions};
/// # async fn example(pool: &Pool) -> Result<(), CallError> {
/// let mut session = pool.named_session("user-42", SessionOptions::default())?;
/// let call = || Args::none().arg("hello");
/// let answer = match session.call("chat", call(), CallOptions::default()).await {
///     Err(CallError::SessionLost { .. }) => {
///         session = session.recreate()?;
///         session.call("chat", call(), CallOptions::default()).await?
///     }
///     other => other?,
/// };
/// # let _ = answer;
/// # Ok(())
/// # }
/// ```
pub struct Session {
    shared: Arc<Shared>,
    tag: Arc<Tag>,
    /// What ends it with its last handle, if it has no name.
    keep: Option<Arc<Keep>>,
}

/// Ends a session when it is dropped.
struct Keep {
    shared: Arc<Shared>,
    tag: Arc<Tag>,
}

impl Drop for Keep {
    fn drop(&mut self) {
        close(&self.shared, &self.tag);
    }
}

fn close(shared: &Shared, tag: &Tag) {
    let now = Instant::now();
    shared.change(|pool, after| pool.close_session(tag, now, after));
}

impl Pool {
    /// Opens a session without a name on the serving worker that has the fewest. Waits until one
    /// serves. It lives as long as its handle. Cancel safe.
    ///
    /// # Errors
    /// [`CallError::Deadline`], [`CallError::NoWorker`], [`CallError::Stopped`] or
    /// [`CallError::SessionQuota`].
    pub async fn session(&self, deadline: Deadline) -> Result<Session, CallError> {
        let shared = self.shared();
        let mut news = shared.news.subscribe();
        let failed_before = shared.lock().failed_starts();
        loop {
            news.borrow_and_update();
            let now = Instant::now();
            let opened = shared.change(|pool, after| pool.open_session(now, after))?;
            if let Some(tag) = opened {
                return Ok(Session::new(shared, tag));
            }
            if shared.lock().failed_starts() > failed_before {
                return Err(shared.not_given_out());
            }
            let stopped = self.scope().cancelled();
            let waited = by(deadline, async {
                tokio::select! {
                    changed = news.changed() => changed.map_err(|_gone| CallError::Stopped),
                    () = stopped.cancelled() => Err(CallError::Stopped),
                }
            });
            waited.await.unwrap_or_else(|| Err(shared.not_given_out()))?;
        }
    }

    /// The session of this name, made if there is none. Does not wait: it gets its worker with its
    /// first call, in the same step in which that call gets it, so that calls made at the same time
    /// find one worker.
    ///
    /// Looking a session up is a use of it. One that is lost is found lost.
    ///
    /// # Errors
    /// [`CallError::BadSessionName`]: a name has 1 to 256 bytes, no control characters, and does not
    /// begin with `#`. [`CallError::SessionConflict`] if there is one with other options,
    /// [`CallError::SessionQuota`] if there are as many as may be, [`CallError::Stopped`].
    pub fn named_session(&self, name: &str, options: SessionOptions) -> Result<Session, CallError> {
        find(self.shared(), Space::HOST, name, options)
    }

    /// Every session, in no particular order. Takes time with their number, but holds up no call for it:
    /// what begins or ends meanwhile may be there or not.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let now = Instant::now();
        let (mut infos, mut from) = (Vec::new(), Some(0));
        while let Some(slot) = from {
            let seen;
            (seen, from) = self.shared().lock().look_at_sessions(slot, now);
            infos.extend(seen.into_iter().map(SeenSession::info));
        }
        infos
    }

    /// Closes the session of this name, as [`Session::close`] does; whether there was one.
    pub fn close_session(&self, name: &str) -> bool {
        let now = Instant::now();
        self.shared().change(|pool, after| pool.close_named((Space::HOST, name), now, after))
    }
}

fn find(
    shared: &Arc<Shared>,
    space: Space,
    name: &str,
    options: SessionOptions,
) -> Result<Session, CallError> {
    check_name(name)?;
    let now = Instant::now();
    let tag = shared.change(|pool, after| pool.find_session((space, name), options, now, after))?;
    Ok(Session::new(shared, tag))
}

impl Session {
    fn new(shared: &Arc<Shared>, tag: Arc<Tag>) -> Self {
        let keep = || Arc::new(Keep { shared: shared.clone(), tag: tag.clone() });
        Self { shared: shared.clone(), keep: tag.name.is_none().then(keep), tag }
    }

    /// Calls a Python tool. Dropping the future cancels the call.
    ///
    /// # Errors
    /// As [`Pool::call`](crate::Pool::call), and [`CallError::SessionLost`],
    /// [`CallError::SessionEnded`] and [`CallError::WorkerBusy`].
    pub async fn call(
        &self,
        tool: &str,
        args: Args,
        options: CallOptions,
    ) -> Result<Value, CallError> {
        call_value(&self.shared, Some(&self.tag), tool, args, options).await
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
        call_bytes(&self.shared, Some(&self.tag), tool, body, options).await
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn tag(&self) -> &Arc<Tag> {
        &self.tag
    }

    /// Its number, which no other session of the pool ever has.
    pub fn id(&self) -> u64 {
        self.tag.id
    }

    /// Its name, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.tag.name.as_deref()
    }

    /// The incarnation that it is bound to, or was when it was lost; with [`Affinity::Hint`] the one
    /// that it prefers. `None` before a named session's first call was given out, and after its end.
    pub fn worker(&self) -> Option<WorkerRef> {
        match self.tag.end() {
            Some(SessionEnd::Lost { worker, .. }) => Some(*worker),
            _ => self.shared.lock().worker_of(&self.tag),
        }
    }

    /// Waits until it takes no more calls; says why. Cancel safe.
    pub async fn ended(&self) -> SessionEnd {
        self.tag.ended().await
    }

    /// Whether it is lost with its worker.
    pub fn is_lost(&self) -> bool {
        matches!(self.tag.end(), Some(SessionEnd::Lost { .. }))
    }

    /// A new session in place of one that is over, with the same name and options and without its
    /// state. Of several callers who do so, the first makes it and the others find it; so does whoever
    /// calls it for a session that is not over. One without a name then ends with the last of its handles.
    ///
    /// # Errors
    /// [`CallError::SessionQuota`] or [`CallError::Stopped`].
    pub fn recreate(&self) -> Result<Self, CallError> {
        let now = Instant::now();
        let tag = self.shared.change(|pool, after| pool.recreate_session(&self.tag, now, after))?;
        if Arc::ptr_eq(&tag, &self.tag) {
            return Ok(Self { shared: self.shared.clone(), tag, keep: self.keep.clone() });
        }
        Ok(Self::new(&self.shared, tag))
    }

    /// Ends it. Calls that were accepted go on, new ones are refused, its name is free; when the last
    /// call is over, the worker is told and drops its state.
    pub fn close(&self) {
        close(&self.shared, &self.tag);
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = self.tag.label();
        f.debug_struct("Session").field("session", &label).field("end", &self.tag.end()).finish()
    }
}
