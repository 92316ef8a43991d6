//! What the two sides say to each other, with bodies of any size.
//!
//! A [`Message`] is one or more frames. [`Message::encode`] appends its bytes to a buffer and is
//! right for small ones; [`Message::segments`] gives heads and body slices for a vectored write, so
//! that a large body is never copied. The other side's [`Assembler`](crate::Assembler) puts the
//! pieces together.

use bytes::{BufMut, Bytes, BytesMut};

use crate::frame::{FrameKind, HEAD_LEN, MAX_CHUNK, head, put};
use crate::open::OpenHead;

/// One thing said on the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The worker's first words: an encoded [`Hello`](crate::Hello).
    Hello(Bytes),
    /// A call.
    Open {
        /// Its number.
        stream: u32,
        /// Tool, deadline, session, trace, and whether it is a stream.
        head: OpenHead,
        /// For Python workers MessagePack `[args, kwargs]`, for others whatever the tool takes.
        body: Bytes,
    },
    /// The answer of a call that succeeded.
    Reply {
        /// The call's number.
        stream: u32,
        /// From Python workers one MessagePack value.
        body: Bytes,
    },
    /// The answer of a call that failed: an encoded [`Failure`](crate::Failure).
    Error {
        /// The call's number.
        stream: u32,
        /// At most [`MAX_CHUNK`] bytes.
        body: Bytes,
    },
    /// The caller gave the call up. The worker still answers it, once.
    Cancel {
        /// The call's number.
        stream: u32,
    },
    /// One item of a stream.
    Item {
        /// The stream's number.
        stream: u32,
        /// To and from Python workers one MessagePack value.
        body: Bytes,
    },
    /// The host sends no more items.
    End {
        /// The stream's number.
        stream: u32,
    },
    /// More items of a stream may be sent.
    Credit {
        /// The stream's number.
        stream: u32,
        /// How many more [`credit`](crate::credit)s.
        amount: u32,
    },
    /// To be answered with a pong. A worker that is running a call answers after it.
    Ping {
        /// Returned as it is.
        token: u64,
    },
    /// Answer to a ping.
    Pong {
        /// The ping's token.
        token: u64,
    },
    /// What the worker should know beside its calls: an encoded map.
    Settings(Bytes),
    /// What the worker tells of its calls: an encoded list of maps.
    Telemetry(Bytes),
    /// What becomes of a session: an encoded [`SessionEvent`](crate::SessionEvent). Only for workers
    /// that claim [`Hello::SESSIONS`](crate::Hello::SESSIONS).
    Session(Bytes),
    /// A tool asks the host for something.
    CallbackOpen {
        /// Its number, given by the worker.
        callback: u32,
        /// The number of the host tool; the host's call that it is made in stands for the session.
        head: OpenHead,
        /// As of a call.
        body: Bytes,
    },
    /// The host's answer.
    CallbackReply {
        /// The callback's number.
        callback: u32,
        /// As of a call's reply.
        body: Bytes,
    },
    /// The host tool failed: an encoded [`Failure`](crate::Failure).
    CallbackError {
        /// The callback's number.
        callback: u32,
        /// At most [`MAX_CHUNK`] bytes.
        body: Bytes,
    },
    /// Nobody waits for the callback any more. The host still answers it, once.
    CallbackCancel {
        /// The callback's number.
        callback: u32,
    },
    /// No new calls.
    Goaway {
        /// For the log. Cut at [`MAX_CHUNK`] bytes.
        reason: String,
    },
}

/// A piece of a message: what to write first, then a body slice.
#[derive(Clone, Debug)]
pub struct Segment {
    head: [u8; HEAD_LEN + OpenHead::LEN],
    head_len: usize,
    body: Bytes,
}

impl Segment {
    fn new(kind: FrameKind, stream: u32, fixed: &[u8], body: Bytes) -> Self {
        let mut bytes = [0; HEAD_LEN + OpenHead::LEN];
        let head_len = HEAD_LEN + fixed.len();
        bytes[..HEAD_LEN].copy_from_slice(&head(kind, stream, fixed.len() + body.len()));
        bytes[HEAD_LEN..head_len].copy_from_slice(fixed);
        Self { head: bytes, head_len, body }
    }

    /// The frame's head and fixed fields.
    pub fn head(&self) -> &[u8] {
        &self.head[..self.head_len]
    }

    /// The slice of the body that follows them; may be empty.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

/// The segments of one message, in order.
#[derive(Clone, Debug)]
pub struct Segments {
    first: Option<Segment>,
    stream: u32,
    rest: Bytes,
    open: bool,
    /// The kind of every piece but the last.
    more: FrameKind,
    /// The kind of the last piece.
    last: FrameKind,
}

impl Iterator for Segments {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        if !self.open {
            return None;
        }
        let piece = self.rest.split_to(self.rest.len().min(MAX_CHUNK));
        self.open = !self.rest.is_empty();
        let kind = if self.open { self.more } else { self.last };
        Some(Segment::new(kind, self.stream, &[], piece))
    }
}

