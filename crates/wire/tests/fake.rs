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
        assert_eq!(Hello::decode(&hello).unwrap().tool("hang"), Some(2));
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
