//! A test instrument: dies at a chosen moment.

use std::fmt;
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
#[derive(Clone)]
pub enum Victim {
    /// The process that runs the core, by SIGKILL.
    Service,
    /// The engine.
    Engine,
    /// The core, in a simulation: the function takes whatever survives a crash out of the world,
    /// and the core never gets further than this point.
    Simulated(Arc<dyn Fn() + Send + Sync>),
}

impl fmt::Debug for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Victim::Service => "Service",
            Victim::Engine => "Engine",
            Victim::Simulated(_) => "Simulated",
        })
    }
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
        (visits == self.nth).then(|| self.victim.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nth_visit_of_its_own_point_counts() {
        let fault = Fault::new(FaultPoint::MidCall, 2, Victim::Engine);
        assert!(fault.visit(FaultPoint::MidSave).is_none());
        assert!(fault.visit(FaultPoint::MidCall).is_none());
        assert!(matches!(fault.clone().visit(FaultPoint::MidCall), Some(Victim::Engine)));
        assert!(fault.visit(FaultPoint::MidCall).is_none());
    }

    #[test]
    fn names_are_read_back() {
        for point in FaultPoint::ALL {
            assert_eq!(FaultPoint::parse(point.as_str()), Some(point));
        }
    }
}
