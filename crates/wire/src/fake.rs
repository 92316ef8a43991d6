//! Workers in memory, for tests of hosts (feature `fake`).
//!
//! A [`FakeWorker`] speaks the real frames over any async byte stream, so a host's connection code
//! runs unchanged over a `tokio::io::duplex` with a paused clock. It keeps a real worker's promises:
//! one call at a time, in order, exactly one answer each, the page's `started` before a call runs.
//! What a tool does is scripted by a [`Behaviour`]; streams keep to their credits. It starts no task: the test drives
//! [`serve`](FakeWorker::serve) as part of its own future or scope, and kills the worker by dropping it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use snakehouse_base::{Deadline, Kind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::assembler::Assembler;
use crate::credit::{ReceiveCredit, SendCredit};
use crate::failure::Failure;
use crate::frame::Frame;
use crate::hello::{Hello, ToolInfo, ToolKind};
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
    /// A generator: gives these items, as fast as there are credits, and then does that.
    Yield {
        /// The items.
        items: Vec<Bytes>,
        /// Any of the above. The body is the call's.
        then: Box<Self>,
    },
    /// Gives each of the host's items back. After the host's end it answers with the call's body.
    EchoItems,
    /// Gives so many empty items without asking for credits, which breaks the protocol.
    Flood(usize),
}

impl Behaviour {
    const fn is_generator(&self) -> bool {
        matches!(self, Self::Yield { .. } | Self::EchoItems | Self::Flood(_))
    }
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
                capabilities: [Hello::CANCEL, Hello::STREAMS].map(str::to_owned).into(),
                capacity: 1,
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
        let kind = match behaviour.is_generator() {
            true => ToolKind::Generator,
            false => ToolKind::Function,
        };
        let number = (0..=u16::MAX).nth(self.behaviours.len());
        self.hello.tools.extend(number.map(|number| ToolInfo::new(name, number, kind)));
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
            streams: HashMap::new(),
            gone: false,
        };
        connection.send(Message::Hello(hello)).await?;
        loop {
            while let Some((stream, head, body)) = connection.waiting.pop_front() {
                if let Some(page) = &self.page {
                    page.start(stream)?;
                }
                let behaviour = self.behaviours.get(usize::from(head.tool));
                let answer = match connection.give(stream, &head, &body, behaviour).await? {
                    Given::All(then) => connection.run(stream, &head, body, then).await?,
                    Given::Answer(answer) => Some(answer),
                    Given::HungUp => None,
                };
                connection.close(stream);
                match answer {
                    Some(answer) => connection.send(answer).await?,
                    None if connection.gone => return Ok(FakeEnd::HungUp),
                    None => return Ok(FakeEnd::Died),
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
    streams: HashMap<u32, Items>,
    gone: bool,
}

/// What a stream has of the host's items, and the credits of both directions.
#[derive(Default)]
struct Items {
    waiting: VecDeque<Bytes>,
    ended: bool,
    arriving: ReceiveCredit,
    sending: SendCredit,
}

/// How far the items of a call went.
enum Given<'a> {
    /// To their end: what comes then.
    All(Option<&'a Behaviour>),
    /// The call has its answer.
    Answer(Message),
    HungUp,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// The items of a call, if it has any.
    async fn give<'a>(
        &mut self,
        stream: u32,
        head: &OpenHead,
        body: &Bytes,
        behaviour: Option<&'a Behaviour>,
    ) -> io::Result<Given<'a>> {
        if !behaviour.is_some_and(Behaviour::is_generator) {
            return Ok(Given::All(behaviour));
        }
        if !head.is_stream {
            let failure = Failure::new(Kind::InvalidInput, "is_stream", "it gives a stream");
            return Ok(Given::Answer(Message::Error { stream, body: failure.encode() }));
        }
        if let Some(Behaviour::Flood(count)) = behaviour {
            for _ in 0..*count {
                self.send(Message::Item { stream, body: Bytes::new() }).await?;
            }
            return Ok(Given::All(Some(&Behaviour::Hang)));
        }
        let mut given = 0;
        loop {
            // Looked at before each item, like a generator that is closed at its yield.
            if self.cancelled.contains(&stream) {
                return Ok(Given::All(Some(&Behaviour::Hang)));
            }
            let items = self.streams.entry(stream).or_default();
            let can_send = items.sending.can_send();
            let next = match behaviour {
                Some(Behaviour::Yield { items, then }) => match items.get(given) {
                    None => return Ok(Given::All(Some(then))),
                    Some(item) => can_send.then(|| item.clone()),
                },
                _ if can_send && !items.waiting.is_empty() => items.waiting.pop_front(),
                _ if items.ended && items.waiting.is_empty() => {
                    return Ok(Given::Answer(Message::Reply { stream, body: body.clone() }));
                }
                _ => None,
            };
            match next {
                Some(item) => {
                    given += 1;
                    items.sending.sent(item.len());
                    let grant = match behaviour {
                        Some(Behaviour::EchoItems) => items.arriving.taken(item.len()),
                        _ => None,
                    };
                    if let Some(amount) = grant {
                        self.send(Message::Credit { stream, amount }).await?;
                    }
                    self.send(Message::Item { stream, body: item }).await?;
                }
                None if self.gone => return Ok(Given::HungUp),
                None => self.receive().await?,
            }
        }
    }

    fn close(&mut self, stream: u32) {
        self.streams.remove(&stream);
        self.assembler.close(stream);
    }

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
            Some(_items) => {
                let failure = Failure::new(Kind::Internal, "misscripted", "items after items");
                return Ok(Some(fail(&failure)));
            }
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
                    if head.is_stream {
                        self.streams.insert(stream, Items::default());
                    }
                    self.waiting.push_back((stream, head, body));
                }
                Some(Message::Item { stream, body }) => {
                    let items = self.streams.entry(stream).or_default();
                    items.arriving.arrived(stream, body.len()).map_err(broken)?;
                    items.waiting.push_back(body);
                }
                Some(Message::End { stream }) => {
                    self.streams.entry(stream).or_default().ended = true;
                }
                Some(Message::Credit { stream, amount }) => {
                    if let Some(items) = self.streams.get_mut(&stream) {
                        items.sending.granted(amount);
                    }
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
