//! Large bytes beside the socket.
//!
//! Two ways, for two directions (ADR 0011):
//!
//! * **Shared**, host to worker: a [`SharedBuffer`] is written once into a sealed memfd. Calls name
//!   it by number; a worker gets its descriptor once, maps it, and its tools read the pages
//!   themselves.
//! * **Lent**, worker to host: a worker puts a large result into a slot of its *ring* and names the
//!   slot. The host reads it out and gives the slot back, both when the answer arrives: no lease
//!   outlives its call.
//!
//! Descriptors travel on a socket of their own (`SNAKEHOUSE_BUFFER_FD`, sequenced packets), before
//! the first frame that needs them. Whoever has no such socket, or no slot free, sends its bytes
//! inline: everything still works, slower. Rust reads and writes with positional I/O, so nothing
//! here is mapped and a worker that shortens its file is an error and no signal.
//!
//! # Packets
//!
//! All integers little-endian. Host to worker: `1, u64 number, u64 length` with a descriptor is a
//! shared buffer; `2, u64 number` says that it is not needed any more. Worker to host: `3, u32
//! slots, u32 bytes of each` with a descriptor is the ring, once.
//!
//! # The ring
//!
//! A page, then the slots, all of one size. Word `i` (u32) from byte 64 of the page is 1 while slot
//! `i` is lent: the worker sets it, the host clears it.
//!
//! # A body with attachments
//!
//! | bytes | |
//! |---|---|
//! | `c1 01` | lent: `u8 count`, then for each `u32 slot, u32 offset, u64 length`, then the value |
//! | `c1 02` | carried: `u8 count`, then for each `u64 length`, the value, the attachments |
//!
//! No value begins with `c1`. The value names an attachment by extension type 15: `u8 index, u8
//! form`, and what comes before the data in the extension type whose code the form is (0 is
//! `bytes`). A host turns the first kind into the second, which [`Value::decode`] reads.
//!
//! [`Value::decode`]: crate::Value::decode

mod attachments;
mod ring;
mod shared;

pub(crate) use attachments::split;
pub use attachments::{Attached, is_carried, is_lent};
pub use ring::{HostRing, RingError};
pub use shared::{SHARED_PACKET, SharedBuffer, SharedWatch, forget_packet};
