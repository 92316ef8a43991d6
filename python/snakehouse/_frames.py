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
# Tool, flags, deadline, session; behind them is where the call stands in its trace.
OPEN = struct.Struct("<HHQQ")
# Trace, parent span, trace flags, depth, two bytes of nothing: looked at only when asked for.
TRACE = struct.Struct("<16s8sBB2x")
TRACE_AT = OPEN.size
OPEN_LENGTH = TRACE_AT + TRACE.size
# Where in that the flags are, and the one that there is.
TRACE_FLAGS = 24
TRACE_SAMPLED = 1
# The head of a frame and that of a call in one.
OPENING = struct.Struct("<IBIHHQQ")
MAX_PAYLOAD = MAX_CHUNK + OPEN_LENGTH
FLAG_MORE = 1
FLAG_STREAM = 2
FLAG_NESTED = 4
NEVER = 0xFFFFFFFFFFFFFFFF

KIND_HELLO, KIND_OPEN, KIND_DATA, KIND_LAST, KIND_ERROR = 1, 2, 3, 4, 5
KIND_CANCEL, KIND_CREDIT, KIND_PING, KIND_PONG, KIND_GOAWAY = 6, 7, 8, 9, 10
KIND_ITEM, KIND_END, KIND_SETTINGS, KIND_SESSION, KIND_TELEMETRY = 11, 12, 13, 14, 15
# Of calls that the worker makes: the same with the top bit set.
KIND_CALLBACK_OPEN, KIND_CALLBACK_DATA, KIND_CALLBACK_LAST = 0x82, 0x83, 0x84
KIND_CALLBACK_ERROR, KIND_CALLBACK_CANCEL = 0x85, 0x86

CREDIT = struct.Struct("<I")
# What each side of a stream may send before the other takes anything. An item costs one, and one
# more for each full unit of its bytes; it may be sent as long as anything is left.
START_CREDIT = 64
CREDIT_UNIT = 16384

# How long (seconds) a host that broke the protocol is given to take the reason.
LAST_WORDS = 1.0


class ProtocolError(Exception):
    """The host broke the protocol. The connection is of no use after it."""


def frame(kind: int, stream: int, payload: bytes) -> bytes:
    """One whole frame."""
    return HEAD.pack(len(payload), kind, stream) + payload


def cost(length: int) -> int:
    """What an item of so many bytes costs its sender."""
    return 1 + length // CREDIT_UNIT


def in_pieces(
    stream: int, body: bytes, final: int = KIND_LAST
) -> Iterator[tuple[bytes, bytes | memoryview]]:
    """The frames of a large body, as heads and pieces; the last is of kind ``final``."""
    pieces = memoryview(body)
    for at in range(0, max(len(body), 1), MAX_CHUNK):
        piece = pieces[at : at + MAX_CHUNK]
        kind = final if at + MAX_CHUNK >= len(body) else KIND_DATA
        yield HEAD.pack(len(piece), kind, stream), piece
