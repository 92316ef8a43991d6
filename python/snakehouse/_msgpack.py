"""Typed values as MessagePack, in pure Python.

Plain MessagePack, the shortest form of everything, floats always as 64 bits, and extension types:
1 is an integer outside of -2**63 .. 2**64-1 (two's complement, big-endian, shortest), 2 to 4 are
tuple, set and frozenset (their items as a MessagePack array, those of sets sorted by their bytes),
the others are in ``_extensions``. Exact or refused: a subclass of a built-in type is not that type.
Keep it equal to ``crates/wire/src/value/codec.rs``; the golden vectors test both.
"""

from __future__ import annotations

import struct

from snakehouse import _extensions
from snakehouse._errors import MalformedValue, UnsupportedValue
from snakehouse._extensions import Refused
from snakehouse._limits import MAX_BYTES, MAX_DEPTH, MAX_ITEMS, has_too_many, survey
from snakehouse._marks import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    # What makes an extension of a value.
    Extend = Callable[[Any], tuple[int, bytes]]

EXT_BIG_INT = 1
EXT_TUPLE = 2
EXT_SET = 3
EXT_FROZENSET = 4

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_F32 = struct.Struct(">f")
_F64 = struct.Struct(">d")
_M8 = struct.Struct(">BB")
_M16 = struct.Struct(">BH")
_M32 = struct.Struct(">BI")
_M64 = struct.Struct(">BQ")
_S8 = struct.Struct(">Bb")
_S16 = struct.Struct(">Bh")
_S32 = struct.Struct(">Bi")
_S64 = struct.Struct(">Bq")
_MF64 = struct.Struct(">Bd")
_FIXEXT = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}


def encode(value: object, extend: Extend = _extensions.pack) -> bytes:
    """The bytes of a value.

    ``extend`` makes the extensions of what holds no other values.

    Raises ``UnsupportedValue``, which names the type and the place of what cannot travel.
    """
    out = bytearray()
    try:
        _put(value, out, 1, extend)
    except Refused as refused:
        raise UnsupportedValue(str(refused), "$" + "".join(reversed(refused.steps))) from None
    except RecursionError:
        raise UnsupportedValue("value is nested too deep for this stack", "$") from None
    if has_too_many(value, len(out)):
        raise UnsupportedValue(f"more than {MAX_ITEMS} items", "$")
    return bytes(out)


def travels(value: object) -> bool:
    """Whether a value that holds no others travels."""
    try:
        _put(value, bytearray(), 1, _extensions.pack)
    except Refused:
        return False
    return True


def _put(value: Any, out: bytearray, depth: int, extend: Extend) -> None:
    if depth > MAX_DEPTH:
        raise Refused(f"more than {MAX_DEPTH} levels of nesting")
    kind: type = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is str:
        try:
            raw = value.encode()
        except UnicodeEncodeError:
            raise Refused("a str with a lone surrogate cannot travel") from None
        _put_length(out, len(raw), 0xA0, 32, 0xD9, 0xDA, 0xDB)
        out += raw
    elif kind is int:
        _put_int(value, out)
    elif kind is float:
        out += _MF64.pack(0xCB, value)
    elif value is None:
        out.append(0xC0)
    elif kind is bool:
        out.append(0xC3 if value else 0xC2)
    elif kind is list:
        _put_array(value, out, depth, extend)
    elif kind is dict:
        _put_length(out, len(value), 0x80, 16, 0, 0xDE, 0xDF)
        for key, item in value.items():
            try:
                _put(key, out, depth + 1, extend)
            except Refused as refused:
                refused.steps.append(f".key({_shown(key)})")
                raise
            try:
                _put(item, out, depth + 1, extend)
            except Refused as refused:
                refused.steps.append(f"[{_shown(key)}]")
                raise
    elif kind is tuple:
        inner = bytearray()
        _put_array(value, inner, depth, extend)
        _put_ext(out, EXT_TUPLE, inner)
    elif kind is bytes:
        _put_length(out, len(value), 0, 0, 0xC4, 0xC5, 0xC6)
        out += value
    elif kind is memoryview:
        if value.format != "B" or value.ndim != 1 or not value.c_contiguous:
            raise Refused("a memoryview that is not a plain row of bytes cannot travel")
        _put_length(out, value.nbytes, 0, 0, 0xC4, 0xC5, 0xC6)
        out += value
    elif kind is set or kind is frozenset:
        _put_set(value, out, depth, extend)
    else:
        _put_ext(out, *extend(value))
    if len(out) > MAX_BYTES:
        raise Refused(f"more than {MAX_BYTES} bytes")


def _put_array(
    items: list[Any] | tuple[Any, ...], out: bytearray, depth: int, extend: Extend
) -> None:
    _put_length(out, len(items), 0x90, 16, 0, 0xDC, 0xDD)
    index = 0
    try:
        for item in items:
            _put(item, out, depth + 1, extend)
            index += 1
    except Refused as refused:
        refused.steps.append(f"[{index}]")
        raise


