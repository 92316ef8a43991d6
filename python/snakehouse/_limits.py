"""Limits of a value that hold for every codec and on both sides of the wire.

The pure codec counts levels as it goes. The C codec has limits of its own, which are wider, and
takes a ``bytearray`` for ``bytes``; so what it has read or written is looked at afterwards, if it
can be in question at all.
"""

from __future__ import annotations

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
    """Whether the value that these bytes are is within the limits."""
    fits = not _may_be_deep(data) or _check(value, MAX_DEPTH, _NONE)
    return fits and not has_too_many(value, len(data))


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
