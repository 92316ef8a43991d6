"""Values that stand for something that does not travel itself, or needs a package to be itself.

``Array`` and ``Arrow`` are what arrives in a process that has not imported numpy or pyarrow; they
can be sent as well. A ``Reference`` names an object that stays here. ``Unsupported`` marks an
object that was left out.
"""

from __future__ import annotations

import importlib
import os
from itertools import count

from snakehouse._errors import LostReference, SnakehouseError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_MAX_KEPT = 65_536
_SIZE = "[1-9][0-9]{0,8}"
_UNIT = r"\[([2-9]|[1-9][0-9]{1,8})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\]"
_DTYPE = rf"\|([biu]1|S{_SIZE})|[<>]([iuf][248]|c8|c16|U{_SIZE}|[Mm]8({_UNIT})?)"


class Array:
    """An n-dimensional array as numpy would hold it, without numpy.

    ``dtype`` is numpy's ``dtype.str``, ``order`` is ``"C"`` or ``"F"``, ``data`` a read-only view
    of the bytes.
    """

    __slots__ = ("data", "dtype", "order", "shape")

    def __init__(
        self,
        dtype: str,
        shape: Sequence[int],
        data: bytes | bytearray | memoryview,
        order: str = "C",
    ) -> None:
        """An array of these bytes, which are not copied.

        Raises ``ValueError`` if the type does not travel or the bytes are not as many as type and
        shape say.
        """
        if not self.carries(dtype):
            raise ValueError(f"dtype {dtype!r} cannot travel")
        if order not in ("C", "F"):
            raise ValueError("order is C or F")
        self.dtype = dtype
        self.shape = tuple(shape)
        self.data = memoryview(data).cast("B").toreadonly()
        count = self.itemsize
        for length in self.shape:
            count *= length
        if count != len(self.data) or min(self.shape, default=0) < 0:
            raise ValueError("the bytes are not as many as dtype and shape ask for")
        both = 0 in self.shape or sum(length != 1 for length in self.shape) < 2
        self.order = "C" if both else order

    @staticmethod
    def carries(dtype: str) -> bool:
        """Whether arrays of this type travel: numbers, dates, texts and bytes of fixed length."""
        import re

        return re.fullmatch(_DTYPE, dtype) is not None

    @property
    def itemsize(self) -> int:
        """Bytes of one item."""
        if self.dtype[1] in "mM":
            return 8
        return int(self.dtype[2:]) * (4 if self.dtype[1] == "U" else 1)

    def numpy(self) -> Any:
        """The same as a read-only ``numpy.ndarray`` on the same bytes. Imports numpy."""
        numpy: Any = importlib.import_module("numpy")
        return numpy.ndarray(self.shape, self.dtype, self.data, order=self.order)

    def __eq__(self, other: object) -> bool:
        if type(other) is not Array:
            return NotImplemented
        mine = (self.dtype, self.shape, self.order, self.data)
        return mine == (other.dtype, other.shape, other.order, other.data)

    __hash__ = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"snakehouse.Array({self.dtype!r}, {self.shape}, <{len(self.data)} bytes>)"


class Arrow:
    """Columns of Apache Arrow as the bytes of an IPC stream, without pyarrow.

    ``is_batch`` tells a ``RecordBatch`` from a ``Table``.
    """

    __slots__ = ("data", "is_batch")

    def __init__(self, data: bytes | bytearray | memoryview, *, is_batch: bool = False) -> None:
        self.data = memoryview(data).cast("B").toreadonly()
        self.is_batch = is_batch

    def pyarrow(self) -> Any:
        """The table or the record batch, on the same bytes. Imports pyarrow.

        Raises ``ValueError`` if the bytes are no such stream.
        """
        pyarrow: Any = importlib.import_module("pyarrow")
        with pyarrow.ipc.open_stream(pyarrow.py_buffer(self.data)) as reader:
            return reader.read_next_batch() if self.is_batch else reader.read_all()

    def __eq__(self, other: object) -> bool:
        if type(other) is not Arrow:
            return NotImplemented
        return (self.is_batch, self.data) == (other.is_batch, other.data)

    __hash__ = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        kind = "RecordBatch" if self.is_batch else "Table"
        return f"snakehouse.Arrow(<{kind}, {len(self.data)} bytes>)"


