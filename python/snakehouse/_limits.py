"""Limits of a value that hold for every codec and on both sides of the wire.

The pure codec counts levels as it goes. The C codec has limits of its own, which are wider, and
takes a ``bytearray`` for ``bytes``; so what it has read or written is looked at afterwards, if it
can be in question at all. What a decoder could build too much of is surveyed before it is built.
"""

from __future__ import annotations

from snakehouse._errors import MalformedValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_DEPTH = 128
MAX_BYTES = 256 << 20
MAX_ITEMS = 1 << 24

_SCALARS = frozenset((type(None), bool, int, float, str, bytes))
_CONTAINERS = frozenset((list, tuple, dict, set, frozenset))
_AMBIGUOUS = frozenset((bytearray, memoryview))
_NONE: frozenset[type] = frozenset()
# Every byte that begins a container in MessagePack, or an extension that may hold one.
_OPENINGS = bytes(
    [*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF, 0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8]
)
# The bytes of what begins with a byte and holds no other values, if that alone tells them.
_SIZES = [1] * 256
_SIZES[0x80:0xA0] = [0] * 0x20
_SIZES[0xA0:0xC0] = range(1, 0x21)
_SIZES[0xC1] = 0
_SIZES[0xC4:0xCA] = [0] * 6
_SIZES[0xCA:0xD4] = [5, 9, 2, 3, 5, 9, 2, 3, 5, 9]
_SIZES[0xD4:0xE0] = [0] * 12
# How wide the length is that follows these bytes.
_WIDTHS = {
    **dict(zip(range(0xC4, 0xCA), (1, 2, 4, 1, 2, 4), strict=True)),
    0xD9: 1,
    0xDA: 2,
    0xDB: 4,
    0xDC: 2,
    0xDD: 4,
    0xDE: 2,
    0xDF: 4,
}
# Extensions that are an array: tuple, set, frozenset.
_ARRAYS = (2, 3, 4)
# In fewer bytes it is quicker to count openings than to walk through the value.
_COUNT_BELOW = 4096


def is_ours(value: Any, packed: bytes) -> bool:
    """Whether the C packer wrote of this value what ours would, and within the limits."""
    if type(value) in _SCALARS:
        fits = True
    elif 0xC4 in packed or 0xC5 in packed or 0xC6 in packed:
        fits = _check(value, MAX_DEPTH, _AMBIGUOUS)
    else:
        fits = not _may_be_deep(packed) or _check(value, MAX_DEPTH, _NONE)
    return fits and len(packed) <= MAX_BYTES and not has_too_many(value, len(packed))


def is_within(value: Any, data: bytes | bytearray | memoryview) -> bool:
    """Whether the value that these bytes are has few enough levels."""
    return _is_flat_call(value) or not _may_be_deep(data) or _check(value, MAX_DEPTH, _NONE)


def survey(data: bytes | bytearray | memoryview, patience: int = MAX_BYTES) -> int:
    """How many values these bytes say that there are, without building one.

    0 after so many steps without an end. That what comes behind the value is nothing, and much
    else, is left to the decoder: it builds no more than was counted here.

    Raises ``MalformedValue`` for more than ``MAX_ITEMS``, and for more than there are bytes for.
    """
    length, sizes = len(data), _SIZES
    at, total, left = 0, 0, 1
    try:
        while left:
            if total == patience:
                return 0
            marker = data[at]
            left -= 1
            total += 1
            if size := sizes[marker]:
                at += size
                continue
            at, more = _behind(data, at + 1, marker)
            if more:
                if more < 0:
                    # The array in an extension is the value.
                    total, more = total - 1, 1
                left += more
                if left > length - at:
                    break
                if total + left > MAX_ITEMS:
                    raise MalformedValue(f"more than {MAX_ITEMS} items")
    except IndexError:
        at = length + 1
    if left or at > length:
        raise MalformedValue("bytes end within a value")
    return total


def _behind(data: bytes | bytearray | memoryview, at: int, marker: int) -> tuple[int, int]:
    """Where a value ends whose first byte does not tell, and how many values it holds; -1: one."""
    if marker < 0x90:
        return at, 2 * (marker & 0x0F)
    if marker < 0xA0:
        return at, marker & 0x0F
    if width := _WIDTHS.get(marker):
        length = int.from_bytes(data[at : at + width], "big")
        at += width
    elif marker != 0xC1:
        length = 1 << (marker - 0xD4)
    else:
        raise MalformedValue("no value begins with byte 0xc1")
    if 0xDC <= marker <= 0xDF:
        return at, length if marker < 0xDE else 2 * length
    if 0xC7 <= marker <= 0xC9 or 0xD4 <= marker <= 0xD8:
        if data[at] in _ARRAYS:
            return at + 1, -1
        at += 1
    return at + length, 0


def _is_flat_call(call: Any) -> bool:
    """Whether it is ``[args, {}]`` with nothing in it that holds anything: quicker than a walk."""
    if type(call) is not list or list(map(type, call)) != [list, dict] or call[1]:  # pyright: ignore[reportUnknownArgumentType]
        return False
    return _SCALARS.issuperset(map(type, call[0]))  # pyright: ignore[reportUnknownArgumentType]


def has_too_many(value: Any, length: int) -> bool:
    """Whether a value of so many bytes has more than ``MAX_ITEMS`` values in it."""
    return length > MAX_ITEMS and count(value) > MAX_ITEMS


def _may_be_deep(data: bytes | bytearray | memoryview) -> bool:
    """Whether these bytes can hold more than ``MAX_DEPTH`` levels. May err towards true."""
    length = len(data)
    if length > _COUNT_BELOW:
        return True
    return length - len(bytes(data).translate(None, _OPENINGS)) >= MAX_DEPTH


def _check(value: Any, levels: int, without: frozenset[type]) -> bool:
    """Whether a value has at most so many levels and nothing of these types in it."""
    kind: type = type(value)  # pyright: ignore[reportUnknownVariableType]
    if levels <= 0 or kind in without:
        return False
    if kind not in _CONTAINERS:
        return True
    if kind is dict and not _check_all(value.values(), levels - 1, without):
        return False
    return _check_all(value, levels - 1, without)


def _check_all(items: Any, levels: int, without: frozenset[type]) -> bool:
    if _SCALARS.issuperset(map(type, items)):
        return levels > 0 or not items
    return all(type(item) in _SCALARS or _check(item, levels, without) for item in items)


def count(value: Any) -> int:
    """How many values there are in a value, itself included."""
    total = 0
    level = [value]
    while level:
        total += len(level)
        inner: list[Any] = []
        for item in level:
            kind: type = type(item)  # pyright: ignore[reportUnknownVariableType]
            if kind is dict:
                inner += item
                inner += item.values()
            elif kind in _CONTAINERS:
                inner += item
        level = inner
    return total
