//! A test instrument: dies at a chosen moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Kills a process with SIGKILL the `nth` time a point is reached.
///
/// A crash test needs deaths at exact moments of the protocol between memory, disk and engine;
/// this is the only way to have them. It is off unless a test sets
/// [`CoreConfig::fault`](super::CoreConfig).
#[derive(Clone, Debug)]
pub struct Fault {
    point: FaultPoint,
    nth: u64,
    victim: Victim,
    seen: Arc<AtomicU64>,
}

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The process that runs the core.
    Service,
    /// The engine process.
    Engine,
}

/// A moment between two steps whose order matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultPoint {
    /// An operation has arrived, nothing of it is on disk.
    BeforeAccept,
    /// An operation is durable, its promise is not given.
    AfterAccept,
    /// The engine is computing an operation.
    MidCall,
    /// The engine has answered, nothing of it is on disk.
    BeforeResult,
    /// A result is durable, nobody has heard of it.
    AfterResult,
    /// The engine is writing a snapshot.
    MidSnapshot,
    /// A snapshot is complete and recorded, older ones are still there.
    BetweenSnapshotAndPrune,
    /// The engine is writing a checkpoint.
    MidSave,
}

impl FaultPoint {
    /// Every point, for tests that visit all.
    pub const ALL: [FaultPoint; 8] = [
        FaultPoint::BeforeAccept,
        FaultPoint::AfterAccept,
        FaultPoint::MidCall,
        FaultPoint::BeforeResult,
        FaultPoint::AfterResult,
        FaultPoint::MidSnapshot,
        FaultPoint::BetweenSnapshotAndPrune,
        FaultPoint::MidSave,
    ];

    /// The name in test output and arguments.
    pub const fn as_str(self) -> &'static str {
        match self {
            FaultPoint::BeforeAccept => "before_accept",
            FaultPoint::AfterAccept => "after_accept",
            FaultPoint::MidCall => "mid_call",
            FaultPoint::BeforeResult => "before_result",
            FaultPoint::AfterResult => "after_result",
            FaultPoint::MidSnapshot => "mid_snapshot",
            FaultPoint::BetweenSnapshotAndPrune => "between_snapshot_and_prune",
            FaultPoint::MidSave => "mid_save",
        }
    }

    /// The point of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == name)
    }
}

impl Fault {
    /// A death of `victim` the `nth` time (from 1) that `point` is reached.
    pub fn new(point: FaultPoint, nth: u64, victim: Victim) -> Self {
        Self { point, nth, victim, seen: Arc::new(AtomicU64::new(0)) }
    }

    /// Counts a visit of `point`; who must die now, if anybody.
    pub(super) fn visit(&self, point: FaultPoint) -> Option<Victim> {
        if point != self.point {
            return None;
        }
        let visits = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        (visits == self.nth).then_some(self.victim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nth_visit_of_its_own_point_counts() {
        let fault = Fault::new(FaultPoint::MidCall, 2, Victim::Engine);
        assert_eq!(fault.visit(FaultPoint::MidSave), None);
        assert_eq!(fault.visit(FaultPoint::MidCall), None);
        assert_eq!(fault.clone().visit(FaultPoint::MidCall), Some(Victim::Engine));
        assert_eq!(fault.visit(FaultPoint::MidCall), None);
    }

    #[test]
    fn names_are_read_back() {
        for point in FaultPoint::ALL {
            assert_eq!(FaultPoint::parse(point.as_str()), Some(point));
        }
    }
}
