//! Frames to messages: puts bodies that came in pieces together.
//!
//! Owns the pieces of unfinished bodies, which together never pass its cap. Used by both sides: the
//! host gets replies and items in pieces, a worker calls and items. A body in one frame passes
//! through as it is.
//!
//! A worker's answer and the host's next item cross on the way. So the worker's side knows which of
//! the streams that were opened are still open: items of the others are late, and are dropped and
//! counted. An item of a call that was never opened is a broken protocol. Which calls a host has, its
//! connection knows.

use std::collections::{HashMap, HashSet};

use bytes::{Bytes, BytesMut};

use crate::frame::{Frame, FrameError, FrameKind};
use crate::message::Message;
use crate::open::OpenHead;

/// The unfinished bodies of one direction of a connection.
#[derive(Debug)]
pub struct Assembler {
    side: Side,
    cap: usize,
    held: usize,
    partial: HashMap<u32, Partial>,
    /// Of callbacks, which have numbers of their own.
    callbacks: HashMap<u32, Partial>,
    /// Calls that may get items. Worker's side only, like the next two.
    streams: HashSet<u32>,
    /// The call that was opened last; 0 before the first.
    newest: u32,
    late: u64,
}

/// Which half of the protocol is legal here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Host,
    Worker,
}

#[derive(Debug)]
struct Partial {
    /// Present for calls; replies and items have none.
    head: Option<OpenHead>,
    body: BytesMut,
    /// It went over the cap; what follows is dropped.
    refused: bool,
}

impl Assembler {
    /// Most bytes of one body, and of all unfinished ones together: 256 MiB.
    pub const DEFAULT_CAP: usize = 256 << 20;
    /// Most callbacks whose bodies are arriving in pieces at one time.
    pub const MAX_PARTIAL_CALLBACKS: usize = 1024;

    /// For the host's side: what workers send.
    pub fn host(cap: usize) -> Self {
        Self::new(Side::Host, cap)
    }

    /// For a worker's side: what the host sends.
    pub fn worker(cap: usize) -> Self {
        Self::new(Side::Worker, cap)
    }

    fn new(side: Side, cap: usize) -> Self {
        Self {
            side,
            cap,
            held: 0,
            partial: HashMap::new(),
            callbacks: HashMap::new(),
            streams: HashSet::new(),
            newest: 0,
            late: 0,
        }
    }

