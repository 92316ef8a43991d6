//! Workers in memory, for tests of hosts (feature `fake`).
//!
//! A [`FakeWorker`] speaks the real frames over any async byte stream, so a host's connection code
//! runs unchanged over a `tokio::io::duplex` with a paused clock. It keeps a real worker's promises:
//! one call at a time, in order, exactly one answer each, the page's `started` before a call runs.
//! What a tool does is scripted by a [`Behaviour`]. It starts no task: the test drives
//! [`serve`](FakeWorker::serve) as part of its own future or scope, and kills the worker by dropping it.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use snakehouse_base::{Deadline, Kind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::assembler::Assembler;
use crate::failure::Failure;
use crate::frame::Frame;
use crate::hello::{Hello, ToolInfo};
use crate::message::Message;
use crate::open::OpenHead;
use crate::page::WorkerPage;

/// What a tool of a fake worker does with a call.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Answers at once with the body of the call.
    Echo,
    /// Answers with the body after this time; a cancel ends it early.
    EchoAfter(Duration),
    /// Answers with this.
    Reply(Bytes),
    /// Fails with this.
    Fail(Failure),
    /// Never answers by itself; a cancel ends it.
    Hang,
    /// Never answers, and a cancel changes nothing: native code that does not return.
    HangStubbornly,
    /// The worker is gone: [`serve`](FakeWorker::serve) returns and the stream closes.
    Die,
}

/// How a fake worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FakeEnd {
    /// The host hung up or said goaway.
    HungUp,
    /// A tool with [`Behaviour::Die`] was called.
    Died,
}

/// A scripted worker.
#[derive(Debug)]
pub struct FakeWorker {
    hello: Hello,
    behaviours: Vec<Behaviour>,
    page: Option<WorkerPage>,
}

impl FakeWorker {
    /// A worker with no tools that says it is Python.
    pub fn new() -> Self {
        Self {
            hello: Hello {
                language: "python".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                runtime: "fake".to_owned(),
                pid: 1,
                codec: "python".to_owned(),
                capabilities: vec![Hello::CANCEL.to_owned()],
                tools: Vec::new(),
                failure: None,
            },
            behaviours: Vec::new(),
            page: None,
        }
    }

    /// Adds a tool. Numbers follow the order of the additions.
    #[must_use]
    pub fn tool(mut self, name: &str, behaviour: Behaviour) -> Self {
        self.hello.tools.extend((0..=u16::MAX).nth(self.behaviours.len()).map(|number| ToolInfo {
            name: name.to_owned(),
            number,
            signature: String::new(),
            doc: String::new(),
        }));
        self.behaviours.push(behaviour);
        self
    }

    /// Gives it the worker's end of a page, on which it publishes what it starts.
    #[must_use]
    pub fn page(mut self, page: WorkerPage) -> Self {
        self.page = Some(page);
        self.hello.capabilities.push(Hello::STARTED.to_owned());
        self
    }

    /// Changes what it says first, a failure or another version of the package for example.
    #[must_use]
    pub fn hello(mut self, change: impl FnOnce(&mut Hello)) -> Self {
        change(&mut self.hello);
        self
    }

    /// Serves until the host hangs up or a tool kills it. Dropping the future is a sudden death.
    ///
    /// # Errors
    /// What the stream says; `InvalidData` if the host breaks the protocol.
    pub async fn serve<S>(self, stream: S) -> io::Result<FakeEnd>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let hello = self.hello.encode().map_err(io::Error::other)?;
        let mut connection = Connection {
            stream,
            buf: BytesMut::new(),
            assembler: Assembler::worker(Assembler::DEFAULT_CAP),
            waiting: VecDeque::new(),
            cancelled: HashSet::new(),
            gone: false,
        };
        connection.send(Message::Hello(hello)).await?;
        loop {
            while let Some((stream, head, body)) = connection.waiting.pop_front() {
                if let Some(page) = &self.page {
                    page.start(stream)?;
                }
                let behaviour = self.behaviours.get(usize::from(head.tool));
                match connection.run(stream, &head, body, behaviour).await? {
                    Some(answer) => connection.send(answer).await?,
                    None if matches!(behaviour, Some(Behaviour::Die)) => return Ok(FakeEnd::Died),
                    None => return Ok(FakeEnd::HungUp),
                }
            }
            if connection.gone {
                return Ok(FakeEnd::HungUp);
            }
            connection.receive().await?;
        }
    }
}

