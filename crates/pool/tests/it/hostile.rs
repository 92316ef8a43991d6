//! Workers that keep no rule: it costs the worker, never the host and never a bystander.

use std::path::Path;

use snakehouse_base::{Coded, Kind};
use snakehouse_pool::{Args, CallError, Death, KillReason, WorkerSpec};
use tempfile::TempDir;

use crate::support::{Rig, call, python, run, wait_until, workers};

/// A worker whose module is this text.
fn worker(text: &str) -> (TempDir, WorkerSpec) {
    let directory = tempfile::tempdir().unwrap();
    let module = directory.path().join("module.py");
    std::fs::write(&module, text).unwrap();
    (directory, spec_of(&module))
}

fn spec_of(module: &Path) -> WorkerSpec {
    WorkerSpec::python("hostile", python()).module(module.to_str().unwrap())
}

const DIES_BEFORE_EVERY_CALL: &str = "
import os
import snakehouse._writer
from snakehouse import tool

@tool
def echo(value):
    return value

snakehouse._writer.Writer.make_ready = lambda *_: os._exit(9)
";

#[test]
fn a_call_that_ends_every_worker_is_given_up() {
    run(async {
        let rig = Rig::new().await;
        let (_directory, spec) = worker(DIES_BEFORE_EVERY_CALL);
        let pool = rig.pool_of(spec, workers(1)).await;
        let error = call(&pool, "echo", Args::none().arg(1)).await.unwrap_err();
        match &error {
            CallError::WorkerDied { started: false, cause: Death::Exited { code: 9 }, .. } => {}
            other => panic!("{other:?}"),
        }
        assert!(error.to_string().contains("before it could start"), "{error}");
        assert_eq!(pool.waiting(), 0);
        rig.end().await;
    });
}

const WRITES_TO_THE_SOCKET: &str = "
import os
import struct
from snakehouse import tool

def write(data):
    for name in os.listdir('/proc/self/fd'):
        try:
            if os.readlink(f'/proc/self/fd/{name}').startswith('socket:'):
                os.write(int(name), data)
        except (FileNotFoundError, BlockingIOError):
            # The socket for descriptors is full: nobody reads it unasked.
            pass

@tool
def pings():
    while True:
        write(struct.pack('<IBIQ', 8, 8, 0, 1) * 1000)

@tool
def pieces():
    write(struct.pack('<IBI', 0, 3, 1000))
    while True:
        pass
";

/// Neither questions that nobody waits for the answer of, nor bodies of calls that do not exist,
/// are kept.
#[test]
fn what_a_worker_makes_the_host_keep_is_bounded() {
    run(async {
        let rig = Rig::new().await;
        let (_directory, spec) = worker(WRITES_TO_THE_SOCKET);
        let pool = rig.pool_of(spec, workers(1)).await;
        for (tool, expected) in [("pings", "pings"), ("pieces", "not open")] {
            match call(&pool, tool, Args::none()).await.unwrap_err() {
                CallError::WorkerDied {
                    cause: Death::Killed(KillReason::Garbage(why)), ..
                } => {
                    assert!(why.contains(expected), "{why}");
                }
                other => panic!("{tool}: {other:?}"),
            }
        }
        rig.end().await;
    });
}

/// Whoever waits while no worker lives is told why none does.
#[test]
fn a_deadline_without_a_worker_names_the_death() {
    run(async {
        let rig = Rig::new().await;
        let (directory, spec) = worker(
            "import os\nfrom snakehouse import tool\n@tool\ndef leave():\n    os._exit(3)\n",
        );
        let pool = rig.pool_of(spec, workers(1)).await;
        std::fs::write(directory.path().join("module.py"), "import no_such_thing\n").unwrap();
        call(&pool, "leave", Args::none()).await.unwrap_err();
        wait_until(&pool, |pool| pool.workers()[0].restarts >= 2).await;
        let briefly = snakehouse_pool::CallOptions::within(std::time::Duration::from_millis(100));
        let error = pool.call("leave", Args::none(), briefly).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Deadline, "no_worker"));
        assert!(error.to_string().contains("no_such_thing"), "{error}");
        let error = pool.session(briefly.deadline).await.unwrap_err();
        assert_eq!(error.code(), "no_worker");
        rig.end().await;
    });
}
