//! The fake worker keeps a real worker's promises, under a paused clock.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use snakehouse_base::Kind;
use snakehouse_wire::fake::{Behaviour, FakeEnd, FakeWorker};
use snakehouse_wire::{Assembler, Failure, Frame, Hello, Message, OpenHead};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;

struct Host {
    io: DuplexStream,
    buf: BytesMut,
    assembler: Assembler,
}

impl Host {
    fn new(io: DuplexStream) -> Self {
        Self { io, buf: BytesMut::new(), assembler: Assembler::host(Assembler::DEFAULT_CAP) }
    }

    async fn say(&mut self, message: Message) {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        self.io.write_all(&out).await.unwrap();
    }

    async fn open(&mut self, stream: u32, tool: u16) {
        let body = Bytes::from_static(b"body");
        self.say(Message::Open { stream, head: OpenHead::new(tool), body }).await;
    }

    /// The next message; `None` at end of file.
    async fn hear(&mut self) -> Option<Message> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buf).unwrap() {
                if let Some(message) = self.assembler.push(frame).unwrap() {
                    return Some(message);
                }
            } else if self.io.read_buf(&mut self.buf).await.unwrap() == 0 {
                return None;
            }
        }
    }
}

fn reply(stream: u32) -> Option<Message> {
    Some(Message::Reply { stream, body: Bytes::from_static(b"body") })
}

fn code(message: Option<Message>) -> String {
    let Some(Message::Error { body, .. }) = message else { panic!("an error") };
    Failure::decode(&body).code
}

#[tokio::test(start_paused = true)]
async fn it_answers_one_at_a_time_and_hears_cancels() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let worker = FakeWorker::new()
        .tool("echo", Behaviour::Echo)
        .tool("later", Behaviour::EchoAfter(Duration::from_secs(5)))
        .tool("hang", Behaviour::Hang)
        .tool("fail", Behaviour::Fail(Failure::new(Kind::Tool, "broken", "no")));
    let script = async {
        let mut host = Host::new(ours);
        let Some(Message::Hello(hello)) = host.hear().await else { panic!("a hello") };
        let tools = Hello::decode(&hello).unwrap().tools;
        assert_eq!((tools[2].name.as_str(), tools[2].number), ("hang", 2));
        let began = Instant::now();
        host.open(1, 1).await;
        host.open(2, 0).await;
        assert_eq!(host.hear().await, reply(1));
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        assert_eq!(host.hear().await, reply(2));
        host.open(3, 2).await;
        host.open(4, 3).await;
        host.say(Message::Cancel { stream: 3 }).await;
        assert_eq!(code(host.hear().await), "cancelled");
        assert_eq!(code(host.hear().await), "broken");
        host.open(5, 9).await;
        assert_eq!(code(host.hear().await), "unknown_tool");
        drop(host);
    };
    let (end, ()) = tokio::join!(worker.serve(theirs), script);
    assert_eq!(end.unwrap(), FakeEnd::HungUp);
}

#[tokio::test(start_paused = true)]
async fn a_death_is_an_end_of_file() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let worker = FakeWorker::new().tool("die", Behaviour::Die);
    let script = async {
        let mut host = Host::new(ours);
        assert!(matches!(host.hear().await, Some(Message::Hello(_))));
        host.open(1, 0).await;
        assert_eq!(host.hear().await, None);
    };
    let (end, ()) = tokio::join!(worker.serve(theirs), script);
    assert_eq!(end.unwrap(), FakeEnd::Died);
}

#[tokio::test(start_paused = true)]
async fn a_stubborn_call_ends_only_with_its_host() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let worker = FakeWorker::new().tool("native", Behaviour::HangStubbornly);
    let script = async {
        let mut host = Host::new(ours);
        assert!(matches!(host.hear().await, Some(Message::Hello(_))));
        host.open(1, 0).await;
        let silent = tokio::time::timeout(Duration::from_secs(1), host.hear()).await;
        assert!(silent.is_err());
        host.say(Message::Cancel { stream: 1 }).await;
        let silent = tokio::time::timeout(Duration::from_secs(3600), host.hear()).await;
        assert!(silent.is_err());
    };
    let (end, ()) = tokio::join!(worker.serve(theirs), script);
    assert_eq!(end.unwrap(), FakeEnd::HungUp);
}

