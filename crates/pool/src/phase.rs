//! What a worker's place is in: the one state machine of a worker's life, without I/O.
//!
//! ```text
//!            Open         Begin           Hello          Promote          Drain
//!   Vacant ────────> Dead ──────> Starting ─────> Standby ───────> Serving ─────> Draining
//!      ^              │ ^             │              │                │              │
//!      └──── Close ───┘ │             └──────────────┴─── Stop ───────┴──────────────┤
//!                       │                                                            v
//!                       └──── Die, from every state that has a process ────────── Stopping
//! ```
//!
//! A step that is not in the picture is refused; the dispatcher reports it and leaves the place as it
//! was. Tested step by step below, and by the model test of the dispatcher.

/// Where a place is in the life of its worker. Busy or idle is not a state of its own: it is whether
/// the place has calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// No worker is wanted here.
    Vacant,
    /// A worker is wanted, and has no process: it waits for its turn to start.
    Dead,
    /// It is being started, or has not said hello.
    Starting,
    /// It said hello and has no calls: a spare one.
    Standby,
    /// It gets calls.
    Serving,
    /// It finishes what it has and gets nothing new, except for the sessions that are bound to it.
    Draining,
    /// It was told to end.
    Stopping,
}

/// What happens to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// A worker is wanted.
    Open,
    /// An incarnation begins.
    Begin,
    /// It said hello.
    Hello,
    /// It is to have calls.
    Promote,
    /// It is to finish.
    Drain,
    /// It is told to end. May be said twice.
    Stop,
    /// Its process is gone, or could not be started.
    Die,
    /// No worker is wanted any more.
    Close,
}

impl Phase {
    /// The state after a step; `None` if the step is not allowed here.
    pub(crate) const fn after(self, step: Step) -> Option<Self> {
        Some(match (self, step) {
            (Self::Vacant, Step::Open) => Self::Dead,
            (Self::Dead, Step::Begin) => Self::Starting,
            (Self::Dead, Step::Close) => Self::Vacant,
            (Self::Starting, Step::Hello) => Self::Standby,
            (Self::Standby, Step::Promote) => Self::Serving,
            (Self::Serving, Step::Drain) => Self::Draining,
            (state, Step::Stop) if state.has_process() => Self::Stopping,
            (state, Step::Die) if state.has_process() => Self::Dead,
            _ => return None,
        })
    }

    /// Whether an incarnation has begun and is not over.
    pub(crate) const fn has_process(self) -> bool {
        !matches!(self, Self::Vacant | Self::Dead)
    }

    /// Whether an incarnation lives that said hello.
    pub(crate) const fn is_up(self) -> bool {
        self.has_process() && !matches!(self, Self::Starting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 7] = [
        Phase::Vacant,
        Phase::Dead,
        Phase::Starting,
        Phase::Standby,
        Phase::Serving,
        Phase::Draining,
        Phase::Stopping,
    ];
    const STEPS: [Step; 8] = [
        Step::Open,
        Step::Begin,
        Step::Hello,
        Step::Promote,
        Step::Drain,
        Step::Stop,
        Step::Die,
        Step::Close,
    ];

    fn through(steps: &[Step]) -> Option<Phase> {
        steps.iter().try_fold(Phase::Vacant, |phase, step| phase.after(*step))
    }

    #[test]
    fn a_whole_life_leads_back_to_a_vacant_place() {
        use Step::{Begin, Close, Die, Drain, Hello, Open, Promote, Stop};
        let life = [Open, Begin, Hello, Promote, Drain, Stop, Die, Close];
        assert_eq!(through(&life), Some(Phase::Vacant));
        assert_eq!(through(&[Open, Begin, Die, Begin, Hello]), Some(Phase::Standby));
    }

    #[test]
    fn only_what_has_a_process_can_stop_or_die() {
        for phase in PHASES {
            assert_eq!(phase.after(Step::Stop).is_some(), phase.has_process(), "{phase:?}");
            assert_eq!(phase.after(Step::Die).is_some(), phase.has_process(), "{phase:?}");
        }
    }

    /// Each step but these two has one state that it starts from.
    #[test]
    fn every_other_step_is_refused() {
        for step in STEPS.into_iter().filter(|step| !matches!(step, Step::Stop | Step::Die)) {
            let from: Vec<_> = PHASES.iter().filter(|phase| phase.after(step).is_some()).collect();
            assert_eq!(from.len(), 1, "{step:?} from {from:?}");
        }
    }

    #[test]
    fn a_dead_worker_never_serves_without_a_hello() {
        assert_eq!(Phase::Dead.after(Step::Hello), None);
        assert_eq!(Phase::Dead.after(Step::Promote), None);
        assert_eq!(Phase::Starting.after(Step::Promote), None);
        assert_eq!(Phase::Draining.after(Step::Promote), None);
    }
}
