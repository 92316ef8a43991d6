//! Sessions of those who call through a door of the host: names and a quota of their own.
//!
//! A program that lets others call its pool gives them a [`SessionSpace`]: their names find their
//! sessions and no others, and they cannot use up what the pool may have. It fails as
//! [`Pool::named_session`] does. Tested in `dispatcher/session_rules.rs`, and through the front door in
//! `crates/grpc`.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use crate::call::CallError;
use crate::pool::{Pool, Shared};

use super::options::SessionOptions;
use super::tag::Space;
use super::{Session, find};

/// A space for names of sessions, apart from the pool's own and from other spaces. Cheap to clone;
/// its sessions end with its last clone.
#[derive(Clone)]
pub struct SessionSpace {
    held: Arc<Held>,
}

struct Held {
    shared: Arc<Shared>,
    space: Space,
    most: usize,
}

impl Pool {
    /// Another space for names of sessions, with at most `most` sessions at once. They count for the
    /// pool's own [`SessionLimits::most`](super::SessionLimits::most) as well; `None` is half of that.
    pub fn session_space(&self, most: Option<usize>) -> SessionSpace {
        let shared = self.shared().clone();
        let most = most.unwrap_or_else(|| shared.config.sessions.most.div_ceil(2));
        let space = shared.lock().add_space(most);
        SessionSpace { held: Arc::new(Held { shared, space, most }) }
    }
}

impl SessionSpace {
    /// The session of this name in this space, as [`Pool::named_session`] finds it.
    ///
    /// # Errors
    /// As there; [`CallError::SessionQuota`] also for this space's own quota.
    pub fn named_session(&self, name: &str, options: SessionOptions) -> Result<Session, CallError> {
        find(&self.held.shared, self.held.space, name, options)
    }

    /// Closes the session of this name, as [`Session::close`] does; whether there was one.
    pub fn close_session(&self, name: &str) -> bool {
        let now = Instant::now();
        let named = (self.held.space, name);
        self.held.shared.change(|pool, after| pool.close_named(named, now, after))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let now = Instant::now();
        self.shared.change(|pool, after| pool.drop_space(self.space, now, after));
    }
}

impl fmt::Debug for SessionSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionSpace").field("most", &self.held.most).finish_non_exhaustive()
    }
}