def _put_set(items: set[Any] | frozenset[Any], out: bytearray, depth: int, extend: Extend) -> None:
    parts: list[bytearray] = []
    for item in items:
        part = bytearray()
        try:
            _put(item, part, depth + 1, extend)
        except Refused as refused:
            refused.steps.append(f".item({_shown(item)})")
            raise
        parts.append(part)
    inner = join_sorted(parts)
    _put_ext(out, EXT_SET if type(items) is set else EXT_FROZENSET, inner)  # pyright: ignore[reportUnknownArgumentType]


def join_sorted(parts: list[bytearray] | list[bytes]) -> bytearray:
    """The array of these items in the order in which a set travels."""
    out = bytearray()
    _put_length(out, len(parts), 0x90, 16, 0, 0xDC, 0xDD)
    parts.sort()  # pyright: ignore[reportCallIssue]
    return out + b"".join(parts)


def _put_int(value: int, out: bytearray) -> None:
    if value >= 0:
        if value < 0x80:
            out.append(value)
        elif value < 0x100:
            out += _M8.pack(0xCC, value)
        elif value < 0x10000:
            out += _M16.pack(0xCD, value)
        elif value < 0x100000000:
            out += _M32.pack(0xCE, value)
        elif value < 0x10000000000000000:
            out += _M64.pack(0xCF, value)
        else:
            _put_ext(out, EXT_BIG_INT, big_int_bytes(value))
    elif value >= -32:
        out.append(value & 0xFF)
    elif value >= -0x80:
        out += _S8.pack(0xD0, value)
    elif value >= -0x8000:
        out += _S16.pack(0xD1, value)
    elif value >= -0x80000000:
        out += _S32.pack(0xD2, value)
    elif value >= -0x8000000000000000:
        out += _S64.pack(0xD3, value)
    else:
        _put_ext(out, EXT_BIG_INT, big_int_bytes(value))


