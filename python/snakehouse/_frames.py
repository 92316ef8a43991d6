"""The frames, as bytes.

Layout: ``crates/wire/src/frame.rs`` and ``open.rs``. The golden vectors test both sides.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOCOL_VERSION = 1
MAX_CHUNK = 1 << 20
MAX_BODY = 256 << 20

HEAD = struct.Struct("<IBI")
# Tool, flags, deadline, session; the trace's 16 bytes behind them are not looked at.
OPEN = struct.Struct("<HHQQ")
OPEN_LENGTH = 36
MAX_PAYLOAD = MAX_CHUNK + OPEN_LENGTH
FLAG_MORE = 1
NEVER = 0xFFFFFFFFFFFFFFFF

KIND_HELLO, KIND_OPEN, KIND_DATA, KIND_LAST, KIND_ERROR = 1, 2, 3, 4, 5
KIND_CANCEL, KIND_CREDIT, KIND_PING, KIND_PONG, KIND_GOAWAY = 6, 7, 8, 9, 10


class ProtocolError(Exception):
    """The host broke the protocol. The connection is of no use after it."""


def frame(kind: int, stream: int, payload: bytes) -> bytes:
    """One whole frame."""
    return HEAD.pack(len(payload), kind, stream) + payload


def reply(stream: int, body: bytes) -> Iterator[tuple[bytes, bytes | memoryview]]:
    """The frames of a large reply, as heads and pieces."""
    pieces = memoryview(body)
    for at in range(0, max(len(body), 1), MAX_CHUNK):
        piece = pieces[at : at + MAX_CHUNK]
        kind = KIND_LAST if at + MAX_CHUNK >= len(body) else KIND_DATA
        yield HEAD.pack(len(piece), kind, stream), piece
