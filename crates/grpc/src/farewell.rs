//! The last word about a worker, as it travels.

use snakehouse_pool::{Death, Farewell, KillReason};

use crate::proto::Ended;
use crate::proto::ended::Cause;

/// Longest reason that is passed on.
const LONGEST: usize = 1000;

pub(crate) fn to_wire(farewell: &Farewell) -> Ended {
    let cause = match &farewell.death {
        Death::Exited { code } => Cause::Exited(*code),
        Death::Signalled { signal } => Cause::Signalled(*signal),
        Death::Killed(KillReason::Refused(why)) => Cause::NotStarted(why.clone()),
        other => Cause::Other(other.code().to_owned()),
    };
    Ended { cause: Some(cause), started: farewell.started }
}

pub(crate) fn from_wire(ended: Ended) -> Farewell {
    let death = match ended.cause {
        Some(Cause::Exited(code)) => Death::Exited { code },
        Some(Cause::Signalled(signal)) => Death::Signalled { signal },
        Some(Cause::NotStarted(why)) => {
            let why = why.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
            Death::Killed(KillReason::Refused(why))
        }
        Some(Cause::Other(name)) => match name.as_str() {
            "memory_limit" => Death::MemoryLimit,
            "out_of_memory" => Death::OutOfMemory,
            "cpu_limit" => Death::CpuLimit,
            "device_fault" => Death::DeviceFault,
            "reaper_died" => Death::ReaperDied,
            "broke_protocol" => {
                Death::Killed(KillReason::Garbage("its host could not read it".to_owned()))
            }
            _ => Death::Unknown,
        },
        None => Death::Unknown,
    };
    Farewell { death, started: ended.started }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_both_hosts_know_arrives() {
        for death in [
            Death::Exited { code: 3 },
            Death::Signalled { signal: 11 },
            Death::MemoryLimit,
            Death::OutOfMemory,
            Death::CpuLimit,
            Death::DeviceFault,
            Death::ReaperDied,
            Death::Unknown,
            Death::Killed(KillReason::Refused("no module named this".to_owned())),
        ] {
            let farewell = Farewell { death, started: Some(7) };
            assert_eq!(from_wire(to_wire(&farewell)), farewell);
        }
        let broke = Death::Killed(KillReason::Garbage("a frame".to_owned()));
        let told = from_wire(to_wire(&Farewell { death: broke, started: None }));
        assert_eq!((told.death.code(), told.started), ("broke_protocol", None));
        let long = Death::Killed(KillReason::Refused("a\n".repeat(LONGEST) + "b"));
        let told = from_wire(to_wire(&Farewell { death: long, started: None }));
        assert_eq!(told.death, Death::Killed(KillReason::Refused("a".repeat(LONGEST))));
        let later = Ended { cause: Some(Cause::Other("of a later version".into())), started: None };
        assert_eq!(from_wire(later).death, Death::Unknown);
    }
}