impl Message {
    /// The message as heads and body slices, for a vectored write without a copy.
    pub fn segments(self) -> Segments {
        let single = |kind, stream, fixed: &[u8], body| Segments {
            first: Some(Segment::new(kind, stream, fixed, body)),
            stream,
            rest: Bytes::new(),
            open: false,
            more: kind,
            last: kind,
        };
        let pieces = |stream, body, more, last| Segments {
            first: None,
            stream,
            rest: body,
            open: true,
            more,
            last,
        };
        let opening = |kind, stream, head: OpenHead, mut body: Bytes, more, last| {
            let first = body.split_to(body.len().min(MAX_CHUNK));
            let open = !body.is_empty();
            let first = Segment::new(kind, stream, &head.encode(open), first);
            Segments { first: Some(first), stream, rest: body, open, more, last }
        };
        match self {
            Self::Hello(body) => single(FrameKind::Hello, 0, &[], cut(body)),
            Self::Open { stream, head, body } => {
                opening(FrameKind::Open, stream, head, body, FrameKind::Data, FrameKind::Last)
            }
            Self::Reply { stream, body } => pieces(stream, body, FrameKind::Data, FrameKind::Last),
            Self::Item { stream, body } => pieces(stream, body, FrameKind::Data, FrameKind::Item),
            Self::CallbackOpen { callback, head, body } => {
                let (more, last) = (FrameKind::CallbackData, FrameKind::CallbackLast);
                opening(FrameKind::CallbackOpen, callback, head, body, more, last)
            }
            Self::CallbackReply { callback, body } => {
                pieces(callback, body, FrameKind::CallbackData, FrameKind::CallbackLast)
            }
            Self::CallbackError { callback, body } => {
                single(FrameKind::CallbackError, callback, &[], cut(body))
            }
            Self::CallbackCancel { callback } => {
                single(FrameKind::CallbackCancel, callback, &[], Bytes::new())
            }
            Self::End { stream } => single(FrameKind::End, stream, &[], Bytes::new()),
            Self::Error { stream, body } => single(FrameKind::Error, stream, &[], cut(body)),
            Self::Cancel { stream } => single(FrameKind::Cancel, stream, &[], Bytes::new()),
            Self::Credit { stream, amount } => {
                single(FrameKind::Credit, stream, &amount.to_le_bytes(), Bytes::new())
            }
            Self::Ping { token } => single(FrameKind::Ping, 0, &token.to_le_bytes(), Bytes::new()),
            Self::Pong { token } => single(FrameKind::Pong, 0, &token.to_le_bytes(), Bytes::new()),
            Self::Settings(body) => single(FrameKind::Settings, 0, &[], cut(body)),
            Self::Telemetry(body) => single(FrameKind::Telemetry, 0, &[], cut(body)),
            Self::Session(body) => single(FrameKind::Session, 0, &[], cut(body)),
            Self::Goaway { reason } => single(FrameKind::Goaway, 0, &[], cut(reason.into())),
        }
    }

    /// Appends the bytes of an [`Open`](Self::Open) whose body stays where it is: a caller that keeps
    /// it need not share it for that.
    pub fn encode_open(stream: u32, open: &OpenHead, body: &[u8], out: &mut BytesMut) {
        if body.len() > MAX_CHUNK {
            let body = Bytes::copy_from_slice(body);
            return Self::Open { stream, head: *open, body }.encode(out);
        }
        out.reserve(HEAD_LEN + OpenHead::LEN + body.len());
        out.put_slice(&head(FrameKind::Open, stream, OpenHead::LEN + body.len()));
        out.put_slice(&open.encode(false));
        out.put_slice(body);
    }

    /// Appends the message's bytes, body included.
    pub fn encode(self, out: &mut BytesMut) {
        match self {
            // The messages of every small call and stream, without the detour over segments.
            Self::Open { stream, head, body } if body.len() <= MAX_CHUNK => {
                Self::encode_open(stream, &head, &body, out);
            }
            Self::Reply { stream, body } if body.len() <= MAX_CHUNK => {
                put(out, FrameKind::Last, stream, &body);
            }
            Self::Item { stream, body } if body.len() <= MAX_CHUNK => {
                put(out, FrameKind::Item, stream, &body);
            }
            other => {
                for segment in other.segments() {
                    out.reserve(segment.head().len() + segment.body().len());
                    out.put_slice(segment.head());
                    out.put_slice(segment.body());
                }
            }
        }
    }
}

/// What of `body` fits into one frame.
fn cut(mut body: Bytes) -> Bytes {
    body.truncate(MAX_CHUNK);
    body
}
