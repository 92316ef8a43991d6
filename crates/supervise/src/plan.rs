//! Which members of a group stop and start again when one of them fails: a pure decision.

/// How a failure of one member concerns the others of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Only the failed member is started again.
    OneForOne,
    /// All members are stopped, in reverse order, and started again.
    OneForAll,
    /// The members after the failed one are stopped, in reverse order; it and they are started
    /// again.
    RestForOne,
}

/// What a failure leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Members to stop, in this order.
    pub(crate) stop: Vec<usize>,
    /// Members to start, in this order, each when the one before is ready.
    pub(crate) start: Vec<usize>,
}

/// Plans the restart of `failed`. `done` are members that have ended for good; they stay ended.
pub(crate) fn plan(strategy: Strategy, done: &[bool], failed: usize) -> Plan {
    let first = match strategy {
        Strategy::OneForOne => return Plan { stop: Vec::new(), start: vec![failed] },
        Strategy::OneForAll => 0,
        Strategy::RestForOne => failed,
    };
    let start: Vec<usize> = (first..done.len()).filter(|n| !done[*n]).collect();
    let stop = start.iter().rev().copied().filter(|n| *n != failed).collect();
    Plan { stop, start }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::*;

    /// The rules as they read, one member at a time.
    fn reference(strategy: Strategy, done: &[bool], failed: usize) -> Plan {
        let (mut stop, mut start) = (Vec::new(), Vec::new());
        for (n, is_done) in done.iter().enumerate() {
            let concerned = match strategy {
                Strategy::OneForOne => n == failed,
                Strategy::OneForAll => true,
                Strategy::RestForOne => n >= failed,
            };
            if concerned && !is_done {
                start.push(n);
                if n != failed {
                    stop.insert(0, n);
                }
            }
        }
        Plan { stop, start }
    }

    proptest! {
        #[test]
        fn agrees_with_the_rules_as_they_read(
            mut done in prop::collection::vec(any::<bool>(), 1..10),
            failed: prop::sample::Index,
        ) {
            let failed = failed.index(done.len());
            done[failed] = false;
            for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
                prop_assert_eq!(plan(strategy, &done, failed), reference(strategy, &done, failed));
            }
        }
    }
}