    /// Bytes of unfinished bodies.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Items that were dropped because their stream was over.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Takes the next frame; gives the message it completes, if it does.
    ///
    /// # Errors
    /// [`BodyTooLarge`](FrameError::BodyTooLarge), [`ItemTooLarge`](FrameError::ItemTooLarge) or
    /// [`CallbackTooLarge`](FrameError::CallbackTooLarge), once and at the end of that body, if it did not fit: its pieces were dropped, and the
    /// connection goes on. Any other [`FrameError`] if the
    /// frame is malformed, does not fit, or is one that this side never gets: the connection is of
    /// no use after it.
    pub fn push(&mut self, frame: Frame) -> Result<Option<Message>, FrameError> {
        let Frame { kind, stream, mut payload } = frame;
        let out_of_place = FrameError::OutOfPlace { kind, stream };
        let malformed = FrameError::BadPayload { kind, len: payload.len() };
        let message = match (kind, self.side) {
            (FrameKind::Hello, Side::Host) => Message::Hello(payload),
            (FrameKind::Telemetry, Side::Host) => Message::Telemetry(payload),
            (FrameKind::Settings, Side::Worker) => Message::Settings(payload),
            (FrameKind::Open, Side::Worker) => {
                let (head, more) = OpenHead::decode(&mut payload)?;
                if self.partial.contains_key(&stream) {
                    return Err(out_of_place);
                }
                self.newest = stream;
                if head.is_stream {
                    self.streams.insert(stream);
                }
                if more {
                    self.hold(stream, Some(head), &payload);
                    return Ok(None);
                }
                if payload.len() > self.cap {
                    return Err(FrameError::BodyTooLarge { stream, cap: self.cap });
                }
                Message::Open { stream, head, body: payload }
            }
            (FrameKind::Data, side) => {
                if side == Side::Host || self.partial.contains_key(&stream) || self.takes(stream)? {
                    self.hold(stream, None, &payload);
                }
                return Ok(None);
            }
            (FrameKind::Item, side) => match self.partial.get(&stream) {
                Some(Partial { head: Some(_), .. }) => return Err(out_of_place),
                None if side == Side::Worker && !self.takes(stream)? => {
                    self.late += 1;
                    return Ok(None);
                }
                None if payload.len() > self.cap => {
                    return Err(FrameError::ItemTooLarge { stream, cap: self.cap });
                }
                None => Message::Item { stream, body: payload },
                Some(_) => {
                    self.hold(stream, None, &payload);
                    match self.take(stream) {
                        Some(Partial { refused: false, body, .. }) => {
                            Message::Item { stream, body: body.freeze() }
                        }
                        _ => return Err(FrameError::ItemTooLarge { stream, cap: self.cap }),
                    }
                }
            },
            (FrameKind::End, Side::Worker) if !payload.is_empty() => return Err(malformed),
            (FrameKind::End, Side::Worker) => {
                if self.partial.contains_key(&stream) {
                    return Err(out_of_place);
                }
                if !self.takes(stream)? {
                    return Ok(None);
                }
                Message::End { stream }
            }
            (FrameKind::Last, side) => {
                if self.partial.contains_key(&stream) {
                    self.hold(stream, None, &payload);
                }
                match (self.take(stream), side) {
                    (None, Side::Host) if payload.len() <= self.cap => {
                        Message::Reply { stream, body: payload }
                    }
                    (None, Side::Host) | (Some(Partial { refused: true, .. }), _) => {
                        return Err(FrameError::BodyTooLarge { stream, cap: self.cap });
                    }
                    (Some(Partial { head: None, body, .. }), Side::Host) => {
                        Message::Reply { stream, body: body.freeze() }
                    }
                    (Some(Partial { head: Some(head), body, .. }), Side::Worker) => {
                        Message::Open { stream, head, body: body.freeze() }
                    }
                    _ => return Err(out_of_place),
                }
            }
            (FrameKind::Error, Side::Host) => {
                self.forget(stream);
                Message::Error { stream, body: payload }
            }
            (FrameKind::Cancel, Side::Worker) if payload.is_empty() => Message::Cancel { stream },
            (FrameKind::CallbackOpen, Side::Host) => {
                return self.open_callback(stream, payload);
            }
            (FrameKind::CallbackData, side) => {
                if side == Side::Host && !self.callbacks.contains_key(&stream) {
                    return Err(out_of_place);
                }
                self.hold_callback(stream, None, &payload)?;
                return Ok(None);
            }
            (FrameKind::CallbackLast, side) => return self.end_callback(side, stream, payload),
            (FrameKind::CallbackError, Side::Worker) => {
                self.forget_callback(stream);
                Message::CallbackError { callback: stream, body: payload }
            }
            (FrameKind::CallbackCancel, Side::Host) if payload.is_empty() => {
                Message::CallbackCancel { callback: stream }
            }
            (FrameKind::CallbackCancel, Side::Host) => return Err(malformed),
            (FrameKind::Credit, _) => {
                let amount = payload[..].try_into().map_err(|_| malformed)?;
                Message::Credit { stream, amount: u32::from_le_bytes(amount) }
            }
            (FrameKind::Ping | FrameKind::Pong, _) => {
                let token = u64::from_le_bytes(payload[..].try_into().map_err(|_| malformed)?);
                match kind {
                    FrameKind::Ping => Message::Ping { token },
                    _ => Message::Pong { token },
                }
            }
            (FrameKind::Goaway, _) => {
                Message::Goaway { reason: String::from_utf8_lossy(&payload).into_owned() }
            }
            (FrameKind::Session, Side::Worker) => Message::Session(payload),
            (FrameKind::Cancel, Side::Worker) => return Err(malformed),
            (
                FrameKind::Hello
                | FrameKind::Open
                | FrameKind::Error
                | FrameKind::Cancel
                | FrameKind::End
                | FrameKind::Settings
                | FrameKind::Session
                | FrameKind::Telemetry
                | FrameKind::CallbackOpen
                | FrameKind::CallbackError
                | FrameKind::CallbackCancel,
                _,
            ) => return Err(out_of_place),
        };
        Ok(Some(message))
    }

