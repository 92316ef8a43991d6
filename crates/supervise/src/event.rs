//! What happens in a tree, as it happens.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::exit::Exit;

/// How many events a slow receiver may be behind before it loses the oldest, counted.
const BEHIND: usize = 256;

/// One happening in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Path of the scope it happened in.
    pub scope: Arc<str>,
    /// The child, task or thread it concerns; empty for the scope itself.
    pub member: String,
    /// What happened.
    pub what: Happening,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happening {
    /// An incarnation of a child began; how many came before it.
    Started(u64),
    /// An incarnation reported readiness.
    Ready,
    /// An incarnation ended.
    Ended(Exit),
    /// The next incarnation begins after this pause.
    Restarting(Duration),
    /// A task or a thread panicked with this payload.
    Panicked(String),
    /// The scope gave up.
    ScopeFailed,
    /// The scope is stopping.
    ScopeStopping,
    /// The scope has stopped.
    ScopeStopped,
}

/// A tree's events on their way to whoever listens.
#[derive(Clone, Debug)]
pub(crate) struct Events(broadcast::Sender<Event>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }

    /// Costs nothing while nobody listens.
    pub(crate) fn tell(&self, scope: &str, member: &str, what: impl FnOnce() -> Happening) {
        if self.0.receiver_count() > 0 {
            let event = Event { scope: scope.into(), member: member.to_owned(), what: what() };
            // The last receiver may have left since; nobody misses the event then.
            let _unheard = self.0.send(event);
        }
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}
