//! The loop.

use std::any::Any;
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use snakehouse_base::{Clock, Deadline, Kind, SystemClock};

use super::cancel::{Cancels, Start};
use super::host::{Callbacks, Host, Link};
use super::{CallContext, Handler, WorkerError, setup};
use crate::assembler::Assembler;
use crate::failure::Failure;
use crate::frame::{Frame, FrameError, FrameKind, MAX_CHUNK};
use crate::hello::{Hello, ToolInfo, ToolKind};
use crate::message::Message;
use crate::open::OpenHead;
use crate::page::WorkerPage;
use crate::value::ValueError;

/// Least room for a read.
const READ_LEN: usize = 64 << 10;
/// A longer answer is written without being copied.
const BATCH_LEN: usize = 64 << 10;
/// Calls that wait for one that waits for the host. No host sends more ahead.
const MAX_WAITING: usize = 4096;
/// Nested calls on top of each other. A host has 16 at most.
const MAX_NESTED: usize = 64;

/// Serves the host that started this process, until it hangs up.
///
/// Takes the control socket and the page from the environment; see the crate's description. Blocks
/// the calling thread.
///
/// # Errors
/// [`WorkerError`]; its [`exit_status`](WorkerError::exit_status) is for `main`.
pub fn serve<H: Handler>(handler: &mut H) -> Result<(), WorkerError> {
    let lookup = |name: &str| std::env::var(name).ok();
    let socket = setup::socket(&lookup)?;
    let page = setup::page(&lookup)?;
    serve_on(socket, page, &SystemClock, handler)
}

