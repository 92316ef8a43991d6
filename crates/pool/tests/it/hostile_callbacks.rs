//! Workers whose callbacks keep no rule. Each ends by name or has its frames counted and dropped, and
//! nobody beside it is disturbed.

use std::time::Duration;

use snakehouse_pool::{
    Args, CallError, Death, HostCall, HostTool, KillReason, Pool, Value, WorkerSpec,
};
use tempfile::TempDir;

use crate::support::{Rig, call, call_pid, python, run, soon, spec, wait_until, workers};

/// Tools that write to the control socket what they like.
const TOOLS: &str = "
import os
import socket
import struct

from snakehouse import host, tool
from snakehouse._context import current


def this_call():
    seat = current.get().port._seat
    try:
        return seat.adopt()
    finally:
        seat.let_go()


def control():
    for name in os.listdir('/proc/self/fd'):
        try:
            if not os.readlink(f'/proc/self/fd/{name}').startswith('socket:'):
                continue
            found = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        if found.type == socket.SOCK_STREAM:
            found.setblocking(True)
            return found
        found.close()
    raise RuntimeError('no control socket')


def frame(kind, callback, payload=b''):
    return struct.pack('<IBI', len(payload), kind, callback) + payload


def head(flags=0, call=None, number=0, depth=1):
    call = this_call() if call is None else call
    return struct.pack('<HHQQ28x', number, flags, 2**64 - 1, call)[:-3] + bytes([depth, 0, 0])


EMPTY = b'\\x92\\x90\\x80'
OPEN, DATA, LAST, CANCEL = 0x82, 0x83, 0x84, 0x86


def spin():
    while True:
        pass


def says(*frames):
    control().sendall(b''.join(frames))
    spin()


@tool
def opens_without_end():
    said, callback, begin = control(), 0, head()
    while True:
        frames = []
        for _ in range(1000):
            callback += 1
            frames.append(frame(OPEN, callback, begin + EMPTY))
        said.sendall(b''.join(frames))


@tool
def of_a_call_that_is_over():
    said, callback = control(), 0
    while True:
        frames = []
        for _ in range(1000):
            callback += 1
            frames.append(frame(OPEN, callback, head(call=77) + EMPTY))
        said.sendall(b''.join(frames))


@tool
def duplicate():
    says(*[frame(OPEN, 5, head(number=1) + EMPTY)] * 2)


@tool
def data_of_nothing():
    says(frame(DATA, 5, b'piece'))


@tool
def last_of_nothing():
    says(frame(LAST, 5, EMPTY))


@tool
def too_long_a_frame():
    says(struct.pack('<IBI', (1 << 20) + 49, OPEN, 5))


@tool
def in_no_call():
    says(frame(OPEN, 5, head(call=0) + EMPTY))


@tool
def as_a_stream():
    says(frame(OPEN, 5, head(flags=2) + EMPTY))


@tool
def pieces_of_many():
    says(*[frame(OPEN, callback, head(flags=1) + b'piece') for callback in range(1, 1026)])


@tool
def twice_in_pieces():
    says(frame(OPEN, 5, head(flags=1)), frame(OPEN, 5, head()))


@tool
def a_cancel_that_says_something():
    says(frame(CANCEL, 5, b'why'))


@tool
def an_answer():
    says(frame(0x85, 5, EMPTY))


@tool
def cancels(count):
    control().sendall(frame(CANCEL, 99) * count)
    return host.echo(count)
";

fn worker() -> (TempDir, WorkerSpec) {
    let directory = tempfile::tempdir().unwrap();
    let module = directory.path().join("module.py");
    std::fs::write(&module, TOOLS).unwrap();
    let echo = HostTool::raw("echo", |_, mut args: Args| async move {
        Ok(args.args.pop().unwrap_or(Value::None))
    });
    let hangs = HostTool::raw("hangs", |_: HostCall, _| std::future::pending());
    let spec = WorkerSpec::python("hostile", python()).module(module.to_str().unwrap());
    (directory, spec.host_tool(echo).host_tool(hangs))
}

