//! What host and reaper say to each other: JSON objects, one to a packet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most bytes of a message, both ways.
pub(super) const MAX_MESSAGE: usize = 128 * 1024;

/// The version that this host speaks.
pub(super) const VERSION: u32 = 1;

/// What the host asks. The descriptors travel beside it: control, page, lifeline, stdout, stderr.
#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Request<'a> {
    Spawn {
        id: u64,
        argv: &'a [String],
        env: &'a BTreeMap<String, String>,
        cwd: Option<&'a str>,
        /// Soft and hard limits, by the kernel's names without `RLIMIT_`.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        limits: &'a BTreeMap<&'static str, [u64; 2]>,
        /// Files that the worker writes `0` to before it runs: the doors of its control groups.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        groups: &'a [String],
    },
}

/// What the reaper reports.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// It serves.
    Ready { version: u32, pid: u32 },
    /// It cannot work here, and is about to exit.
    Failed { code: String, message: String },
    /// A worker runs; its pidfd travels beside this.
    Spawned { id: u64, pid: u32, start: u64 },
    /// A worker could not be started.
    Refused { id: Option<u64>, errno: i32, message: String },
    /// A worker ended and is reaped.
    Exited {
        id: u64,
        pid: u32,
        code: Option<i32>,
        signal: Option<i32>,
        /// Time on processors, its own and its waited-for children's, in milliseconds.
        #[serde(default)]
        cpu_ms: Option<u64>,
    },
    /// Processes that a dead worker left behind were killed; the first of them.
    Ended { pids: Vec<u32> },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_program() {
        let event = r#"{"event":"exited","id":3,"pid":17,"code":null,"signal":9,"cpu_ms":20}"#;
        assert_eq!(
            serde_json::from_str::<Event>(event).unwrap(),
            Event::Exited { id: 3, pid: 17, code: None, signal: Some(9), cpu_ms: Some(20) }
        );
        let env = [("A".to_owned(), "b".to_owned())].into();
        let (argv, doors) = (["/x".to_owned()], ["/g/cgroup.procs".to_owned()]);
        let spawn = |limits: &BTreeMap<&'static str, [u64; 2]>, groups: &[String]| {
            let request =
                Request::Spawn { id: 1, argv: &argv, env: &env, cwd: None, limits, groups };
            serde_json::to_string(&request).unwrap()
        };
        assert_eq!(
            spawn(&BTreeMap::new(), &[]),
            r#"{"op":"spawn","id":1,"argv":["/x"],"env":{"A":"b"},"cwd":null}"#
        );
        let limited = spawn(&[("CPU", [1, 2])].into(), &doors);
        assert!(
            limited.ends_with(r#""limits":{"CPU":[1,2]},"groups":["/g/cgroup.procs"]}"#),
            "{limited}"
        );
    }
}
