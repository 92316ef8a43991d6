//! What happened, in order, with virtual time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

/// A shared list of happenings.
#[derive(Clone)]
pub(crate) struct Journal {
    start: Instant,
    lines: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), lines: Arc::default() }
    }

    pub(crate) fn note(&self, what: impl Into<String>) {
        self.lines.lock().unwrap().push((self.start.elapsed(), what.into()));
    }

    /// What happened, without times.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().iter().map(|(_, line)| line.clone()).collect()
    }

    /// When each happened, in milliseconds.
    pub(crate) fn millis(&self) -> Vec<u128> {
        self.lines.lock().unwrap().iter().map(|(at, _)| at.as_millis()).collect()
    }

    /// Notes `what` when the returned value is dropped.
    pub(crate) fn on_drop(&self, what: impl Into<String>) -> OnDrop {
        OnDrop { journal: self.clone(), what: what.into() }
    }
}

pub(crate) struct OnDrop {
    journal: Journal,
    what: String,
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.journal.note(std::mem::take(&mut self.what));
    }
}
