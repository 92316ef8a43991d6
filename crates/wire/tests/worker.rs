//! The worker's loop over a scripted byte stream: everything the host says, then end of file.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{self, Cursor, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use snakehouse_base::{Coded, Kind, ManualClock};
use snakehouse_wire::page::{HostPage, WorkerPage};
use snakehouse_wire::worker::{CallContext, Handler, Host, WorkerError, serve_on};
use snakehouse_wire::{Assembler, Failure, Frame, Hello, MAX_CHUNK, Message, OpenHead, Value};

/// What the host sent, and each write of the worker.
struct Script {
    input: Cursor<Vec<u8>>,
    writes: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Read for Script {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.input.read(buf)
    }
}

impl Write for Script {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writes.lock().unwrap().push(buf.to_vec());
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Tools {
    clock: Arc<ManualClock>,
    page: Option<Arc<HostPage>>,
    seen: Vec<(u32, Option<u64>)>,
    writes: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Per call of `writes`: how often the worker had written when it ran.
    written: Vec<usize>,
}

impl Handler for Tools {
    fn tools(&self) -> Vec<String> {
        ["echo", "panic", "fail", "none", "cancels_itself", "writes", "takes_a_second"]
            .map(str::to_owned)
            .into()
    }

    fn call(&mut self, tool: &str, body: Bytes, context: &CallContext) -> Result<Bytes, Failure> {
        self.seen.push((context.stream(), context.session()));
        match tool {
            "panic" => panic!("ouch {}", 7),
            "fail" => Err(Failure::new(Kind::Conflict, "taken", "it is taken")),
            "writes" => {
                self.written.push(self.writes.lock().unwrap().len());
                Ok(body)
            }
            "takes_a_second" => {
                self.clock.advance(Duration::from_secs(1));
                Ok(body)
            }
            "cancels_itself" => {
                let page = self.page.as_ref().unwrap();
                assert_eq!(page.started().unwrap(), context.stream());
                assert!(!context.is_cancelled());
                page.cancel(context.stream() + 1).unwrap();
                assert!(!context.is_cancelled());
                page.cancel(context.stream()).unwrap();
                assert!(context.is_cancelled());
                Ok(body)
            }
            _ => Ok(body),
        }
    }
}

fn open(stream: u32, tool: u16, body: &[u8]) -> Message {
    Message::Open { stream, head: OpenHead::new(tool), body: Bytes::copy_from_slice(body) }
}

/// Runs a worker over these messages; what it said after its hello, and how it ended.
fn run(tools: &mut Tools, messages: Vec<Message>) -> (Vec<Message>, Result<(), WorkerError>) {
    let mut bytes = BytesMut::new();
    messages.into_iter().for_each(|message| message.encode(&mut bytes));
    let (writes, outcome) = run_bytes(tools, bytes.to_vec());
    let mut said = BytesMut::from(&writes.concat()[..]);
    let mut assembler = Assembler::host(Assembler::DEFAULT_CAP);
    let mut got = Vec::new();
    while let Some(frame) = Frame::decode(&mut said).unwrap() {
        got.extend(assembler.push(frame).unwrap());
    }
    let Message::Hello(hello) = got.remove(0) else { panic!("a hello") };
    let hello = Hello::decode(&hello).unwrap();
    assert_eq!((hello.language.as_str(), hello.codec.as_str()), ("rust", "opaque"));
    let fail = hello.tools.iter().find(|tool| tool.name == "fail");
    assert_eq!(fail.map(|tool| tool.number), Some(2));
    (got, outcome)
}

fn run_bytes(tools: &mut Tools, bytes: Vec<u8>) -> (Vec<Vec<u8>>, Result<(), WorkerError>) {
    let writes = Arc::clone(&tools.writes);
    let script = Script { input: Cursor::new(bytes), writes: Arc::clone(&writes) };
    let page = tools
        .page
        .as_ref()
        .map(|page| WorkerPage::from_fd(page.as_fd().try_clone_to_owned().unwrap()).unwrap());
    let clock = Arc::clone(&tools.clock);
    let outcome = serve_on(script, page, &*clock, tools);
    let writes = writes.lock().unwrap().clone();
    (writes, outcome)
}

fn failure(message: &Message) -> Failure {
    let Message::Error { body, .. } = message else { panic!("an error, not {message:?}") };
    Failure::decode(body)
}

#[test]
fn every_call_is_answered_in_order_and_a_panic_costs_one_call() {
    let mut tools = Tools::default();
    let calls = vec![
        open(1, 0, b"one"),
        open(2, 1, b""),
        open(3, 2, b""),
        open(4, 99, b""),
        Message::Ping { token: 9 },
        open(5, 0, b"five"),
    ];
    let (said, outcome) = run(&mut tools, calls);
    outcome.unwrap();
    assert_eq!(said[0], Message::Reply { stream: 1, body: Bytes::from_static(b"one") });
    let panicked = failure(&said[1]);
    assert_eq!((panicked.kind, panicked.code.as_str()), (Kind::Internal, "panic"));
    assert_eq!(panicked.message, "tool \"panic\" panicked: ouch 7");
    assert_eq!(failure(&said[2]), Failure::new(Kind::Conflict, "taken", "it is taken"));
    assert_eq!(failure(&said[3]).code, "unknown_tool");
    assert_eq!(said[4], Message::Pong { token: 9 });
    assert_eq!(said[5], Message::Reply { stream: 5, body: Bytes::from_static(b"five") });
}

#[test]
fn large_bodies_pass_both_ways() {
    let body = vec![3; 3 * MAX_CHUNK + 5];
    let (said, outcome) = run(&mut Tools::default(), vec![open(1, 0, &body)]);
    outcome.unwrap();
    assert_eq!(said, [Message::Reply { stream: 1, body: body.into() }]);
}

#[test]
fn a_finished_answer_is_written_before_the_next_call_runs() {
    let mut bytes = BytesMut::new();
    for stream in 1..5 {
        open(stream, 0, b"").encode(&mut bytes);
    }
    // It sees what the host has got while it runs.
    open(5, 5, b"").encode(&mut bytes);
    open(6, 0, b"").encode(&mut bytes);
    let mut tools = Tools::default();
    let (writes, outcome) = run_bytes(&mut tools, bytes.to_vec());
    outcome.unwrap();
    // The hello, then an answer to a write.
    assert_eq!(writes.iter().map(Vec::len).skip(1).collect::<Vec<_>>(), [9; 6]);
    assert_eq!(tools.written, [5]);
}

#[test]
fn answers_of_calls_that_do_not_run_leave_together() {
    let mut bytes = BytesMut::new();
    for stream in 1..5 {
        open(stream, 99, b"").encode(&mut bytes);
    }
    let (writes, outcome) = run_bytes(&mut Tools::default(), bytes.to_vec());
    outcome.unwrap();
    assert_eq!(writes.len(), 2);
}

#[test]
fn cancelled_and_late_calls_do_not_run() {
    let page = Arc::new(HostPage::create().unwrap());
    page.cancel(1).unwrap();
    let mut tools = Tools { page: Some(Arc::clone(&page)), ..Tools::default() };
    let late = OpenHead { deadline_micros: 0, ..OpenHead::new(0) };
    let (said, outcome) = run(
        &mut tools,
        vec![
            open(1, 0, b""),
            Message::Cancel { stream: 2 },
            open(2, 0, b""),
            Message::Open { stream: 3, head: late, body: Bytes::new() },
            open(4, 4, b"done"),
            open(5, 0, b""),
            Message::Cancel { stream: 4 },
            open(6, 0, b"last"),
        ],
    );
    outcome.unwrap();
    let codes: Vec<_> = [0, 1, 2, 4].map(|i| failure(&said[i]).code).into();
    assert_eq!(codes, ["cancelled", "cancelled", "deadline", "cancelled"]);
    assert_eq!(said[3], Message::Reply { stream: 4, body: Bytes::from_static(b"done") });
    assert_eq!(said[5], Message::Reply { stream: 6, body: Bytes::from_static(b"last") });
    assert_eq!(tools.seen, [(4, None), (6, None)]);
    assert_eq!(page.started().unwrap(), 6);
}

#[test]
fn a_deadline_counts_from_the_arrival_however_long_the_call_waits_for_others() {
    let mut tools = Tools::default();
    let within = |millis: u64| OpenHead { deadline_micros: millis * 1000, ..OpenHead::new(0) };
    let echo = |stream, head| Message::Open { stream, head, body: Bytes::new() };
    let calls = vec![open(1, 6, b""), echo(2, within(999)), echo(3, within(1001))];
    let (said, outcome) = run(&mut tools, calls);
    outcome.unwrap();
    assert_eq!(failure(&said[1]).code, "deadline");
    assert_eq!(said[2], Message::Reply { stream: 3, body: Bytes::new() });
    assert_eq!(tools.seen, [(1, None), (3, None)]);
}

#[test]
fn a_goaway_ends_it() {
    let goaway = Message::Goaway { reason: "recycle".into() };
    let (said, outcome) =
        run(&mut Tools::default(), vec![open(1, 0, b""), goaway, open(2, 0, b"")]);
    outcome.unwrap();
    assert_eq!(said.len(), 1);
}

#[test]
fn a_broken_frame_is_a_typed_end() {
    let (_, outcome) = run_bytes(&mut Tools::default(), vec![0, 0, 0, 0, 77, 1, 0, 0, 0]);
    let error = outcome.unwrap_err();
    assert_eq!((error.exit_status(), error.code()), (76, "frame_unknown_kind"));
}

/// A socket that lets this much pass and then fails.
struct Failing {
    reads: bool,
    writes: bool,
}

impl Read for Failing {
    fn read(&mut self, _buf: &mut [u8]) -> io::Result<usize> {
        if self.reads { Ok(0) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

impl Write for Failing {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.writes { Ok(buf.len()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_socket_that_fails_either_way_is_a_typed_end() {
    for (reads, writes) in [(true, false), (false, true)] {
        let mut tools = Tools::default();
        let clock = Arc::clone(&tools.clock);
        let error = serve_on(Failing { reads, writes }, None, &*clock, &mut tools).unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Internal, "worker_socket"));
        assert_eq!(error.exit_status(), 1);
    }
}

#[test]
fn a_page_that_cannot_be_written_is_a_typed_end() {
    let mut tools = Tools::default();
    let page = HostPage::create().unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&page.as_fd()));
    let read_only = std::fs::File::open(path).unwrap();
    let page = WorkerPage::from_fd(read_only.into()).unwrap();
    let mut bytes = BytesMut::new();
    open(1, 0, b"never runs").encode(&mut bytes);
    let script = Script { input: Cursor::new(bytes.to_vec()), writes: Arc::clone(&tools.writes) };
    let clock = Arc::clone(&tools.clock);

    let error = serve_on(script, Some(page), &*clock, &mut tools).unwrap_err();

    assert_eq!((error.kind(), error.code()), (Kind::Internal, "worker_page"));
    assert_eq!(tools.seen, [], "a call whose start nobody can see does not run");
}

/// Has one tool, whose name is too long to be told.
struct Unnameable;

impl Handler for Unnameable {
    fn tools(&self) -> Vec<String> {
        vec!["x".repeat(MAX_CHUNK)]
    }

    fn call(&mut self, _tool: &str, body: Bytes, _: &CallContext) -> Result<Bytes, Failure> {
        Ok(body)
    }
}

#[test]
fn tools_that_do_not_fit_into_a_hello_are_a_typed_end() {
    let script = Script { input: Cursor::default(), writes: Arc::default() };
    let error = serve_on(script, None, &ManualClock::default(), &mut Unnameable).unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Internal, "worker_hello"));
}

/// Asks the host for `echo`, and says how deep it was in that.
#[derive(Default)]
struct Asks {
    depth: usize,
    deepest: usize,
    cancelled: Vec<bool>,
}

impl Handler for Asks {
    fn tools(&self) -> Vec<String> {
        ["ask", "echo"].map(str::to_owned).into()
    }

