"""Results whose large parts are lent to the host instead of being written into the socket.

While a result is encoded, bytes, arrays and tables of a certain size are put into slots of the ring
(or are there already, if the tool made them with ``snakehouse.buffer`` or ``empty``), and an
extension that names the slot takes their place. Large ``bytes`` in a list or dict travel inline:
the C packer would have to be told of each. The layouts are in ``crates/wire/src/buffer.rs``.
"""

from __future__ import annotations

import struct
import sys

from snakehouse import _extensions
from snakehouse._buffers import LEND_FROM
from snakehouse._marks import Array, Arrow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from snakehouse._buffers import Buffers, Slot

_LEASE = struct.Struct("<IIQ")
_MAX_ATTACHED = 255
_ATTACHMENT = 15
_BYTES = 0
# The value that is nothing but the first attachment, as bytes and as bytearray.
_ONLY = b"\xd5\x0f\x00"


class Lender:
    """Puts the large parts of one result after the other into slots."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self.leases: list[tuple[Slot, int, int]] = []

    def whole(self, value: bytes | bytearray | memoryview) -> bytes | None:
        """The body of a result that is large bytes; None if they must travel inline."""
        view = memoryview(value)
        if view.format != "B" or view.ndim != 1 or not view.c_contiguous:
            return None
        form = _extensions.BYTEARRAY if type(value) is bytearray else _BYTES
        if type(value) is memoryview and self._buffers.find(view.obj):
            content = self._attach(view, form, b"", view.obj, _address_of(view))
        else:
            content = self._attach(view, form, b"", None, 0)
        return None if content is None else self.finish(_ONLY + bytes([form]))

    def pack(self, value: Any) -> tuple[int, bytes]:
        """As ``_extensions.pack``; what is large is lent if there is room."""
        kind: type = type(value)  # pyright: ignore[reportUnknownVariableType]
        content = None
        if kind is bytearray and len(value) >= LEND_FROM:
            content = self._attach(memoryview(value), _extensions.BYTEARRAY, b"", None, 0)
        elif kind is Array and len(value.data) >= LEND_FROM:
            head = _extensions.array_head(value.dtype, value.order, value.shape)
            content = self._attach(value.data, _extensions.ARRAY, head, None, 0)
        elif kind is Arrow and len(value.data) >= LEND_FROM:
            content = self._attach(value.data, _extensions.ARROW, bytes([value.is_batch]), None, 0)
        elif _extensions.is_ndarray(kind) and value.nbytes >= LEND_FROM:
            head, flat = _extensions.layout_of(value)
            address: int = flat.__array_interface__["data"][0]
            origin = _origin_of(flat)
            content = self._attach(memoryview(flat), _extensions.ARRAY, head, origin, address)
        elif _extensions.is_arrow(kind) and value.nbytes >= LEND_FROM:
            head, stream = _extensions.stream_of(value)
            content = self._attach(memoryview(stream), _extensions.ARROW, head, None, 0)
        if content is None:
            return _extensions.pack(value)
        return _ATTACHMENT, content

    def _attach(
        self, data: memoryview, form: int, head: bytes, origin: object, address: int
    ) -> bytes | None:
        """The content of the extension for these bytes; None if they must travel inline.

        ``origin`` is the mapping that they may lie in, ``address`` where.
        """
        if len(self.leases) >= _MAX_ATTACHED:
            return None
        buffers = self._buffers
        slot = buffers.find(origin) if address else None
        offset = 0
        if slot is not None:
            base = _address_of(memoryview(slot.memory))
            offset = address - base
            is_in = base and 0 <= offset <= len(slot.memory) - len(data)
            # One that was sent before and kept: the host gives back what it has read, not twice.
            if not is_in or not buffers.lend(slot):
                slot = None
        if slot is None:
            offset = 0
            slot = buffers.reserve(len(data))
            if slot is None:
                return None
            slot.memory[: len(data)] = data
        self.leases.append((slot, offset, len(data)))
        return bytes((len(self.leases) - 1, form)) + head

    def finish(self, value: bytes) -> bytes:
        """The body: the value behind the list of what it is attached to."""
        leases = [_LEASE.pack(slot.number, offset, length) for slot, offset, length in self.leases]
        self.leases.clear()
        return b"".join((b"\xc1\x01", bytes([len(leases)]), *leases, value))

    def drop(self) -> None:
        """Nothing of it is sent."""
        for slot, _, _ in self.leases:
            self._buffers.take_back(slot)
        self.leases.clear()


def _address_of(view: memoryview) -> int:
    """Where a view begins in memory; 0 if that cannot be known."""
    try:
        import ctypes

        return ctypes.addressof(ctypes.c_char.from_buffer(view))
    except (ImportError, TypeError, ValueError):
        # Built without it, or the view cannot be written to, or is empty.
        return 0


def _origin_of(array: Any) -> object:
    """What owns the memory of an array, if that is a view of something."""
    numpy: Any = sys.modules["numpy"]
    base = array
    while isinstance(base, numpy.ndarray):
        base = base.base
    return base.obj if type(base) is memoryview else None
