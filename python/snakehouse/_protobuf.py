"""As much of protobuf's wire format as the front door's messages need: varints and bytes.

The messages are few and stand in ``crates/grpc/proto/snakehouse/v1/pool.proto``; a client that
reads and writes them by hand needs neither a compiler nor a library. What is unknown is skipped.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Malformed(ValueError):
    """Bytes that are no message."""


def varint(number: int) -> bytes:
    """An unsigned number."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def flag(number: int, value: bool) -> bytes:
    """A field of truth; absent is false."""
    return varint(number << 3 | _VARINT) + b"\1" if value else b""


def field(number: int, content: bytes) -> bytes:
    """A field of bytes, text or a message."""
    return varint(number << 3 | _BYTES) + varint(len(content)) + content


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message by number, in order: numbers, and bytes for everything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise Malformed(f"a field of wire type {kind}")
        if at + length > len(data):
            raise Malformed("a field that is longer than its message")
        yield number, data[at : at + length]
        at += length


def text(value: int | bytes) -> str:
    """The text of a field."""
    return value.decode() if isinstance(value, bytes) else ""


def message(value: int | bytes) -> bytes:
    """The message of a field."""
    return value if isinstance(value, bytes) else b""


def number(value: int | bytes) -> int:
    """The number of a field."""
    return value if isinstance(value, int) else 0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise Malformed("a number without an end")
