//! The fixed head of a call.
//!
//! A map with names costs 15–20 % of a small call in a Python worker; a fixed struct and a tool
//! number agreed in the hello cost nothing measurable (ADR 0002).

use bytes::Bytes;

use crate::frame::{FrameError, FrameKind};
use crate::trace::TraceContext;

/// What stands between the frame head and the body of an [`Open`](FrameKind::Open) frame, and of a
/// [`CallbackOpen`](FrameKind::CallbackOpen) frame.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 2 | tool number from the hello, u16 little-endian; of a callback, from the settings |
/// | 2 | 2 | flags, u16 little-endian: bit 0 [`MORE`](OpenHead::MORE), bit 1 [`STREAM`](OpenHead::STREAM), bit 2 [`NESTED`](OpenHead::NESTED), others 0 |
/// | 4 | 8 | deadline: microseconds remaining at send, u64 little-endian, all ones = never |
/// | 12 | 8 | session, u64 little-endian, 0 = none; of a callback, the host's call that it is made in |
/// | 20 | 16 | trace id, 0 = none |
/// | 36 | 8 | parent span id, in the order of `traceparent`, 0 = none |
/// | 44 | 1 | trace flags: bit 0 sampled; others are 0 and not looked at |
/// | 45 | 1 | depth: through how many callbacks the call came |
/// | 46 | 2 | 0, not looked at |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenHead {
    /// The tool's number from the hello.
    pub tool: u16,
    /// What [`Deadline::to_wire`](snakehouse_base::Deadline::to_wire) gives.
    pub deadline_micros: u64,
    /// The session the call belongs to; 0 is none.
    pub session: u64,
    /// The trace that the call belongs to, and the span that it is a child of.
    pub trace: TraceContext,
    /// Through how many callbacks it came: 0 for a call that no tool asked for.
    pub depth: u8,
    /// Whether items may travel before the call's result, both ways.
    pub is_stream: bool,
    /// Whether it comes out of a callback that this worker is waiting for.
    pub is_nested: bool,
}

impl OpenHead {
    /// Bytes of the head.
    pub const LEN: usize = 48;
    /// Flag bit 0: the body goes on in data frames and ends with a last frame. Without it the
    /// open frame has the whole body.
    pub const MORE: u16 = 1;
    /// Flag bit 1: this call is a stream. A generator needs it; any other tool may have it, and
    /// then reads the host's items if it likes and answers with its result.
    pub const STREAM: u16 = 2;
    /// Flag bit 2: the worker runs this call now, in the middle of a call that waits for a callback,
    /// before it begins what was sent ahead. One that waits for none runs it as any other.
    pub const NESTED: u16 = 4;

    /// A head of a plain call without deadline, session and trace.
    pub const fn new(tool: u16) -> Self {
        Self {
            tool,
            deadline_micros: u64::MAX,
            session: 0,
            trace: TraceContext::NONE,
            depth: 0,
            is_stream: false,
            is_nested: false,
        }
    }

    pub(crate) fn encode(&self, more: bool) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0..2].copy_from_slice(&self.tool.to_le_bytes());
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags = flag(more, Self::MORE)
            | flag(self.is_stream, Self::STREAM)
            | flag(self.is_nested, Self::NESTED);
        out[2..4].copy_from_slice(&flags.to_le_bytes());
        out[4..12].copy_from_slice(&self.deadline_micros.to_le_bytes());
        out[12..20].copy_from_slice(&self.session.to_le_bytes());
        out[20..36].copy_from_slice(&self.trace.trace);
        out[36..44].copy_from_slice(&self.trace.span.to_be_bytes());
        out[44] = self.trace.flags();
        out[45] = self.depth;
        out
    }

    /// Reads the head off the front of `payload`; says also whether more of the body follows.
    pub(crate) fn decode(payload: &mut Bytes) -> Result<(Self, bool), FrameError> {
        let bad = FrameError::BadPayload { kind: FrameKind::Open, len: payload.len() };
        let (
            Some(fixed),
            Some(deadline),
            Some(session),
            Some(trace),
            Some(span),
            Some(&[flag, depth, _, _]),
        ) = (
            payload.first_chunk::<4>().copied(),
            payload.get(4..12).and_then(|b| b.try_into().ok()),
            payload.get(12..20).and_then(|b| b.try_into().ok()),
            payload.get(20..36).and_then(|b| b.try_into().ok()),
            payload.get(36..44).and_then(|b| b.try_into().ok()),
            payload.get(44..48),
        )
        else {
            return Err(bad);
        };
        let [a, b, c, d] = fixed;
        let flags = u16::from_le_bytes([c, d]);
        if flags & !(Self::MORE | Self::STREAM | Self::NESTED) != 0 {
            return Err(bad);
        }
        let head = Self {
            tool: u16::from_le_bytes([a, b]),
            deadline_micros: u64::from_le_bytes(deadline),
            session: u64::from_le_bytes(session),
            trace: TraceContext::from_wire(trace, span, flag),
            depth,
            is_stream: flags & Self::STREAM != 0,
            is_nested: flags & Self::NESTED != 0,
        };
        let _ = payload.split_to(Self::LEN);
        Ok((head, flags & Self::MORE != 0))
    }
}