/// Serves over any blocking byte stream.
///
/// # Errors
/// As [`serve`].
pub fn serve_on<S: Read + Write, H: Handler>(
    socket: S,
    page: Option<WorkerPage>,
    clock: &dyn Clock,
    handler: &mut H,
) -> Result<(), WorkerError> {
    let tools = handler.tools();
    let hello = hello(&tools, page.is_some()).encode()?;
    if hello.len() > MAX_CHUNK || tools.len() > usize::from(u16::MAX) {
        return Err(ValueError::TooLarge.into());
    }
    let mut worker = Worker {
        socket,
        clock,
        out: BytesMut::new(),
        tools,
        cancels: Arc::new(Mutex::new(Cancels::new(page))),
        buf: BytesMut::with_capacity(READ_LEN),
        filled: clock.now(),
        assembler: Assembler::worker(Assembler::DEFAULT_CAP),
        waiting: VecDeque::new(),
        waiting_bytes: 0,
        nested: 0,
        callbacks: Callbacks::default(),
        is_leaving: false,
        end: None,
    };
    Message::Hello(hello).encode(&mut worker.out);
    match worker.run(handler) {
        // The host is gone; there is nobody to tell.
        Err(WorkerError::Socket(error))
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn hello(tools: &[String], has_page: bool) -> Hello {
    let tools = tools
        .iter()
        .zip(0..=u16::MAX)
        .map(|(name, number)| ToolInfo::new(name, number, ToolKind::Function));
    let mut capabilities = [Hello::CALLBACKS, Hello::STREAMS].map(str::to_owned).to_vec();
    if has_page {
        capabilities.extend([Hello::RECALL, Hello::STARTED].map(str::to_owned));
    }
    Hello {
        language: "rust".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime: "native".to_owned(),
        pid: std::process::id(),
        codec: "opaque".to_owned(),
        capabilities,
        capacity: 1,
        tools: tools.collect(),
        failure: None,
    }
}

struct Worker<'a, S> {
    socket: S,
    clock: &'a dyn Clock,
    /// Answers not yet written.
    out: BytesMut,
    tools: Vec<String>,
    cancels: Arc<Mutex<Cancels>>,
    buf: BytesMut,
    /// When what is in the buffer came: a call in it may have to wait for those before it.
    filled: Instant,
    assembler: Assembler,
    /// Calls that came while one waited for the host.
    waiting: VecDeque<Arrived>,
    waiting_bytes: usize,
    /// Nested calls that run.
    nested: usize,
    callbacks: Callbacks,
    /// The host said goaway.
    is_leaving: bool,
    /// What ended the connection while a call waited for the host.
    end: Option<WorkerError>,
}

/// A call that is whole.
struct Arrived {
    stream: u32,
    head: OpenHead,
    body: Bytes,
    at: Instant,
}

impl<S: Read + Write> Worker<'_, S> {
    fn run(&mut self, handler: &mut dyn Handler) -> Result<(), WorkerError> {
        loop {
            self.flush()?;
            if !self.fill()? {
                return Ok(());
            }
            while let Some(frame) = Frame::decode(&mut self.buf)? {
                if let Some(call) = self.take(frame)? {
                    self.call(handler, call)?;
                }
                while let Some(call) = self.waiting.pop_front() {
                    self.waiting_bytes -= call.body.len();
                    self.call(handler, call)?;
                }
                if let Some(error) = self.end.take() {
                    return Err(error);
                }
                if self.is_leaving {
                    return self.flush();
                }
            }
        }
    }

    /// Takes a frame; gives the call that is whole with it, if one is.
    fn take(&mut self, frame: Frame) -> Result<Option<Arrived>, WorkerError> {
        match self.assembler.push(frame) {
            Ok(None) => {}
            Ok(Some(Message::Open { stream, head, body })) => {
                return Ok(Some(Arrived { stream, head, body, at: self.filled }));
            }
            Ok(Some(Message::Cancel { stream })) => self.lock().ask(stream),
            Ok(Some(Message::Ping { token })) => Message::Pong { token }.encode(&mut self.out),
            Ok(Some(Message::Goaway { .. })) => self.is_leaving = true,
            Ok(Some(Message::Settings(settings))) => self.callbacks.learn(&settings),
            Ok(Some(Message::CallbackReply { callback, body })) => {
                self.callbacks.answered(callback, Ok(body))?;
            }
            Ok(Some(Message::CallbackError { callback, body })) => {
                self.callbacks.answered(callback, Err(Failure::decode(&body)))?;
            }
            Ok(Some(_)) => {}
            Err(FrameError::BodyTooLarge { stream, .. }) => {
                self.start(stream)?;
                self.lock().end();
                self.refuse(stream);
            }
            Err(FrameError::CallbackTooLarge { callback, cap }) => {
                let message = format!("the answer is over {cap} bytes");
                let failure = Failure::new(Kind::InvalidInput, "body_too_large", message);
                self.callbacks.answered(callback, Err(failure))?;
            }
            // Of a call that is over: a handler takes no items.
            Err(FrameError::ItemTooLarge { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(None)
    }

    /// A call that came while one waits for the host: its turn is later.
    fn queue(&mut self, call: Arrived) -> Result<(), WorkerError> {
        if self.waiting.len() == MAX_WAITING {
            let error = FrameError::OutOfPlace { kind: FrameKind::Open, stream: call.stream };
            return Err(error.into());
        }
        if self.waiting_bytes + call.body.len() > Assembler::DEFAULT_CAP {
            self.assembler.close(call.stream);
            self.refuse(call.stream);
            return Ok(());
        }
        self.waiting_bytes += call.body.len();
        self.waiting.push_back(call);
        Ok(())
    }

    /// The body of a call is too long.
    fn refuse(&mut self, stream: u32) {
        let message = format!("the body of the call is over {} bytes", Assembler::DEFAULT_CAP);
        self.fail(stream, &Failure::new(Kind::InvalidInput, "body_too_large", message));
    }

    /// Reads once; `false` at end of file.
    fn fill(&mut self) -> Result<bool, WorkerError> {
        let old = self.buf.len();
        // A decoder that waits for a long frame has reserved room for it.
        let room = (self.buf.capacity() - old).max(READ_LEN);
        self.buf.resize(old + room, 0);
        loop {
            match self.socket.read(&mut self.buf[old..]) {
                Ok(got) => {
                    self.buf.truncate(old + got);
                    self.filled = self.clock.now();
                    return Ok(got > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(WorkerError::Socket(error)),
            }
        }
    }

    fn call(&mut self, handler: &mut dyn Handler, call: Arrived) -> Result<(), WorkerError> {
        let Arrived { stream, head, body, at } = call;
        self.answer(handler, stream, &head, body, at)?;
        self.assembler.close(stream);
        Ok(())
    }

    fn answer(
        &mut self,
        handler: &mut dyn Handler,
        stream: u32,
        head: &OpenHead,
        body: Bytes,
        arrived: Instant,
    ) -> Result<(), WorkerError> {
        let tool = usize::from(head.tool);
        let context = CallContext {
            stream,
            deadline: Deadline::from_wire(head.deadline_micros, arrived),
            session: head.session,
            trace: head.trace,
            cancels: Arc::clone(&self.cancels),
        };
        let is_nested = head.is_nested && !self.lock().is_idle();
        let start = match is_nested {
            true => self.lock().start_nested(stream).map_err(WorkerError::Page)?,
            false => self.start(stream)?,
        };
        let not_run = |code, why| Err(Failure::new(Kind::Cancelled, code, why));
        let answer = if start == Start::Cancelled {
            not_run("cancelled", "the caller gave up before the call began")
        } else if start == Start::Recalled {
            not_run("recalled", "the host took the call back")
        } else if context.deadline.is_over(self.clock.now()) {
            Err(Failure::new(
                Kind::Deadline,
                "deadline",
                "the deadline passed before the call began",
            ))
        } else if let Some(name) = self.tools.get(tool).cloned() {
            // Nobody knows how long this takes, so nothing that is finished waits for it.
            write_all(&mut self.socket, &self.out.split(), &[])?;
            let call = context.clone();
            let mut host = Host { link: self, call, depth: head.depth };
            catch_unwind(AssertUnwindSafe(|| {
                handler.call_with_host(&name, body, &context, &mut host)
            }))
            .unwrap_or_else(|panic| Err(panicked(&name, panic.as_ref())))
        } else {
            let message = format!("the worker has no tool number {tool}");
            Err(Failure::new(Kind::NotFound, "unknown_tool", message))
        };
        self.lock().end();
        match answer {
            Ok(body) if body.len() > BATCH_LEN => {
                self.flush()?;
                for segment in (Message::Reply { stream, body }).segments() {
                    write_all(&mut self.socket, segment.head(), segment.body())?;
                }
            }
            Ok(body) => Message::Reply { stream, body }.encode(&mut self.out),
            Err(failure) => self.fail(stream, &failure),
        }
        Ok(())
    }

    fn start(&self, stream: u32) -> Result<Start, WorkerError> {
        self.lock().start(stream).map_err(WorkerError::Page)
    }

    fn fail(&mut self, stream: u32, failure: &Failure) {
        Message::Error { stream, body: failure.encode() }.encode(&mut self.out);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cancels> {
        self.cancels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&mut self) -> Result<(), WorkerError> {
        if !self.out.is_empty() {
            let out = self.out.split();
            write_all(&mut self.socket, &out, &[])?;
        }
        Ok(())
    }
}

impl<S: Read + Write> Link for Worker<'_, S> {
    fn ask(
        &mut self,
        handler: &mut dyn Handler,
        call: &CallContext,
        depth: u8,
        tool: &str,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        let head = OpenHead {
            session: u64::from(call.stream),
            deadline_micros: call.deadline.to_wire(self.clock.now()),
            trace: call.trace,
            depth: depth.saturating_add(1),
            ..OpenHead::new(self.callbacks.find(tool)?)
        };
        let gone = || Failure::new(Kind::Unavailable, "host_gone", "the host has hung up");
        if self.end.is_some() {
            return Err(gone());
        }
        let callback = self.callbacks.open();
        let asked = self.send(Message::CallbackOpen { callback, head, body });
        let answer = asked.and_then(|()| self.wait(handler, call, callback));
        answer.unwrap_or_else(|error| {
            self.end = Some(error);
            Err(gone())
        })
    }
}

impl<S: Read + Write> Worker<'_, S> {
    fn send(&mut self, message: Message) -> Result<(), WorkerError> {
        self.flush()?;
        message
            .segments()
            .try_for_each(|part| write_all(&mut self.socket, part.head(), part.body()))
    }

    /// Does what the host says until it answers a callback.
    fn wait(
        &mut self,
        handler: &mut dyn Handler,
        call: &CallContext,
        callback: u32,
    ) -> Result<Result<Bytes, Failure>, WorkerError> {
        loop {
            if let Some(answer) = self.callbacks.take(callback) {
                return Ok(answer);
            }
            if call.is_cancelled() {
                self.callbacks.abandon(callback);
                self.send(Message::CallbackCancel { callback })?;
                let why = "the caller gave up while the call waited for the host";
                return Ok(Err(Failure::new(Kind::Cancelled, "cancelled", why)));
            }
            match Frame::decode(&mut self.buf)? {
                Some(frame) => match self.take(frame)? {
                    Some(nested) if nested.head.is_nested && self.nested < MAX_NESTED => {
                        self.nested += 1;
                        let done = self.call(handler, nested);
                        self.nested -= 1;
                        done?;
                        if let Some(error) = self.end.take() {
                            return Err(error);
                        }
                    }
                    Some(later) => self.queue(later)?,
                    None => {}
                },
                None => {
                    self.flush()?;
                    if !self.fill()? {
                        return Err(WorkerError::Socket(io::ErrorKind::BrokenPipe.into()));
                    }
                }
            }
        }
    }
}

fn write_all(socket: &mut impl Write, mut head: &[u8], mut body: &[u8]) -> Result<(), WorkerError> {
    while !head.is_empty() || !body.is_empty() {
        match socket.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
            Ok(0) => return Err(WorkerError::Socket(io::ErrorKind::WriteZero.into())),
            Ok(sent) => {
                let of_head = sent.min(head.len());
                head = &head[of_head..];
                body = &body[sent - of_head..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(WorkerError::Socket(error)),
        }
    }
    Ok(())
}

fn panicked(tool: &str, panic: &(dyn Any + Send)) -> Failure {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message");
    Failure::new(Kind::Internal, "panic", format!("tool {tool:?} panicked: {text}"))
}
