//! The tree as data.

use serde::{Deserialize, Serialize};

/// One node of the tree at one moment, with all below it in start order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Place in the start order of its scope; never used twice within one scope.
    pub id: u64,
    /// The name its starter gave; not necessarily unique.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// What it is doing.
    pub state: NodeState,
    /// Restarts so far (children only).
    pub restarts: u64,
    /// Why its last incarnation ended (children), or what its last task to panic said (scopes).
    pub last_exit: Option<String>,
    /// What it owns, in start order.
    pub children: Vec<Node>,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NodeKind {
    /// A branch that owns others.
    Scope,
    /// A supervised child.
    Child,
    /// Children restarted by one strategy.
    Group,
    /// A one-shot task.
    Task,
    /// Threads for blocking work.
    Lane,
    /// One permanent thread.
    Thread,
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NodeState {
    /// A child that has not reported readiness yet.
    Starting,
    /// Running; for a child also: it has reported readiness.
    Running,
    /// A child that waits for its next incarnation.
    BackingOff,
    /// Told to stop, not gone yet.
    Stopping,
    /// Gone.
    Stopped,
    /// Gave up: restarted too often.
    Failed,
}

impl Node {
    /// The first node of this name, in depth-first order, this one included.
    pub fn find(&self, name: &str) -> Option<&Node> {
        if self.name == name {
            return Some(self);
        }
        self.children.iter().find_map(|child| child.find(name))
    }

    /// How many nodes there are, this one included.
    pub fn count(&self) -> usize {
        1 + self.children.iter().map(Node::count).sum::<usize>()
    }
}