class Reference:
    """The name of an object that stays in the process that made it, by ``keep``.

    It can be sent and passed back; in the process that made it, ``get`` gives the object.
    """

    __slots__ = ("life", "number", "type_name")

    def __init__(self, life: int, number: int, type_name: str) -> None:
        self.life = life
        self.number = number
        self.type_name = type_name

    def get(self) -> Any:
        """The object. Raises ``LostReference`` if it is not here."""
        if self.life == _kept.life and self.number in _kept.objects:
            return _kept.objects[self.number]
        raise LostReference(f"the {self.type_name} is not in this process, or was let go")

    def let_go(self) -> None:
        """Forget the object. Nothing happens if it is not here."""
        if self.life == _kept.life:
            _kept.objects.pop(self.number, None)

    def __eq__(self, other: object) -> bool:
        if type(other) is not Reference:
            return NotImplemented
        return (self.life, self.number) == (other.life, other.number)

    def __hash__(self) -> int:
        return hash((self.life, self.number))

    def __repr__(self) -> str:
        return f"snakehouse.Reference(<{self.type_name}>)"


class Unsupported:
    """The mark of an object that was left out: the name of its class, nothing of its content."""

    __slots__ = ("type_name",)

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name

    def __eq__(self, other: object) -> bool:
        if type(other) is not Unsupported:
            return NotImplemented
        return self.type_name == other.type_name

    def __hash__(self) -> int:
        return hash(self.type_name)

    def __repr__(self) -> str:
        return f"snakehouse.Unsupported({self.type_name!r})"


class _Kept:
    """What ``keep`` holds. ``life`` tells this process from every other."""

    def __init__(self) -> None:
        self.lives: list[int] = []
        self.numbers = count(1)
        self.objects: dict[int, object] = {}

    @property
    def life(self) -> int:
        """0 before anything was kept."""
        return self.lives[0] if self.lives else 0

    def begin(self) -> int:
        """This process's mark. Threads may come here at once: the first one's counts for all."""
        if not self.lives:
            self.lives.append(int.from_bytes(os.urandom(8), "big") | 1)
        return self.lives[0]

    def after_fork(self) -> None:
        # What the parent kept is here as well, but the numbers that follow are not shared.
        self.lives.clear()
        self.objects.clear()


_kept = _Kept()
os.register_at_fork(after_in_child=_kept.after_fork)


def keep(value: object) -> Reference:
    """Keep an object here and get a reference that can be sent in its place.

    Raises ``SnakehouseError`` if 65,536 objects are kept already: let go of some.
    """
    if len(_kept.objects) >= _MAX_KEPT:
        raise SnakehouseError(f"{_MAX_KEPT} objects are kept already")
    life, number = _kept.begin(), next(_kept.numbers)
    _kept.objects[number] = value
    return Reference(life, number, name_of(type(value)))


def name_of(kind: type) -> str:
    """The name of a class, with its module unless that is ``builtins``."""
    name = kind.__qualname__
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"


def sendable(value: Any) -> Any:
    """The same value with ``Unsupported`` in the place of everything that does not travel.

    Lists, tuples, dicts and sets are copied where something in them had to be replaced. A dict key
    that does not travel becomes a mark as well. What is nested too deep is a mark too.
    """
    from snakehouse import _msgpack
    from snakehouse._limits import MAX_DEPTH

    return _replace(value, MAX_DEPTH, _msgpack.travels)


def _replace(value: Any, levels: int, travels: Any) -> Any:
    kind: type = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind not in (list, tuple, dict, set, frozenset):
        return value if travels(value) else Unsupported(name_of(kind))
    if levels <= 1 and value:
        return Unsupported(kind.__name__)
    if kind is dict:
        return {
            _replace(key, levels - 1, travels): _replace(item, levels - 1, travels)
            for key, item in value.items()
        }
    items = [_replace(item, levels - 1, travels) for item in value]
    return items if kind is list else kind(items)  # pyright: ignore[reportUnknownVariableType]
