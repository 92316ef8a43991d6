"""Extension types that hold no other values: their codes and their bytes.

The table is in ``crates/wire/src/value/ext.rs``; keep both equal, the golden vectors test them.
Nothing is imported for a type that the process has not imported itself: a value of its class cannot
be there otherwise.
"""

from __future__ import annotations

import struct
import sys

from snakehouse import _buffers
from snakehouse._errors import MalformedValue
from snakehouse._marks import Array, Arrow, Reference, Unsupported, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date, datetime, time, timedelta, tzinfo
    from typing import Any

BYTEARRAY, COMPLEX, DATE, TIME, DATETIME, TIMEDELTA = 5, 6, 7, 8, 9, 10
ARRAY, ARROW, REFERENCE, UNSUPPORTED, SHARED = 11, 12, 13, 14, 16
_PLAIN = 0
_MAX_DIMENSIONS = 32
_MAX_NAME = 1024

_DATE = struct.Struct(">HBB")
_TIME = struct.Struct(">BBBBI")
_I64 = struct.Struct(">q")
_DELTA = struct.Struct(">iII")
_COMPLEX = struct.Struct(">dd")
_REFERENCE = struct.Struct(">QQ")


class Refused(Exception):
    """A value does not travel. Collects the way to it while it passes the containers."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.steps: list[str] = []


def pack(value: Any) -> tuple[int, bytes]:
    """The code and the content of a value.

    Raises ``Refused`` if it does not travel.
    """
    kind: type = type(value)  # pyright: ignore[reportUnknownVariableType]
    packer = _PACKERS.get(kind)
    if packer is None:
        packer = _packer_of(kind)
    return packer(value)


def unpack(code: int, content: bytes) -> Any:
    """The value of such a content.

    Raises ``MalformedValue``.
    """
    unpacker = _UNPACKERS.get(code)
    if unpacker is None:
        raise MalformedValue(f"extension type {code - 256 if code > 127 else code} is unknown")
    try:
        return unpacker(content)
    except MemoryError:
        raise
    except Exception:
        # Also whatever numpy and pyarrow raise: a StopIteration would be the end of a stream.
        raise MalformedValue(f"extension type {code} has malformed content") from None


def _packer_of(kind: type) -> Callable[[Any], tuple[int, bytes]]:
    """Finds a class by the module that it says it is from, if that is imported."""
    names = _MODULES.get(kind.__module__)
    packer = names.get(kind.__qualname__) if names else None
    module = sys.modules.get(kind.__module__)
    if packer is not None and getattr(module, kind.__qualname__, None) is kind:
        return packer
    table = _arrow_kinds().get(kind)
    if table is not None:
        return _pack_arrow
    raise Refused(f"a value of type {name_of(kind)} cannot travel")


def _pack_bytearray(value: bytearray) -> tuple[int, bytes]:
    return BYTEARRAY, bytes(value)


def _pack_complex(value: complex) -> tuple[int, bytes]:
    return COMPLEX, _COMPLEX.pack(value.real, value.imag)


def _unpack_complex(content: bytes) -> complex:
    return complex(*_COMPLEX.unpack(content))


def _pack_date(value: date) -> tuple[int, bytes]:
    return DATE, _DATE.pack(value.year, value.month, value.day)


def _unpack_date(content: bytes) -> date:
    from datetime import date

    return date(*_DATE.unpack(content))


def _time_of_day(value: time | datetime) -> bytes:
    packed = _TIME.pack(value.hour, value.minute, value.second, value.fold, value.microsecond)
    zone = value.tzinfo
    return packed if zone is None else packed + _I64.pack(_offset(zone))


def _offset(zone: tzinfo) -> int:
    from datetime import timedelta, timezone

    if type(zone) is not timezone:
        raise Refused(
            f"a time zone of type {name_of(type(zone))} cannot travel; "
            "use a datetime.timezone of fixed offset"
        )
    named = zone.__getinitargs__()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    if len(named) > 1:  # pyright: ignore[reportUnknownArgumentType]
        raise Refused("a datetime.timezone with a name cannot travel")
    return zone.utcoffset(None) // timedelta(microseconds=1)


def _zone(content: bytes) -> tzinfo | None:
    if not content:
        return None
    from datetime import timedelta, timezone

    return timezone(timedelta(microseconds=_I64.unpack(content)[0]))


def _pack_time(value: time) -> tuple[int, bytes]:
    return TIME, _time_of_day(value)


def _unpack_time(content: bytes) -> time:
    from datetime import time

    hour, minute, second, fold, microsecond = _TIME.unpack(content[:8])
    return time(hour, minute, second, microsecond, _zone(content[8:]), fold=fold)


def _pack_datetime(value: datetime) -> tuple[int, bytes]:
    return DATETIME, _DATE.pack(value.year, value.month, value.day) + _time_of_day(value)


def _unpack_datetime(content: bytes) -> datetime:
    from datetime import datetime

    return datetime.combine(_unpack_date(content[:4]), _unpack_time(content[4:]))


def _pack_timedelta(value: timedelta) -> tuple[int, bytes]:
    return TIMEDELTA, _DELTA.pack(value.days, value.seconds, value.microseconds)


def _unpack_timedelta(content: bytes) -> timedelta:
    from datetime import timedelta

    days, seconds, microseconds = _DELTA.unpack(content)
    if seconds >= 86_400 or microseconds >= 1_000_000:
        raise ValueError
    return timedelta(days, seconds, microseconds)


def is_ndarray(kind: type) -> bool:
    """Whether this is numpy's class of arrays."""
    return kind is getattr(sys.modules.get("numpy"), "ndarray", None)