fn stream_of(stream: u32, tool: u16) -> Message {
    let head = OpenHead { is_stream: true, ..OpenHead::new(tool) };
    Message::Open { stream, head, body: Bytes::from_static(b"body") }
}

fn item(stream: u32, byte: u8, len: usize) -> Message {
    Message::Item { stream, body: vec![byte; len].into() }
}

#[tokio::test(start_paused = true)]
async fn items_stop_when_credits_are_used_up() {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let items: Vec<_> = (0..100).map(|byte| Bytes::from(vec![byte; 20_000])).collect();
    let then = Box::new(Behaviour::Fail(Failure::new(Kind::Tool, "broken", "no")));
    let worker = FakeWorker::new().tool("count", Behaviour::Yield { items, then });
    let script = async {
        let mut host = Host::new(ours);
        assert!(matches!(host.hear().await, Some(Message::Hello(_))));
        host.open(1, 0).await;
        assert_eq!(code(host.hear().await), "is_stream");
        host.say(stream_of(2, 0)).await;
        // Two credits each.
        for byte in 0..32 {
            assert_eq!(host.hear().await, Some(item(2, byte, 20_000)));
        }
        let silent = tokio::time::timeout(Duration::from_secs(60), host.hear()).await;
        assert!(silent.is_err());
        host.say(Message::Credit { stream: 2, amount: 1 }).await;
        // It may owe one.
        assert_eq!(host.hear().await, Some(item(2, 32, 20_000)));
        let silent = tokio::time::timeout(Duration::from_secs(60), host.hear()).await;
        assert!(silent.is_err());
        host.say(Message::Credit { stream: 2, amount: 1_000 }).await;
        for byte in 33..100 {
            assert_eq!(host.hear().await, Some(item(2, byte, 20_000)));
        }
        assert_eq!(code(host.hear().await), "broken");
        host.say(stream_of(3, 0)).await;
        assert_eq!(host.hear().await, Some(item(3, 0, 20_000)));
        host.say(Message::Cancel { stream: 3 }).await;
        loop {
            match host.hear().await {
                Some(Message::Item { .. }) => {}
                answer => break assert_eq!(code(answer), "cancelled"),
            }
        }
    };
    let (end, ()) = tokio::join!(worker.serve(theirs), script);
    assert_eq!(end.unwrap(), FakeEnd::HungUp);
}

#[tokio::test(start_paused = true)]
async fn items_go_both_ways_and_late_ones_are_dropped() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let worker =
        FakeWorker::new().tool("echo", Behaviour::EchoItems).tool("plain", Behaviour::Echo);
    let script = async {
        let mut host = Host::new(ours);
        assert!(matches!(host.hear().await, Some(Message::Hello(_))));
        host.say(stream_of(1, 0)).await;
        let mut granted = 64;
        for byte in 0..200 {
            host.say(item(1, byte, 3)).await;
            granted -= 1;
            loop {
                match host.hear().await.unwrap() {
                    Message::Credit { stream: 1, amount } => granted += amount,
                    message => break assert_eq!(message, item(1, byte, 3)),
                }
            }
            assert!(granted > 0, "it grants what it took");
            if byte % 32 == 31 {
                host.say(Message::Credit { stream: 1, amount: 32 }).await;
            }
        }
        host.say(Message::End { stream: 1 }).await;
        assert_eq!(host.hear().await, reply(1));
        host.say(item(1, 9, 3)).await;
        // A plain tool may be opened as a stream, and what it does not take is dropped.
        host.say(stream_of(2, 1)).await;
        host.say(item(2, 9, 3)).await;
        assert_eq!(host.hear().await, reply(2));
        host.say(Message::End { stream: 2 }).await;
        host.open(3, 1).await;
        assert_eq!(host.hear().await, reply(3));
    };
    let (end, ()) = tokio::join!(worker.serve(theirs), script);
    assert_eq!(end.unwrap(), FakeEnd::HungUp);
}
