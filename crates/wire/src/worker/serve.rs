//! The loop.

use std::any::Any;
use std::io::{self, IoSlice, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use snakehouse_base::{Clock, Deadline, Kind, SystemClock};

use super::cancel::{Cancels, Start};
use super::{CallContext, Handler, WorkerError, setup};
use crate::assembler::Assembler;
use crate::failure::Failure;
use crate::frame::{Frame, FrameError, MAX_CHUNK};
use crate::hello::{Hello, ToolInfo, ToolKind};
use crate::message::Message;
use crate::open::OpenHead;
use crate::page::WorkerPage;
use crate::value::ValueError;

/// Least room for a read.
const READ_LEN: usize = 64 << 10;
/// A longer answer is written without being copied.
const BATCH_LEN: usize = 64 << 10;

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
    let mut capabilities = vec![Hello::STREAMS.to_owned()];
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
}

impl<S: Read + Write> Worker<'_, S> {
    fn run<H: Handler>(&mut self, handler: &mut H) -> Result<(), WorkerError> {
        let mut buf = BytesMut::with_capacity(READ_LEN);
        let mut assembler = Assembler::worker(Assembler::DEFAULT_CAP);
        loop {
            self.flush()?;
            if !self.fill(&mut buf)? {
                return Ok(());
            }
            while let Some(frame) = Frame::decode(&mut buf)? {
                match assembler.push(frame) {
                    Ok(None) => {}
                    Ok(Some(Message::Open { stream, head, body })) => {
                        self.call(handler, stream, &head, body)?;
                        assembler.close(stream);
                    }
                    Ok(Some(Message::Cancel { stream })) => {
                        self.lock().ask(stream);
                    }
                    Ok(Some(Message::Ping { token })) => {
                        Message::Pong { token }.encode(&mut self.out);
                    }
                    Ok(Some(Message::Goaway { .. })) => return self.flush(),
                    Ok(Some(_)) => {}
                    Err(FrameError::BodyTooLarge { stream, cap }) => {
                        self.start(stream)?;
                        let message = format!("the body of the call is over {cap} bytes");
                        self.fail(
                            stream,
                            &Failure::new(Kind::InvalidInput, "body_too_large", message),
                        );
                    }
                    // Of a call that is over: a handler takes no items.
                    Err(FrameError::ItemTooLarge { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }

    /// Reads once; `false` at end of file.
    fn fill(&mut self, buf: &mut BytesMut) -> Result<bool, WorkerError> {
        let old = buf.len();
        // A decoder that waits for a long frame has reserved room for it.
        let room = (buf.capacity() - old).max(READ_LEN);
        buf.resize(old + room, 0);
        loop {
            match self.socket.read(&mut buf[old..]) {
                Ok(got) => {
                    buf.truncate(old + got);
                    return Ok(got > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(WorkerError::Socket(error)),
            }
        }
    }

    fn call<H: Handler>(
        &mut self,
        handler: &mut H,
        stream: u32,
        head: &OpenHead,
        body: Bytes,
    ) -> Result<(), WorkerError> {
        let tool = usize::from(head.tool);
        let began = self.clock.now();
        let context = CallContext {
            stream,
            deadline: Deadline::from_wire(head.deadline_micros, began),
            session: head.session,
            trace: head.trace,
            cancels: Arc::clone(&self.cancels),
        };
        let start = self.start(stream)?;
        let not_run = |code, why| Err(Failure::new(Kind::Cancelled, code, why));
        let answer = if start == Start::Cancelled {
            not_run("cancelled", "the caller gave up before the call began")
        } else if start == Start::Recalled {
            not_run("recalled", "the host took the call back")
        } else if context.deadline.is_over(began) {
            Err(Failure::new(
                Kind::Deadline,
                "deadline",
                "the deadline passed before the call began",
            ))
        } else if let Some(name) = self.tools.get(tool) {
            // Nobody knows how long this takes, so nothing that is finished waits for it.
            write_all(&mut self.socket, &self.out.split(), &[])?;
            catch_unwind(AssertUnwindSafe(|| handler.call(name, body, &context)))
                .unwrap_or_else(|panic| Err(panicked(name, panic.as_ref())))
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
