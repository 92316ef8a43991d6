"""Which codec a worker uses: the C one of the ``msgpack`` package if it is there, else our own.

Both give the same bytes and the same values. The C one is several times as fast; what it refuses is
encoded again by ours, which knows where the offending value is.

The C one has wider limits than ours and knows no ``bytearray``. What it wrote is therefore looked
at where that can matter: if it is long enough to be nested too deep, or has a byte that may begin
bytes. What it read is looked at only if it is long enough.

Two differences remain, for bytes that our encoders never write: of a key that a dict has twice the
C one keeps the last, and it makes a timestamp of its own of extension type -1.
"""

from __future__ import annotations

import importlib

from snakehouse import _extensions, _msgpack
from snakehouse._errors import MalformedValue
from snakehouse._limits import MAX_BYTES, MAX_DEPTH, is_ours, is_within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# The C unpacker puts 40 KiB on the stack for each nested call, that is for each tuple in a tuple.
_MAX_NESTED_UNPACK = 16


class Codec:
    """A pair of functions and the name that the hello gives them.

    They keep state while they work: threads need a codec each.
    """

    __slots__ = ("decode", "encode", "name")

    def __init__(
        self,
        name: str,
        encode: Callable[[object], bytes],
        decode: Callable[[bytes | bytearray | memoryview], Any],
    ) -> None:
        self.name = name
        self.encode = encode
        self.decode = decode


def choose() -> Codec:
    """The fastest codec that this interpreter has."""
    return _c_codec() or Codec("python", _msgpack.encode, _msgpack.decode)


def _c_codec() -> Codec | None:
    try:
        package = importlib.import_module("msgpack")
        compiled = importlib.import_module("msgpack._cmsgpack")
    except ImportError:
        return None
    if package.version < (1, 1, 0):
        return None
    return _make_c_codec(package.ExtType, compiled.Packer, compiled.unpackb)


def _make_c_codec(ext_type: Any, packer_type: Any, unpackb: Any) -> Codec:
    # One packer per level of tuples: a packer that is at work cannot be entered again.
    packs: list[Callable[[object], bytes]] = []
    level = 0

    def convert(value: object) -> object:
        nonlocal level
        if type(value) is tuple:
            level += 1
            if level == len(packs):
                add_packer(4096)
            packed = packs[level](list(value))  # pyright: ignore[reportUnknownArgumentType]
            level -= 1
            return ext_type(_msgpack.EXT_TUPLE, packed)
        if type(value) is int:
            return ext_type(_msgpack.EXT_BIG_INT, _msgpack.big_int_bytes(value))
        if type(value) is set or type(value) is frozenset:
            items: set[Any] = value  # pyright: ignore[reportAssignmentType, reportUnknownVariableType]
            level += 1
            if level == len(packs):
                add_packer(4096)
            packed = bytes(_msgpack.join_sorted([packs[level](item) for item in items]))
            level -= 1
            kind = _msgpack.EXT_SET if type(value) is set else _msgpack.EXT_FROZENSET  # pyright: ignore[reportUnknownArgumentType]
            return ext_type(kind, packed)
        return ext_type(*_extensions.pack(value))

    def add_packer(buf_size: int) -> None:
        if len(packs) > MAX_DEPTH:
            raise ValueError("too deep")
        packs.append(packer_type(default=convert, strict_types=True, buf_size=buf_size).pack)

    add_packer(1 << 18)
    pack = packs[0]

    def encode(value: object) -> bytes:
        nonlocal level
        try:
            packed = pack(value)
        except (
            _extensions.Refused,
            TypeError,
            ValueError,
            OverflowError,
            BufferError,
            RecursionError,
        ):
            level = 0
            return _msgpack.encode(value)
        except BaseException:
            level = 0
            raise
        if (
            len(packed) > MAX_DEPTH or 0xC4 in packed or 0xC5 in packed or 0xC6 in packed
        ) and not is_ours(value, packed):
            return _msgpack.encode(value)
        return packed

    nested = 0

    def revive(kind: int, content: bytes) -> object:
        nonlocal nested
        if _msgpack.EXT_TUPLE <= kind <= _msgpack.EXT_FROZENSET:
            if nested == _MAX_NESTED_UNPACK:
                value = _msgpack.decode(content)
            else:
                nested += 1
                try:
                    value = unpackb(content, ext_hook=revive, strict_map_key=False)
                finally:
                    nested -= 1
            if type(value) is list:
                return _msgpack.container(kind, value)  # pyright: ignore[reportUnknownArgumentType]
            raise MalformedValue(f"extension type {kind} has malformed content")
        if kind == _msgpack.EXT_BIG_INT and content:
            return int.from_bytes(content, "big", signed=True)
        return _extensions.unpack(kind, content)

    def decode(data: bytes | bytearray | memoryview) -> Any:
        length = len(data)
        if length > MAX_BYTES:
            raise MalformedValue(f"more than {MAX_BYTES} bytes")
        try:
            value = unpackb(data, ext_hook=revive, strict_map_key=False)
        except MalformedValue:
            raise
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise MalformedValue(f"bytes are not a value: {error}") from None
        if length > MAX_DEPTH and not is_within(value, data):
            # Ours says what is wrong.
            return _msgpack.decode(data)
        return value

    return Codec("msgpack", encode, decode)
