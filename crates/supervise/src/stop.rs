//! What a stop found.

use std::time::Duration;

/// The order in which a scope's members ended, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopReport {
    /// One entry per member, in the order they ended. Members of nested scopes come before the
    /// scope itself; names are paths below the stopped scope.
    pub ended: Vec<(String, Stopped)>,
}

/// How one member ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stopped {
    /// By itself, within its grace.
    Gracefully,
    /// Dropped when its grace had passed.
    Aborted,
    /// A thread that was still busy when its grace had passed; it is left behind, because a thread
    /// cannot be ended from outside.
    Stuck,
}

impl StopReport {
    /// Whether every member ended by itself.
    pub fn is_clean(&self) -> bool {
        self.ended.iter().all(|(_, how)| *how == Stopped::Gracefully)
    }

    /// Names of members that ended this way.
    pub fn names(&self, how: Stopped) -> Vec<&str> {
        self.ended
            .iter()
            .filter(|(_, ended)| *ended == how)
            .map(|(name, _)| name.as_str())
            .collect()
    }

    pub(crate) fn add(&mut self, name: &str, how: Stopped) {
        self.ended.push((name.to_owned(), how));
    }

    /// Takes over what ended below `name`.
    pub(crate) fn add_nested(&mut self, name: &str, nested: &StopReport) {
        self.ended
            .extend(nested.ended.iter().map(|(below, how)| (format!("{name}/{below}"), *how)));
    }
}

/// How long a task or a thread has to end after it was told, unless it says otherwise.
pub(crate) const DEFAULT_GRACE: Duration = Duration::from_secs(5);
