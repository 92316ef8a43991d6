//! One frame on the control socket: its bytes, and a decoder that does not copy bodies.
//!
//! Every frame is a 9-byte head and a payload:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | payload length, u32 little-endian, at most [`MAX_PAYLOAD`] |
//! | 4 | 1 | [`FrameKind`] |
//! | 5 | 4 | stream id, u32 little-endian; 0 is the connection itself |
//! | 9 | n | payload |
//!
//! The host numbers streams upwards from 1 in the order in which it sends them (after `u32::MAX`
//! comes 1 again) and never reuses the number of a call that still has no answer.
//!
//! A frame that breaks a rule ends the connection: there is no way to find the next frame after
//! it. The decoder allocates nothing before a length has been checked.

use bytes::{BufMut, Bytes, BytesMut};
use snakehouse_base::{Coded, Kind};

use crate::open::OpenHead;

/// Version of everything in this crate that travels. A hello with another number is refused.
pub const PROTOCOL_VERSION: u32 = 1;

/// Bytes of the head in front of every payload.
pub const HEAD_LEN: usize = 9;

/// Most bytes of a body in one frame. Longer bodies travel in pieces.
pub const MAX_CHUNK: usize = 1 << 20;

/// Most bytes of a payload: a chunk behind the fixed head of an open frame.
pub const MAX_PAYLOAD: usize = MAX_CHUNK + OpenHead::LEN;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// 1, worker to host, stream 0, once and first: a [`Hello`](crate::Hello) map.
    Hello = 1,
    /// 2, host to worker: a call begins. [`OpenHead`], then the body or its first piece.
    Open = 2,
    /// 3, both ways: a piece of a body or of an item, and more follows.
    Data = 3,
    /// 4, both ways: the last piece of a body. From the worker: the reply is complete, which ends
    /// the stream.
    Last = 4,
    /// 5, worker to host: the call failed; a [`Failure`](crate::Failure) map. Ends the stream.
    Error = 5,
    /// 6, host to worker, empty: the caller no longer wants this call. It is answered all the same.
    Cancel = 6,
    /// 7, both ways: u32 little-endian, so many more credits for the stream's items; see
    /// [`credit`](crate::credit).
    Credit = 7,
    /// 8, both ways, stream 0: u64 little-endian token, to be returned.
    Ping = 8,
    /// 9, both ways, stream 0: the token of a ping.
    Pong = 9,
    /// 10, both ways, stream 0: no new calls after this; the reason as UTF-8. A worker that gets
    /// it answers what it has and exits with status 0.
    Goaway = 10,
    /// 11, both ways: a whole item of a stream, or the last piece of one after data frames.
    Item = 11,
    /// 12, host to worker, empty: the host sends no more items on this stream.
    End = 12,
    /// 13, host to worker, stream 0: what the worker should know beside its calls; a map whose keys
    /// each replace what was said before.
    Settings = 13,
    /// 14, host to worker, stream 0: what becomes of a session; a [`SessionEvent`](crate::SessionEvent)
    /// map.
    Session = 14,
    /// 15, worker to host, stream 0: spans and events of its calls; a list of maps.
    Telemetry = 15,
    /// 0x82, worker to host: a callback begins, in the worker's own numbers, which are those of all
    /// frames of this kind. [`OpenHead`], then the body or its first piece.
    CallbackOpen = 0x82,
    /// 0x83, both ways: a piece of a callback's body or of its answer, and more follows.
    CallbackData = 0x83,
    /// 0x84, both ways: the last piece. From the host: the answer is complete, which ends the callback.
    CallbackLast = 0x84,
    /// 0x85, host to worker: the callback failed; a [`Failure`](crate::Failure) map. Ends it.
    CallbackError = 0x85,
    /// 0x86, worker to host, empty: nobody waits for this callback any more. It is answered all the
    /// same.
    CallbackCancel = 0x86,
}

impl FrameKind {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::Open,
            3 => Self::Data,
            4 => Self::Last,
            5 => Self::Error,
            6 => Self::Cancel,
            7 => Self::Credit,
            8 => Self::Ping,
            9 => Self::Pong,
            10 => Self::Goaway,
            11 => Self::Item,
            12 => Self::End,
            13 => Self::Settings,
            14 => Self::Session,
            15 => Self::Telemetry,
            0x82 => Self::CallbackOpen,
            0x83 => Self::CallbackData,
            0x84 => Self::CallbackLast,
            0x85 => Self::CallbackError,
            0x86 => Self::CallbackCancel,
            _ => return None,
        })
    }

    /// Whether such frames belong to the connection and carry stream 0.
    const fn is_for_connection(self) -> bool {
        matches!(
            self,
            Self::Hello
                | Self::Ping
                | Self::Pong
                | Self::Goaway
                | Self::Settings
                | Self::Session
                | Self::Telemetry
        )
    }
}

