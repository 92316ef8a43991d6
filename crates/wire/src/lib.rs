//! What a host and its workers say to each other.
//!
//! Binary frames over one stream socket per worker (`frame`, `open`, `message`, `assembler`), the
//! hello that a worker begins with, failures as they travel, a page of shared memory beside the
//! socket ([`page`]), and typed [`Value`]s. Nothing here starts a process, opens a socket of its own
//! or knows a clock; the host's side of a connection is in `pool`, the Python worker in
//! `python/snakehouse`. ADR 0002 has the reasons and the numbers.
//!
//! # One call
//!
//! ```text
//! host                                    worker
//!   │  ◄─────────────── Hello ──────────────  │   once: version, tools and their numbers
//!   │  ── Open(stream 1, head, body) ──────►  │   page.started = 1, then the tool runs
//!   │  ◄──────── Last(stream 1, body) ──────  │   or Error(stream 1, failure)
//!   │  ── Open(stream 2, head+MORE, 1 MiB) ►  │   a body of more than 1 MiB ...
//!   │  ── Data(stream 2, 1 MiB) ───────────►  │
//!   │  ── Last(stream 2, the rest) ────────►  │   ... is complete here
//!   │  ── Cancel(stream 2) ────────────────►  │   and page.cancels, and SIGURG
//!   │  ◄──────── Error(stream 2) ───────────  │   every call is answered exactly once
//!   │  ── end of file ─────────────────────►  │   the worker exits with status 0
//! ```
//!
//! # One stream
//!
//! ```text
//! host                                    worker
//!   │  ── Open(stream 3, STREAM, body) ────►  │   a generator runs, or any other tool
//!   │  ◄──────── Item(stream 3, body) ──────  │   each costs credits, 64 at the beginning ...
//!   │  ── Credit(stream 3, 32) ────────────►  │   ... and more come as they are taken
//!   │  ── Item(stream 3, body) ────────────►  │   the other way the same, independently
//!   │  ◄──────── Credit(stream 3, 32) ──────  │
//!   │  ── End(stream 3) ───────────────────►  │   the host has no more to send
//!   │  ◄── Data, Data, Item(stream 3) ──────  │   an item of more than 1 MiB, in pieces
//!   │  ◄──────── Last(stream 3, body) ──────  │   the generator's return value; or Error
//! ```
//!
//! [`credit`] has the rules of credits. Items that cross with the answer are late: both sides drop
//! them. A cancelled stream is answered once, like any call.
//!
//! # Environment of a worker
//!
//! | variable | meaning |
//! |---|---|
//! | [`SNAKEHOUSE_FD`](FD_VARIABLE) | number of the inherited control socket; 0 (standard input) is the usual place |
//! | [`SNAKEHOUSE_PAGE_FD`](PAGE_FD_VARIABLE) | number of the inherited [`page`]; absent: no page |
//! | [`SNAKEHOUSE_BUFFER_FD`](BUFFER_FD_VARIABLE) | number of the inherited socket for descriptors of [`buffer`]s; absent: everything travels inline |
//! | [`SNAKEHOUSE_CAPACITY`](CAPACITY_VARIABLE) | how many calls the worker may run at once; absent: 1 |
//! | [`SNAKEHOUSE_MODE`](MODE_VARIABLE) | how it runs several: `threads` or `asyncio`; absent: one at a time |
//!
//! Exit statuses of a worker: 0 end of file or goaway, 69 the hello said why it cannot serve, 76 the
//! host broke the protocol, 78 the environment above is wrong, anything else is the tool's doing.

mod assembler;
pub mod buffer;
pub mod credit;
mod cut;
mod failure;
#[cfg(feature = "fake")]
pub mod fake;
mod frame;
mod hello;
mod message;
mod open;
pub mod page;
mod session_event;
mod trace;
pub mod value;
pub mod worker;

pub use assembler::Assembler;
pub use cut::{FrameHead, MAX_FRAMES, frame_heads, whole_frames};
pub use failure::{Failure, Related, TraceFrame};
pub use frame::{Frame, FrameError, FrameKind, HEAD_LEN, MAX_CHUNK, MAX_PAYLOAD, PROTOCOL_VERSION};
pub use hello::{Hello, HelloError, ToolInfo, ToolKind};
pub use message::{Message, Segment, Segments};
pub use open::OpenHead;
pub use session_event::SessionEvent;
pub use trace::{TraceContext, TraceparentError};
pub use value::{
    Array, Arrow, ArrowKind, ConvertError, Date, DateTime, Element, Int, Order, Reference, Shared,
    Time, TimeDelta, Unsupported, UtcOffset, Value, ValueError,
};

/// Environment variable with the number of the control socket's descriptor.
pub const FD_VARIABLE: &str = "SNAKEHOUSE_FD";
/// Environment variable with the number of the descriptor of the socket for buffers.
pub const BUFFER_FD_VARIABLE: &str = "SNAKEHOUSE_BUFFER_FD";
/// Environment variable with the number of the shared page's descriptor.
pub const PAGE_FD_VARIABLE: &str = "SNAKEHOUSE_PAGE_FD";
/// Environment variable with the number of calls that the worker may run at once.
pub const CAPACITY_VARIABLE: &str = "SNAKEHOUSE_CAPACITY";
/// Environment variable that says how a worker runs several calls at once: `threads`, `asyncio`.
pub const MODE_VARIABLE: &str = "SNAKEHOUSE_MODE";