def layout_of(value: Any) -> tuple[bytes, Any]:
    """What comes before the data of a numpy array, and the data as a row of bytes.

    The row is a view of an array that is contiguous, else a copy in C order.
    """
    dtype: str = value.dtype.str
    if not Array.carries(dtype) or value.dtype.metadata:
        raise Refused(f"an array of dtype {value.dtype} cannot travel")
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    return array_head(dtype, order, value.shape), value.ravel(order).view("u1")


def _pack_ndarray(value: Any) -> tuple[int, bytes]:
    head, row = layout_of(value)
    return ARRAY, head + row.tobytes()


def _pack_array(value: Array) -> tuple[int, bytes]:
    return ARRAY, array_head(value.dtype, value.order, value.shape) + bytes(value.data)


def array_head(dtype: str, order: str, shape: tuple[int, ...]) -> bytes:
    """What comes before the data of an array."""
    if len(shape) > _MAX_DIMENSIONS:
        raise Refused(f"an array of {len(shape)} dimensions cannot travel")
    return b"%c%b%b%c%b" % (
        len(dtype),
        dtype.encode(),
        order.encode(),
        len(shape),
        struct.pack(f">{len(shape)}Q", *shape),
    )


def _unpack_array(content: bytes) -> Any:
    if len(content) < 3:
        raise ValueError
    at = 1 + content[0]
    if len(content) < at + 2:
        raise ValueError
    end = at + 2 + 8 * content[at + 1]
    return _array(content[:end], memoryview(content)[end:])


def _array(head: bytes, data: memoryview) -> Any:
    at = 1 + head[0]
    dimensions = head[at + 1]
    if dimensions > _MAX_DIMENSIONS:
        raise ValueError
    shape = struct.unpack(f">{dimensions}Q", head[at + 2 :])
    array = Array(str(head[1:at], "ascii"), shape, data, str(head[at : at + 1], "ascii"))
    return array if "numpy" not in sys.modules else array.numpy()


def is_arrow(kind: type) -> bool:
    """Whether this is one of pyarrow's tables."""
    return kind in _arrow_kinds()


def stream_of(value: Any) -> tuple[bytes, Any]:
    """What comes before the stream of a table, and the stream as a buffer."""
    pyarrow: Any = sys.modules["pyarrow"]
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, value.schema) as writer:
        writer.write(value)
    return bytes([_arrow_kinds()[type(value)]]), sink.getvalue()


def _pack_arrow(value: Any) -> tuple[int, bytes]:
    if type(value) is Arrow:
        return ARROW, bytes([value.is_batch]) + bytes(value.data)
    head, stream = stream_of(value)
    return ARROW, head + stream.to_pybytes()


def _unpack_arrow(content: bytes) -> Any:
    return _arrow(content[:1], memoryview(content)[1:])


def _arrow(head: bytes, data: memoryview) -> Any:
    if head not in (b"\0", b"\1"):
        raise ValueError
    arrow = Arrow(data, is_batch=head == b"\1")
    return arrow if "pyarrow" not in sys.modules else arrow.pyarrow()


def _unpack_shared(content: bytes) -> Any:
    number, length = _REFERENCE.unpack(content[:16])
    data = _buffers.current.shared(number, length)
    form, head = content[16], content[17:]
    if form == _PLAIN and not head:
        return data
    if form == ARRAY and len(head) > 2:
        return _array(head, data)
    if form == ARROW:
        return _arrow(head, data)
    raise ValueError


def _arrow_kinds() -> dict[type, int]:
    pyarrow: Any = sys.modules.get("pyarrow")
    if pyarrow is None or not hasattr(pyarrow, "RecordBatch"):
        return {}
    return {pyarrow.Table: 0, pyarrow.RecordBatch: 1}


def _pack_reference(value: Reference) -> tuple[int, bytes]:
    return REFERENCE, _REFERENCE.pack(value.life, value.number) + _name(value.type_name)


def _unpack_reference(content: bytes) -> Reference:
    life, number = _REFERENCE.unpack(content[:16])
    return Reference(life, number, _read_name(content[16:]))


def _pack_unsupported(value: Unsupported) -> tuple[int, bytes]:
    return UNSUPPORTED, _name(value.type_name)


def _unpack_unsupported(content: bytes) -> Unsupported:
    return Unsupported(_read_name(content))


def _name(name: str) -> bytes:
    # Cut where no character is cut.
    return name.encode("utf-8", "replace")[:_MAX_NAME].decode("utf-8", "ignore").encode()


def _read_name(content: bytes) -> str:
    if not 0 < len(content) <= _MAX_NAME:
        raise ValueError
    return str(content, "utf-8")


_PACKERS: dict[type, Callable[[Any], tuple[int, bytes]]] = {
    bytearray: _pack_bytearray,
    complex: _pack_complex,
    Array: _pack_array,
    Arrow: _pack_arrow,
    Reference: _pack_reference,
    Unsupported: _pack_unsupported,
}
_MODULES: dict[str, dict[str, Callable[[Any], tuple[int, bytes]]]] = {
    "datetime": {
        "date": _pack_date,
        "time": _pack_time,
        "datetime": _pack_datetime,
        "timedelta": _pack_timedelta,
    },
    "numpy": {"ndarray": _pack_ndarray},
}
_UNPACKERS: dict[int, Callable[[bytes], Any]] = {
    BYTEARRAY: bytearray,
    COMPLEX: _unpack_complex,
    DATE: _unpack_date,
    TIME: _unpack_time,
    DATETIME: _unpack_datetime,
    TIMEDELTA: _unpack_timedelta,
    ARRAY: _unpack_array,
    ARROW: _unpack_arrow,
    SHARED: _unpack_shared,
    REFERENCE: _unpack_reference,
    UNSUPPORTED: _unpack_unsupported,
}