def big_int_bytes(value: int) -> bytes:
    """Two's complement, big-endian, as few bytes as possible."""
    bits = value.bit_length() if value >= 0 else (value + 1).bit_length()
    return value.to_bytes(bits // 8 + 1, "big", signed=True)


def _put_length(
    out: bytearray, length: int, fix: int, limit: int, one: int, two: int, four: int
) -> None:
    if length < limit:
        out.append(fix | length)
    elif one and length < 0x100:
        out += _M8.pack(one, length)
    elif length < 0x10000:
        out += _M16.pack(two, length)
    elif length <= MAX_BYTES:
        out += _M32.pack(four, length)
    else:
        raise Refused(f"more than {MAX_BYTES} bytes")


def _put_ext(out: bytearray, kind: int, content: bytes | bytearray) -> None:
    fixed = _FIXEXT.get(len(content))
    if fixed:
        out.append(fixed)
    else:
        _put_length(out, len(content), 0, 0, 0xC7, 0xC8, 0xC9)
    out.append(kind)
    out += content


def _shown(key: object) -> str:
    """A dict key in a path. Only what is safe to show: a key of any other class is its type."""
    if type(key) in (str, int, float, bool, bytes, type(None)):
        text = repr(key)
        return text if len(text) <= 40 else text[:37] + "..."
    return f"<{name_of(type(key))}>"


def decode(data: bytes | bytearray | memoryview) -> Any:
    """The value of these bytes, all of them.

    Raises ``MalformedValue``.
    """
    view = memoryview(data)
    if len(view) > MAX_BYTES:
        raise MalformedValue(f"more than {MAX_BYTES} bytes")
    try:
        if len(view) > MAX_ITEMS:
            survey(view)
        value, end = _get(view, 0, 1)
    except (IndexError, struct.error):
        raise MalformedValue("bytes end within a value") from None
    except UnicodeDecodeError:
        raise MalformedValue("a string is not UTF-8") from None
    except RecursionError:
        raise MalformedValue("value is nested too deep for this stack") from None
    if end != len(view):
        raise MalformedValue(f"{len(view) - end} bytes follow the value")
    return value


def _get(view: memoryview, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise MalformedValue(f"more than {MAX_DEPTH} levels of nesting")
    marker = view[at]
    if marker < 0x80:
        return marker, at + 1
    if marker >= 0xE0:
        return marker - 0x100, at + 1
    at += 1
    if marker < 0x90:
        return _get_dict(view, at, marker & 0x0F, depth)
    if marker < 0xA0:
        return _get_list(view, at, marker & 0x0F, depth)
    if marker < 0xC0:
        return _get_str(view, at, marker & 0x1F, depth)
    entry = _LENGTHS.get(marker)
    if entry is not None:
        width, take = entry
        if width == 1:
            return take(view, at + 1, view[at], depth)
        if width == 2:
            return take(view, at + 2, _U16.unpack_from(view, at)[0], depth)
        return take(view, at + 4, _U32.unpack_from(view, at)[0], depth)
    if marker == 0xCA:
        return _widened(_U32.unpack_from(view, at)[0]), at + 4
    number = _NUMBERS.get(marker)
    if number is not None:
        return number.unpack_from(view, at)[0], at + number.size
    if 0xD4 <= marker <= 0xD8:
        return _get_ext(view, at, 1 << (marker - 0xD4), depth)
    if marker == 0xC0:
        return None, at
    if marker == 0xC1:
        raise MalformedValue("no value begins with byte 0xc1")
    return marker == 0xC3, at


def _widened(bits: int) -> float:
    """A 32-bit float as one of 64. Processors make a NaN quiet here; this does it everywhere."""
    if bits & 0x7F800000 == 0x7F800000 and bits & 0x007FFFFF:
        wide = (bits >> 31) << 63 | 0x7FF8000000000000 | (bits & 0x007FFFFF) << 29
        return _F64.unpack(wide.to_bytes(8, "big"))[0]
    return _F32.unpack(_U32.pack(bits))[0]


def _slice(view: memoryview, at: int, length: int) -> memoryview:
    end = at + length
    if end > len(view):
        raise IndexError
    return view[at:end]


def _get_str(view: memoryview, at: int, length: int, _depth: int) -> tuple[str, int]:
    return str(_slice(view, at, length), "utf-8"), at + length


def _get_bytes(view: memoryview, at: int, length: int, _depth: int) -> tuple[bytes, int]:
    return bytes(_slice(view, at, length)), at + length


def _get_list(view: memoryview, at: int, length: int, depth: int) -> tuple[list[Any], int]:
    if length > len(view) - at:
        raise IndexError
    items: list[Any] = []
    for _ in range(length):
        item, at = _get(view, at, depth + 1)
        items.append(item)
    return items, at


def _get_dict(view: memoryview, at: int, length: int, depth: int) -> tuple[dict[Any, Any], int]:
    if length > len(view) - at:
        raise IndexError
    items: dict[Any, Any] = {}
    for _ in range(length):
        key, at = _get(view, at, depth + 1)
        item, at = _get(view, at, depth + 1)
        try:
            items[key] = item
        except TypeError:
            raise MalformedValue(f"a {type(key).__name__} cannot be a dict key") from None
    if len(items) != length:
        raise MalformedValue("a dict has a key twice")
    return items, at


def _get_ext(view: memoryview, at: int, length: int, depth: int) -> tuple[Any, int]:
    kind = view[at]
    content = _slice(view, at + 1, length)
    end = at + 1 + length
    if kind == EXT_BIG_INT and length:
        return int.from_bytes(content, "big", signed=True), end
    if EXT_TUPLE <= kind <= EXT_FROZENSET and length:
        value, stop = _get(content, 0, depth)
        if type(value) is list and stop == length:
            return container(kind, value), end  # pyright: ignore[reportUnknownArgumentType]
    if EXT_BIG_INT <= kind <= EXT_FROZENSET:
        raise MalformedValue(f"extension type {kind} has malformed content")
    return _extensions.unpack(kind, bytes(content)), end


def container(kind: int, items: list[Any]) -> Any:
    """The tuple, set or frozenset of these items.

    Raises ``MalformedValue``.
    """
    if kind == EXT_TUPLE:
        return tuple(items)
    try:
        found = set(items) if kind == EXT_SET else frozenset(items)
    except TypeError:
        raise MalformedValue("an item of a set cannot be hashed") from None
    if len(found) != len(items):
        raise MalformedValue("a set has an item twice")
    return found


_LENGTHS: dict[int, tuple[int, Callable[[memoryview, int, int, int], tuple[Any, int]]]] = {
    0xC4: (1, _get_bytes),
    0xC5: (2, _get_bytes),
    0xC6: (4, _get_bytes),
    0xC7: (1, _get_ext),
    0xC8: (2, _get_ext),
    0xC9: (4, _get_ext),
    0xD9: (1, _get_str),
    0xDA: (2, _get_str),
    0xDB: (4, _get_str),
    0xDC: (2, _get_list),
    0xDD: (4, _get_list),
    0xDE: (2, _get_dict),
    0xDF: (4, _get_dict),
}
_NUMBERS: dict[int, struct.Struct] = {
    0xCB: _F64,
    0xCC: struct.Struct(">B"),
    0xCD: _U16,
    0xCE: _U32,
    0xCF: struct.Struct(">Q"),
    0xD0: struct.Struct(">b"),
    0xD1: struct.Struct(">h"),
    0xD2: struct.Struct(">i"),
    0xD3: struct.Struct(">q"),
}