    fn call(&mut self, _: &str, body: Bytes, context: &CallContext) -> Result<Bytes, Failure> {
        self.cancelled.push(context.is_cancelled());
        Ok(body)
    }

    fn call_with_host(
        &mut self,
        tool: &str,
        body: Bytes,
        context: &CallContext,
        host: &mut Host<'_>,
    ) -> Result<Bytes, Failure> {
        if tool == "echo" {
            return self.call(tool, body, context);
        }
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        let answer = host.call(self, "echo", body);
        self.depth -= 1;
        answer
    }
}

fn settings() -> Message {
    let tool = Value::from_iter([("name", "echo")]);
    let settings = Value::from_iter([("host_tools", Value::List(vec![tool]))]);
    Message::Settings(settings.encode().unwrap())
}

fn nested(stream: u32, tool: u16, body: &'static [u8]) -> Message {
    let head = OpenHead { is_nested: true, depth: 1, ..OpenHead::new(tool) };
    Message::Open { stream, head, body: Bytes::from_static(body) }
}

/// Runs a worker that asks over these messages: what it said, and how it ended.
fn ask(tools: &mut Asks, messages: Vec<Message>) -> (Vec<Message>, Result<(), WorkerError>) {
    let mut bytes = BytesMut::new();
    messages.into_iter().for_each(|message| message.encode(&mut bytes));
    let writes = Arc::new(Mutex::new(Vec::new()));
    let script = Script { input: Cursor::new(bytes.to_vec()), writes: Arc::clone(&writes) };
    let outcome = serve_on(script, None, &ManualClock::default(), tools);
    let mut said = BytesMut::from(&writes.lock().unwrap().concat()[..]);
    let mut assembler = Assembler::host(Assembler::DEFAULT_CAP);
    let mut got = Vec::new();
    while let Some(frame) = Frame::decode(&mut said).unwrap() {
        got.extend(assembler.push(frame).unwrap());
    }
    (got.split_off(1), outcome)
}

fn reply(stream: u32, body: &'static [u8]) -> Message {
    Message::Reply { stream, body: Bytes::from_static(body) }
}

fn told(callback: u32, body: &'static [u8]) -> Message {
    Message::CallbackReply { callback, body: Bytes::from_static(body) }
}

#[test]
fn a_handler_asks_its_host_and_runs_what_comes_out_of_that() {
    let mut tools = Asks::default();
    let (said, outcome) = ask(
        &mut tools,
        vec![
            settings(),
            open(1, 0, b"first"),
            open(2, 1, b"ahead"),
            nested(3, 0, b"on top"),
            Message::Ping { token: 5 },
            // For the one below, which goes on when what is on top is over.
            told(1, b"below"),
            nested(4, 1, b"echo"),
            told(2, b"top"),
            open(5, 0, b"again"),
            told(3, b"third"),
        ],
    );
    outcome.unwrap();
    let asked = |at: usize, callback, call, depth| {
        let Message::CallbackOpen { callback: number, head, .. } = &said[at] else {
            panic!("{:?}", said[at])
        };
        assert_eq!((*number, head.tool), (callback, 0));
        assert_eq!((head.session, head.depth), (call, depth));
    };
    asked(0, 1, 1, 1);
    asked(1, 2, 3, 2);
    assert_eq!(said[2], Message::Pong { token: 5 });
    let echoed = [reply(4, b"echo"), reply(3, b"top"), reply(1, b"below"), reply(2, b"ahead")];
    assert_eq!(said[3..7], echoed);
    asked(7, 3, 5, 1);
    assert_eq!(said[8..], [reply(5, b"third")]);
    assert_eq!(tools.deepest, 2);
}

#[test]
fn a_call_that_waits_for_its_host_is_cancelled_and_the_answer_is_for_nobody() {
    let mut tools = Asks::default();
    let (said, outcome) = ask(
        &mut tools,
        vec![
            settings(),
            open(1, 0, b""),
            nested(2, 0, b""),
            Message::Cancel { stream: 2 },
            told(2, b"late"),
            Message::Cancel { stream: 2 },
            told(1, b"one"),
            open(3, 1, b""),
        ],
    );
    outcome.unwrap();
    assert_eq!(said[2], Message::CallbackCancel { callback: 2 });
    assert_eq!(failure(&said[3]).code, "cancelled");
    assert_eq!(said[4..], [reply(1, b"one"), reply(3, b"")]);
    assert_eq!(tools.cancelled, [false]);
}

#[test]
fn what_the_host_cannot_answer_is_an_error_of_the_call() {
    let (said, outcome) = ask(&mut Asks::default(), vec![open(1, 0, b"")]);
    outcome.unwrap();
    assert_eq!(failure(&said[0]).code, "unknown_host_tool");
    // It hangs up while it is asked.
    let (said, outcome) = ask(&mut Asks::default(), vec![settings(), open(1, 0, b"")]);
    outcome.unwrap();
    assert!(matches!(said[0], Message::CallbackOpen { .. }));
    let too_deep = Failure::new(Kind::InvalidInput, "too_deep", "too deep");
    let error = Message::CallbackError { callback: 1, body: too_deep.encode() };
    let (said, outcome) = ask(&mut Asks::default(), vec![settings(), open(1, 0, b""), error]);
    outcome.unwrap();
    assert_eq!(failure(&said[1]), too_deep);
}

#[test]
fn an_answer_to_no_callback_is_a_typed_end() {
    let waits = vec![settings(), open(1, 0, b""), told(77, b"")];
    for messages in [waits, vec![told(1, b"")]] {
        let (_, outcome) = ask(&mut Asks::default(), messages);
        let error = outcome.unwrap_err();
        assert_eq!((error.exit_status(), error.code()), (76, "frame_out_of_place"));
    }
}

#[test]
fn a_goaway_while_a_call_waits_lets_it_and_those_behind_it_end() {
    let goaway = Message::Goaway { reason: "recycle".into() };
    let (said, outcome) = ask(
        &mut Asks::default(),
        vec![
            settings(),
            open(1, 0, b""),
            open(2, 1, b"behind"),
            goaway,
            told(1, b"one"),
            open(3, 1, b"too late"),
        ],
    );
    outcome.unwrap();
    assert_eq!(said[1..], [reply(1, b"one"), reply(2, b"behind")]);
}