impl Default for FakeWorker {
    fn default() -> Self {
        Self::new()
    }
}

struct Connection<S> {
    stream: S,
    buf: BytesMut,
    assembler: Assembler,
    waiting: VecDeque<(u32, OpenHead, Bytes)>,
    /// Cancels of calls that are running or waiting.
    cancelled: HashSet<u32>,
    gone: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// The answer of one call; `None` if the worker dies in it or its host hangs up.
    async fn run(
        &mut self,
        stream: u32,
        head: &OpenHead,
        body: Bytes,
        behaviour: Option<&Behaviour>,
    ) -> io::Result<Option<Message>> {
        let fail = |failure: &Failure| Message::Error { stream, body: failure.encode() };
        let cancelled = || fail(&Failure::new(Kind::Cancelled, "cancelled", "the caller gave up"));
        if self.cancelled.remove(&stream) {
            return Ok(Some(cancelled()));
        }
        let now = Instant::now().into_std();
        if Deadline::from_wire(head.deadline_micros, now).is_over(now) {
            let failure = Failure::new(Kind::Deadline, "deadline", "the deadline has passed");
            return Ok(Some(fail(&failure)));
        }
        let (until, stubborn, answer) = match behaviour {
            None => {
                let failure = Failure::new(Kind::NotFound, "unknown_tool", "no such tool");
                return Ok(Some(fail(&failure)));
            }
            Some(Behaviour::Echo) => return Ok(Some(Message::Reply { stream, body })),
            Some(Behaviour::Reply(body)) => {
                return Ok(Some(Message::Reply { stream, body: body.clone() }));
            }
            Some(Behaviour::Fail(failure)) => return Ok(Some(fail(failure))),
            Some(Behaviour::Die) => return Ok(None),
            Some(Behaviour::EchoAfter(time)) => {
                (Some(Instant::now() + *time), false, Message::Reply { stream, body })
            }
            Some(Behaviour::Hang) => (None, false, cancelled()),
            Some(Behaviour::HangStubbornly) => (None, true, cancelled()),
        };
        loop {
            let over = async {
                match until {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return Ok(Some(answer)),
                received = self.receive(), if !self.gone => received?,
                else => return Ok(None),
            }
            if self.gone {
                return Ok(None);
            }
            if self.cancelled.remove(&stream) && !stubborn {
                return Ok(Some(cancelled()));
            }
        }
    }

    /// Reads once and sorts what came. Cancel safe: a read that is dropped has read nothing.
    async fn receive(&mut self) -> io::Result<()> {
        if self.stream.read_buf(&mut self.buf).await? == 0 {
            self.gone = true;
        }
        let broken = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        while let Some(frame) = Frame::decode(&mut self.buf).map_err(broken)? {
            match self.assembler.push(frame).map_err(broken)? {
                Some(Message::Open { stream, head, body }) => {
                    self.waiting.push_back((stream, head, body));
                }
                Some(Message::Cancel { stream }) => {
                    self.cancelled.insert(stream);
                }
                Some(Message::Ping { token }) => self.send(Message::Pong { token }).await?,
                Some(Message::Goaway { .. }) => self.gone = true,
                _ => {}
            }
        }
        Ok(())
    }

    async fn send(&mut self, message: Message) -> io::Result<()> {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        self.stream.write_all(&out).await
    }
}