/// Calls that go on beside whatever a hostile worker does; how many there were.
async fn beside<T>(pool: &Pool, work: impl Future<Output = T>) -> (T, u64) {
    let pid = call_pid(pool).await;
    let mut count = 0;
    let calling = async {
        loop {
            assert_eq!(call_pid(pool).await, pid, "a bystander died");
            count += 1;
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = calling => unreachable!("it goes on for ever"),
    };
    (outcome, count)
}

#[test]
fn a_worker_that_breaks_a_rule_of_callbacks_is_killed_by_name() {
    let rules = [
        ("opens_without_end", "does not read that they are refused"),
        ("of_a_call_that_is_over", "does not read that they are refused"),
        ("duplicate", "callback 5 is open already"),
        ("data_of_nothing", "CallbackData frame does not fit the state of stream 5"),
        ("last_of_nothing", "CallbackLast frame does not fit the state of stream 5"),
        ("too_long_a_frame", "is over the cap"),
        ("in_no_call", "CallbackOpen frame has a malformed payload"),
        ("as_a_stream", "CallbackOpen frame has a malformed payload"),
        ("pieces_of_many", "does not fit the state of stream 1025"),
        ("twice_in_pieces", "CallbackOpen frame does not fit the state of stream 5"),
        ("a_cancel_that_says_something", "CallbackCancel frame has a malformed payload"),
        ("an_answer", "CallbackError frame does not fit the state of stream 5"),
    ];
    run(async {
        let rig = Rig::new().await;
        let (_directory, hostile) = worker();
        // Another worker of the same pool, and another pool.
        let pool = rig.pool_of(hostile, workers(2)).await;
        let other = rig.pool_of(spec(), workers(1)).await;
        for (tool, rule) in rules {
            let (outcome, _) = beside(&other, call(&pool, tool, Args::none())).await;
            match outcome.unwrap_err() {
                CallError::WorkerDied {
                    cause: Death::Killed(KillReason::Garbage(why)), ..
                } => assert!(why.contains(rule), "{tool}: {why}"),
                other => panic!("{tool}: {other:?}"),
            }
            assert_eq!(call(&pool, "cancels", Args::none().arg(1)).await, Ok(1.into()), "{tool}");
        }
        let stats = pool.stats();
        assert_eq!(stats.counters.deaths, u64::try_from(rules.len()).unwrap());
        assert!(stats.callbacks_refused >= 2 * 32_000, "{stats:?}");
        rig.end().await;
    });
}

#[test]
fn cancels_of_nothing_are_counted_and_dropped() {
    run(async {
        let rig = Rig::new().await;
        let (_directory, hostile) = worker();
        let pool = rig.pool_of(hostile, workers(1)).await;
        let cancelling = call(&pool, "cancels", Args::none().arg(100_000));
        assert_eq!(cancelling.await, Ok(100_000.into()), "its own callback is answered");
        let stats = pool.stats();
        assert_eq!((stats.callbacks, stats.callbacks_late), (1, 100_000));
        assert_eq!(stats.counters.deaths, 0);
        rig.end().await;
    });
}

const REUSES_NUMBERS: &str = "
import struct

import snakehouse._callbacks
from snakehouse import host, tool


@tool
def again_and_again(count):
    '''Gives a callback up as soon as it is made and asks for something else under its number.'''
    from hostile_module import CANCEL, EMPTY, OPEN, control, frame, head

    said, wrong = control(), 0
    for at in range(count):
        said.sendall(
            frame(OPEN, 9, head() + b'\\x92\\x91\\x01\\x80')
            + frame(CANCEL, 9)
            + frame(OPEN, 9, head() + b'\\x92\\x91\\x02\\x80')
        )
        answers = []
        while len(answers) < 2:
            length, kind, number = struct.unpack('<IBI', read(said, 9))
            answers.append((kind, read(said, length)))
        # The first was given up or answered, the second has an answer of its own.
        wrong += answers[1] != (0x84, b'\\x02')
    return wrong


def read(said, length):
    data = b''
    while len(data) < length:
        data += said.recv(length - len(data))
    return data
";

#[test]
fn a_number_that_is_used_again_gets_no_answer_of_the_one_before() {
    run(async {
        let rig = Rig::new().await;
        let (directory, hostile) = worker();
        let module = directory.path().join("hostile_module.py");
        std::fs::write(module, TOOLS).unwrap();
        let reuses = directory.path().join("reuses.py");
        std::fs::write(&reuses, REUSES_NUMBERS).unwrap();
        let hostile = hostile.module(reuses.to_str().unwrap());
        let pool = rig.pool_of(hostile, workers(1)).await;
        let times = 2_000;
        let wrong = call(&pool, "again_and_again", Args::none().arg(times)).await;
        assert_eq!(wrong, Ok(0.into()));
        println!("{} of {times} outcomes came too late", pool.stats().callbacks_late);
        rig.end().await;
    });
}

#[test]
fn a_tool_with_an_endless_name_is_no_tool() {
    run(async {
        let rig = Rig::new().await;
        let text = "
from snakehouse import tool

def long():
    pass

long.__name__ = long.__qualname__ = 'n' * (64 << 10)
tool(long)
";
        let directory = tempfile::tempdir().unwrap();
        let module = directory.path().join("module.py");
        std::fs::write(&module, text).unwrap();
        let named = WorkerSpec::python("named", python()).module(module.to_str().unwrap());
        let started = Pool::start(rig.root.scope(), rig.reaper.clone(), named, workers(1)).await;
        let error = started.unwrap_err();
        assert!(error.to_string().contains("no valid field \"name\""), "{error}");
        let pool = rig.pool(workers(1)).await;
        wait_until(&pool, |pool| pool.workers()[0].in_flight == 0).await;
        let briefly = snakehouse_pool::CallOptions::within(Duration::from_secs(10));
        assert!(pool.call("pid", Args::none(), briefly).await.is_ok() && soon() != briefly);
        rig.end().await;
    });
}