/// A frame that breaks the protocol. The connection is of no use after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length field is over the cap.
    #[error("frame of {len} bytes is over the cap of {MAX_PAYLOAD}")]
    Oversized {
        /// What the length field says.
        len: usize,
    },
    /// No such kind.
    #[error("frame kind {0} is unknown")]
    UnknownKind(u8),
    /// A call on stream 0, or a connection frame on another one.
    #[error("{kind:?} frame on stream {stream}")]
    WrongStream {
        /// The frame's kind.
        kind: FrameKind,
        /// The frame's stream.
        stream: u32,
    },
    /// The payload of a frame with fixed content has the wrong size or content.
    #[error("{kind:?} frame has a malformed payload of {len} bytes")]
    BadPayload {
        /// The frame's kind.
        kind: FrameKind,
        /// Its length.
        len: usize,
    },
    /// Bytes that must be whole frames are not.
    #[error("the bytes end within a frame")]
    Truncated,
    /// A piece of a body for which no body is open, or an open frame for a body that is.
    #[error("{kind:?} frame does not fit the state of stream {stream}")]
    OutOfPlace {
        /// The frame's kind.
        kind: FrameKind,
        /// The frame's stream.
        stream: u32,
    },
    /// More items than the stream had credits for.
    #[error("an item on stream {stream} for which there was no credit")]
    OverSent {
        /// The stream.
        stream: u32,
    },
    /// The pieces of unfinished bodies together are over the cap of the assembler.
    #[error("bodies in flight are over the cap of {cap} bytes")]
    BodyTooLarge {
        /// The stream that went over it.
        stream: u32,
        /// The cap.
        cap: usize,
    },
    /// The body of a callback, or of its answer, did not fit under that cap.
    #[error("the body of callback {callback} is over the cap of {cap} bytes")]
    CallbackTooLarge {
        /// The callback's number.
        callback: u32,
        /// The cap.
        cap: usize,
    },
    /// An item of a stream did not fit under that cap.
    #[error("an item on stream {stream} is over the cap of {cap} bytes")]
    ItemTooLarge {
        /// The stream that went over it.
        stream: u32,
        /// The cap.
        cap: usize,
    },
}

impl Coded for FrameError {
    fn kind(&self) -> Kind {
        match self {
            Self::BodyTooLarge { .. }
            | Self::CallbackTooLarge { .. }
            | Self::ItemTooLarge { .. } => Kind::InvalidInput,
            _ => Kind::Corrupt,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Oversized { .. } => "frame_oversized",
            Self::UnknownKind(_) => "frame_unknown_kind",
            Self::WrongStream { .. } => "frame_wrong_stream",
            Self::BadPayload { .. } => "frame_bad_payload",
            Self::Truncated => "frame_truncated",
            Self::OutOfPlace { .. } => "frame_out_of_place",
            Self::OverSent { .. } => "frame_over_sent",
            Self::BodyTooLarge { .. } | Self::CallbackTooLarge { .. } => "body_too_large",
            Self::ItemTooLarge { .. } => "item_too_large",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BodyTooLarge { .. } | Self::CallbackTooLarge { .. } => {
                "send less in one call, or raise the cap".to_owned()
            }
            Self::ItemTooLarge { .. } => "send it as several items, or raise the cap".to_owned(),
            _ => "the peer is not a Snakehouse worker of this version, or something else wrote to \
                  its control socket"
                .to_owned(),
        })
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it says.
    pub kind: FrameKind,
    /// The stream it belongs to; 0 is the connection.
    pub stream: u32,
    /// What follows the head. A slice of the read buffer, not a copy.
    pub payload: Bytes,
}

impl Frame {
    /// Takes the next complete frame off the front of `buf`; `None` if more bytes are needed.
    ///
    /// Splits the buffer and never copies the payload. When a frame is incomplete, room for the
    /// rest of it is reserved, so that a reader fills one allocation.
    ///
    /// # Errors
    /// [`FrameError`] if the head breaks a rule. Nothing is consumed then.
    pub fn decode(buf: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(&[a, b, c, d, kind, e, f, g, h]) = buf.first_chunk::<HEAD_LEN>() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let stream = u32::from_le_bytes([e, f, g, h]);
        if len > MAX_PAYLOAD {
            return Err(FrameError::Oversized { len });
        }
        let kind = FrameKind::from_byte(kind).ok_or(FrameError::UnknownKind(kind))?;
        if kind.is_for_connection() != (stream == 0) {
            return Err(FrameError::WrongStream { kind, stream });
        }
        let missing = Self::missing(buf);
        if missing > 0 {
            buf.reserve(missing);
            return Ok(None);
        }
        let mut whole = buf.split_to(HEAD_LEN + len).freeze();
        let payload = whole.split_off(HEAD_LEN);
        Ok(Some(Self { kind, stream, payload }))
    }

    /// How many bytes the first frame still needs; 0 if it is whole, and if it is not known because
    /// its head is not whole or not allowed.
    pub fn missing(buf: &[u8]) -> usize {
        let Some(&[a, b, c, d, ..]) = buf.first_chunk::<HEAD_LEN>() else { return 0 };
        match usize::try_from(u32::from_le_bytes([a, b, c, d])) {
            Ok(len @ 0..=MAX_PAYLOAD) => (HEAD_LEN + len).saturating_sub(buf.len()),
            _ => 0,
        }
    }
}

/// The head of a frame.
///
/// `len` is at most [`MAX_PAYLOAD`]; callers in this crate cut bodies before they come here.
pub(crate) fn head(kind: FrameKind, stream: u32, len: usize) -> [u8; HEAD_LEN] {
    debug_assert!(len <= MAX_PAYLOAD);
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    let [e, f, g, h] = stream.to_le_bytes();
    [a, b, c, d, kind as u8, e, f, g, h]
}

/// Appends a whole frame.
pub(crate) fn put(out: &mut BytesMut, kind: FrameKind, stream: u32, payload: &[u8]) {
    out.reserve(HEAD_LEN + payload.len());
    out.put_slice(&head(kind, stream, payload.len()));
    out.put_slice(payload);
}
