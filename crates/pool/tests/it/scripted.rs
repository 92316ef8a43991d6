//! Workers that do by script what no tool can be relied on to do: this test binary once more, as the
//! fake worker of `wire` behind a real socket.

use std::os::fd::AsFd;

use bytes::Bytes;
use snakehouse_base::Kind;
use snakehouse_pool::WorkerSpec;
use snakehouse_wire::fake::{Behaviour, FakeEnd, FakeWorker};
use snakehouse_wire::page::WorkerPage;
use snakehouse_wire::{Failure, Hello, PAGE_FD_VARIABLE, Value};
use tokio::net::UnixStream;

/// Items are numbers.
fn numbers(range: std::ops::Range<i64>) -> Vec<Bytes> {
    range.map(|number| Value::from(number).encode().unwrap()).collect()
}

fn value(value: impl Into<Value>) -> Bytes {
    value.into().encode().unwrap()
}

fn yields(items: Vec<Bytes>, then: Behaviour) -> Behaviour {
    Behaviour::Yield { items, then: Box::new(then) }
}

/// 4 KiB each.
pub(crate) const BLOB: usize = 4096;

fn worker() -> FakeWorker {
    let bad = Bytes::from_static(&[0xc1]);
    let blobs = (0..100).map(|byte| value(&*vec![byte; BLOB])).collect();
    FakeWorker::new()
        .tool("echo", Behaviour::EchoItems)
        .tool("count", yields(numbers(0..1000), Behaviour::Reply(value("done"))))
        .tool("fails", yields(numbers(0..3), Behaviour::Fail(Failure::new(Kind::Tool, "e", "no"))))
        .tool("dies", yields(numbers(0..3), Behaviour::Die))
        .tool("hangs", yields(numbers(0..3), Behaviour::Hang))
        .tool("stubborn", yields(numbers(0..3), Behaviour::HangStubbornly))
        .tool("bad", yields([numbers(0..2), vec![bad], numbers(3..9)].concat(), Behaviour::Hang))
        .tool("flood", Behaviour::Flood(1000))
        .tool("blobs", yields(blobs, Behaviour::Reply(value(Value::None))))
        .tool("plain", Behaviour::Reply(value(7)))
        .tool("long_item", yields(vec![value(&*vec![3; 3 << 20])], Behaviour::Reply(value(1))))
}

#[test]
#[ignore = "is started by the other tests here"]
fn a_scripted_worker() {
    let Ok(page) = std::env::var(PAGE_FD_VARIABLE) else { return };
    let page = WorkerPage::open(page.parse().unwrap()).unwrap();
    let script = match std::env::var("SCRIPT").as_deref() {
        Ok("no_streams") => {
            worker().hello(|hello| hello.capabilities.retain(|can| can != Hello::STREAMS))
        }
        Ok("wide") => worker().hello(|hello| hello.capacity = 10_000),
        _ => worker().page(page),
    };
    let end = snakehouse_supervise::run(async {
        let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true).unwrap();
        script.serve(UnixStream::from_std(socket).unwrap()).await
    });
    // A test that fails ends its process with status 101.
    assert_eq!(end.unwrap(), FakeEnd::HungUp);
}

/// A worker that follows the script above.
pub(crate) fn spec() -> WorkerSpec {
    let program = std::env::current_exe().unwrap();
    let args = ["--exact", "scripted::a_scripted_worker", "--ignored", "--nocapture"];
    WorkerSpec::program("scripted", program, args)
}
