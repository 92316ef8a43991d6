//! What host and reaper say to each other: JSON objects, one to a packet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::variables::Variables;

/// Most bytes of a message, both ways.
pub(super) const MAX_MESSAGE: usize = 128 * 1024;

/// The version that this host speaks.
pub(super) const VERSION: u32 = 2;

/// What the host asks.
#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Request<'a> {
    /// A worker. Its descriptors travel beside this: control, page, lifeline, stdout, stderr; more
    /// get the numbers from 5 on.
    Spawn {
        id: u64,
        argv: &'a [String],
        env: &'a Variables,
        cwd: Option<&'a str>,
        /// Soft and hard limits, by the kernel's names without `RLIMIT_`.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        limits: &'a BTreeMap<&'static str, [u64; 2]>,
        /// Files that the worker writes `0` to before it runs: the doors of its control groups.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        groups: &'a [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        zygote: Option<&'a Zygote>,
    },
    /// Nobody waits for a worker any more: what holds it up is ended.
    GiveUp { id: u64 },
}

/// Which process can fork a worker, so that its program need not be executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Zygote {
    /// Its command, without the names of what it imports.
    pub(crate) argv: Vec<String>,
    /// What it imports.
    pub(crate) preload: Vec<String>,
    /// The worker's arguments.
    pub(crate) args: Vec<String>,
}

/// What the reaper reports.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// It serves.
    Ready { version: u32, pid: u32 },
    /// It cannot work here, and is about to exit.
    Failed { code: String, message: String },
    /// A request for a worker has arrived.
    Taken { id: u64 },
    /// A worker runs; its pidfd travels beside this. Who forked it, or why no zygote did although
    /// one was asked for.
    Spawned { id: u64, pid: u32, start: u64, zygote: Option<u32>, why: Option<String> },
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
    /// A zygote has imported its list and can fork.
    Zygote { pid: u32, preload: Vec<String> },
    /// A zygote ended and is reaped.
    ZygoteExited { pid: u32, code: Option<i32>, signal: Option<i32> },
    /// No zygote can fork such workers; their program is executed.
    Unfit { preload: Vec<String>, why: String },
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
        let env = [("A".to_owned(), "b".to_owned())].into_iter().collect();
        let (argv, doors) = (["/x".to_owned()], ["/g/cgroup.procs".to_owned()]);
        let spawn = |limits: &BTreeMap<&'static str, [u64; 2]>, groups: &[String], zygote| {
            let request =
                Request::Spawn { id: 1, argv: &argv, env: &env, cwd: None, limits, groups, zygote };
            serde_json::to_string(&request).unwrap()
        };
        assert_eq!(
            spawn(&BTreeMap::new(), &[], None),
            r#"{"op":"spawn","id":1,"argv":["/x"],"env":{"A":"b"},"cwd":null}"#
        );
        let limited = spawn(&[("CPU", [1, 2])].into(), &doors, None);
        assert!(
            limited.ends_with(r#""limits":{"CPU":[1,2]},"groups":["/g/cgroup.procs"]}"#),
            "{limited}"
        );
        let [argv, preload, args] = ["/z", "numpy", "a.py"].map(|name| vec![name.to_owned()]);
        let forked = spawn(&BTreeMap::new(), &[], Some(&Zygote { argv, preload, args }));
        assert!(
            forked.ends_with(r#""zygote":{"argv":["/z"],"preload":["numpy"],"args":["a.py"]}}"#),
            "{forked}"
        );
        assert_eq!(
            serde_json::to_string(&Request::GiveUp { id: 1 }).unwrap(),
            r#"{"op":"give_up","id":1}"#
        );
    }
}
