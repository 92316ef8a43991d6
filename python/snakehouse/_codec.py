"""Which codec a worker uses: the C one of the ``msgpack`` package if it is there, else our own.

Both give the same bytes and the same values. The C one is several times as fast; what it refuses is
encoded again by ours, which knows where the offending value is.

One difference remains: the C packer counts 511 levels of lists and dicts, and only tuples against
our limit. The host holds every value to the limit when it reads it.
"""

from __future__ import annotations

import importlib

from snakehouse import _msgpack
from snakehouse._errors import MalformedValue, UnsupportedValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# The C unpacker puts 40 KiB on the stack for each nested call, that is for each tuple in a tuple.
_MAX_NESTED_UNPACK = 16


class Codec:
    """A pair of functions and the name that the hello gives them."""

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
        raise TypeError

    def add_packer(buf_size: int) -> None:
        if len(packs) > _msgpack.MAX_DEPTH:
            raise ValueError("too deep")
        packs.append(packer_type(default=convert, strict_types=True, buf_size=buf_size).pack)

    add_packer(1 << 18)
    pack = packs[0]

    def encode(value: object) -> bytes:
        nonlocal level
        try:
            packed = pack(value)
        except (TypeError, ValueError, OverflowError, BufferError, RecursionError):
            level = 0
            return _msgpack.encode(value)
        if len(packed) > _msgpack.MAX_BYTES:
            raise UnsupportedValue(f"more than {_msgpack.MAX_BYTES} bytes", "$")
        return packed

    nested = 0

    def revive(kind: int, content: bytes) -> object:
        nonlocal nested
        if kind == _msgpack.EXT_TUPLE:
            if nested == _MAX_NESTED_UNPACK:
                value = _msgpack.decode(content)
            else:
                nested += 1
                try:
                    value = unpackb(content, ext_hook=revive, strict_map_key=False)
                finally:
                    nested -= 1
            if type(value) is list:
                return tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        if kind == _msgpack.EXT_BIG_INT and content:
            return int.from_bytes(content, "big", signed=True)
        raise MalformedValue(f"extension type {kind} is unknown or malformed")

    def decode(data: bytes | bytearray | memoryview) -> Any:
        try:
            return unpackb(data, ext_hook=revive, strict_map_key=False)
        except MalformedValue:
            raise
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise MalformedValue(f"bytes are not a value: {error}") from None

    return Codec("msgpack", encode, decode)