    /// A callback's first frame. Its head has no flag but that more follows, and names a call.
    fn open_callback(
        &mut self,
        callback: u32,
        mut payload: Bytes,
    ) -> Result<Option<Message>, FrameError> {
        let (kind, len) = (FrameKind::CallbackOpen, payload.len());
        let (head, more) = OpenHead::decode(&mut payload)?;
        if head.is_stream || head.is_nested || head.session == 0 {
            return Err(FrameError::BadPayload { kind, len });
        }
        if self.callbacks.contains_key(&callback) {
            return Err(FrameError::OutOfPlace { kind, stream: callback });
        }
        if more {
            self.hold_callback(callback, Some(head), &payload)?;
            return Ok(None);
        }
        if payload.len() > self.cap {
            return Err(FrameError::CallbackTooLarge { callback, cap: self.cap });
        }
        Ok(Some(Message::CallbackOpen { callback, head, body: payload }))
    }

    /// The last piece of a callback's body, or of its answer.
    fn end_callback(
        &mut self,
        side: Side,
        callback: u32,
        payload: Bytes,
    ) -> Result<Option<Message>, FrameError> {
        let too_large = FrameError::CallbackTooLarge { callback, cap: self.cap };
        let out_of_place =
            FrameError::OutOfPlace { kind: FrameKind::CallbackLast, stream: callback };
        if !self.callbacks.contains_key(&callback) {
            return match side {
                Side::Host => Err(out_of_place),
                Side::Worker if payload.len() > self.cap => Err(too_large),
                Side::Worker => Ok(Some(Message::CallbackReply { callback, body: payload })),
            };
        }
        self.hold_callback(callback, None, &payload)?;
        match self.callbacks.remove(&callback) {
            Some(Partial { refused: true, .. }) | None => Err(too_large),
            Some(Partial { head, body, .. }) => {
                self.held -= body.len();
                let body = body.freeze();
                Ok(Some(match head {
                    Some(head) => Message::CallbackOpen { callback, head, body },
                    None => Message::CallbackReply { callback, body },
                }))
            }
        }
    }

    fn hold_callback(
        &mut self,
        callback: u32,
        head: Option<OpenHead>,
        piece: &[u8],
    ) -> Result<(), FrameError> {
        let is_new = !self.callbacks.contains_key(&callback);
        if is_new && self.callbacks.len() == Self::MAX_PARTIAL_CALLBACKS {
            return Err(FrameError::OutOfPlace { kind: FrameKind::CallbackData, stream: callback });
        }
        let partial = self.callbacks.entry(callback).or_insert_with(|| Partial::new(head));
        self.held = partial.add(piece, self.held, self.cap);
        Ok(())
    }

    /// Drops what came of a callback's unfinished answer, or body.
    fn forget_callback(&mut self, callback: u32) {
        if let Some(partial) = self.callbacks.remove(&callback) {
            self.held -= partial.body.len();
        }
    }

    /// For a worker: the call is answered, and what still comes for it is late.
    pub fn close(&mut self, stream: u32) {
        self.streams.remove(&stream);
        self.forget(stream);
    }

    /// Whether what came for `stream` belongs to an open one; if not, it is late.
    fn takes(&self, stream: u32) -> Result<bool, FrameError> {
        if self.streams.contains(&stream) {
            return Ok(true);
        }
        // Numbers go round, and far fewer than half of them are in use at once.
        match self.newest != 0 && self.newest.wrapping_sub(stream) < u32::MAX / 2 {
            true => Ok(false),
            false => Err(FrameError::OutOfPlace { kind: FrameKind::Item, stream }),
        }
    }

    /// Drops what came of an unfinished body; says whether there was one.
    pub fn forget(&mut self, stream: u32) -> bool {
        self.take(stream).is_some()
    }

    /// Adds a piece to a body, which begins here if it is not there yet.
    fn hold(&mut self, stream: u32, head: Option<OpenHead>, piece: &[u8]) {
        let partial = self.partial.entry(stream).or_insert_with(|| Partial::new(head));
        self.held = partial.add(piece, self.held, self.cap);
    }

    fn take(&mut self, stream: u32) -> Option<Partial> {
        let partial = self.partial.remove(&stream)?;
        self.held -= partial.body.len();
        Some(partial)
    }
}

impl Partial {
    fn new(head: Option<OpenHead>) -> Self {
        Self { head, body: BytesMut::new(), refused: false }
    }

    /// Takes a piece, unless all bodies together would be over the cap then. `held` is what they have
    /// before; gives what they have after.
    fn add(&mut self, piece: &[u8], held: usize, cap: usize) -> usize {
        if self.refused {
            return held;
        }
        if held + piece.len() > cap {
            let given_up = std::mem::take(&mut self.body).len();
            self.refused = true;
            return held - given_up;
        }
        self.body.extend_from_slice(piece);
        held + piece.len()
    }
}
