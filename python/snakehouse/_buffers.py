"""Large bytes beside the socket: what the host shares, and the ring this worker lends from.

The layouts are in ``crates/wire/src/buffer.rs``. A shared buffer is mapped once, read-only, when a
call names it for the first time; views of it live as long as somebody has them. The ring is made
when the first large result is sent: a few slots, each mapped on its own. A slot can be filled again
when the host has read it *and* nobody here has a view of it any more, which the count of references
to its mapping tells. Where no slot is free, or a result is too large for one, it travels inline.
"""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct
import sys
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from typing import Any

# Shorter ones are as quick inline.
LEND_FROM = 256 << 10
SLOTS = 4
SLOT = 32 << 20
_PAGE = 4096
_WORDS = 64

_SHARED = struct.Struct("<BQQ")
_FORGET = struct.Struct("<BQ")
_RING = struct.Struct("<BII")
_DESCRIPTORS = socket.CMSG_SPACE(array.array("i").itemsize)


def _run(function: Callable[[], None]) -> None:
    function()


class Buffers:
    """The worker's end of the socket for descriptors."""

    def __init__(self, talk: socket.socket | None) -> None:
        """``talk`` does not block; without it everything travels inline."""
        self._talk = talk
        self._shared: dict[int, memoryview] = {}
        self._slots: list[Slot] = []
        self._is_refused = talk is None
        self._words = memoryview(b"")
        # Threads look for slots at once. What is seen in between only ever makes one seem in use.
        self._lock = allocate_lock()
        # Between a packet's arrival and its entry in the table nobody else may look for it.
        self._receiving = allocate_lock()
        # Runs a function in which no cancel is raised: one would lose the packet just received.
        self.shield: Callable[[Callable[[], None]], None] = _run
        if talk is not None:
            # What a child that a tool forked would lend is the parent's.
            os.register_at_fork(after_in_child=self.close)

    def shared(self, number: int, length: int) -> memoryview:
        """The bytes of a shared buffer, read-only.

        Raises ``ValueError`` if the host has not sent it.
        """
        if number not in self._shared:
            self.shield(self.receive)
        view = self._shared.get(number)
        if view is None or len(view) != length:
            raise ValueError("a shared buffer did not arrive")
        return view

    def receive(self) -> None:
        """Take what the host has sent so far. Where a cancel may be raised, call it shielded."""
        with self._receiving:
            self._receive_all()

    def _receive_all(self) -> None:
        while self._talk is not None:
            try:
                packet, ancillary, _, _ = self._talk.recvmsg(
                    64, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                packet, ancillary = b"", []
            if not packet:
                return
            fds: array.array[int] = array.array("i")
            for _, _, content in ancillary:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
            try:
                if packet[0] == 1 and len(packet) == _SHARED.size and fds:
                    _, number, length = _SHARED.unpack(packet)
                    mapped = mmap.mmap(fds[0], max(length, 1), access=mmap.ACCESS_READ)
                    self._shared[number] = memoryview(mapped)[:length]
                elif packet[0] == 2 and len(packet) == _FORGET.size:
                    self._shared.pop(_FORGET.unpack(packet)[1], None)
            except (OSError, ValueError):
                # It cannot be mapped: whoever asks for it hears that it did not arrive.
                pass
            finally:
                for fd in fds:
                    os.close(fd)

    def view(self, length: int) -> memoryview | None:
        """A writable view of a slot that nobody uses; None if there is none."""
        with self._lock:
            slot = self._find_free(length)
            return None if slot is None else memoryview(slot.memory)[:length]

    def reserve(self, length: int) -> Slot | None:
        """A slot that nobody uses, lent from now on; None if there is none."""
        with self._lock:
            slot = self._find_free(length)
            if slot is not None:
                self._words[slot.number] = 1
            return slot

    def _find_free(self, length: int) -> Slot | None:
        if self._is_refused or length > SLOT:
            return None
        if not self._slots:
            self._make_ring()
        for slot in self._slots:
            if not self._words[slot.number] and slot.is_unused():
                return slot
        return None

    def _make_ring(self) -> None:
        fd = -1
        try:
            fd = os.memfd_create("snakehouse-ring", os.MFD_CLOEXEC)
            os.ftruncate(fd, _PAGE + SLOTS * SLOT)
            page = mmap.mmap(fd, _PAGE)
            slots = [Slot(number, fd) for number in range(SLOTS)]
            packet = _RING.pack(3, SLOTS, SLOT)
            descriptor = array.array("i", [fd])
            assert self._talk is not None
            self._talk.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)])
        except OSError:
            # No memory, no descriptor, or the host is gone: there is a way without.
            self._is_refused = True
            return
        finally:
            if fd >= 0:
                os.close(fd)
        self._words = memoryview(page)[_WORDS:].cast("I")
        self._slots = slots

    def find(self, mapped: object) -> Slot | None:
        """The slot of a mapping, if it is one of the ring's."""
        for slot in self._slots:
            if slot.memory is mapped:
                return slot
        return None

    def lend(self, slot: Slot) -> bool:
        """Lend a slot that somebody here has filled; false if the host has it already."""
        with self._lock:
            is_free = not self._words[slot.number]
            self._words[slot.number] = 1
            return is_free

    def take_back(self, slot: Slot) -> None:
        """What was to be lent is not sent after all."""
        self._words[slot.number] = 0

    def count(self) -> tuple[int, int]:
        """How many slots the host has, and how many are still viewed by somebody here."""
        lent = sum(1 for slot in self._slots if self._words[slot.number])
        return lent, sum(1 for slot in self._slots if not slot.is_unused())

    def close(self) -> None:
        """Lend and receive nothing any more."""
        self._is_refused = True
        if self._talk is not None:
            self._talk.close()
            self._talk = None


class Slot:
    """A part of the ring."""

    __slots__ = ("_alone", "memory", "number")

    def __init__(self, number: int, fd: int) -> None:
        self.number = number
        self.memory = mmap.mmap(fd, SLOT, offset=_PAGE + number * SLOT)
        self._alone = sys.getrefcount(self.memory)

    def is_unused(self) -> bool:
        """Whether nobody has a view of it: a view, and a part of one, refers to the mapping."""
        return sys.getrefcount(self.memory) == self._alone


# What this process lends from; nothing, unless it is a worker that has a socket for it.
current = Buffers(None)


def take(variables: MutableMapping[str, str]) -> None:
    """Take the socket for descriptors over, if there is one.

    Raises ``ValueError`` or ``OSError`` if what the environment names is none.
    """
    global current
    number = variables.pop("SNAKEHOUSE_BUFFER_FD", None)
    if number is None:
        return
    os.set_inheritable(int(number), False)
    talk = socket.socket(fileno=int(number))
    if talk.family != socket.AF_UNIX or talk.type != socket.SOCK_SEQPACKET:
        raise ValueError("SNAKEHOUSE_BUFFER_FD is not a Unix socket of packets")
    talk.setblocking(False)
    current = Buffers(talk)


def buffer(length: int) -> memoryview:
    """A writable view of so many bytes that can be returned without being copied.

    Fill it, or make an array of it, and return that; what is in it at first is left over from
    another call. Where no slot is free, or where this is no worker, the bytes are ordinary memory,
    and are copied when they are returned. A slot that a tool keeps a view of is used for nothing
    else until the view is gone.
    """
    view = current.view(length) if length >= LEND_FROM else None
    return memoryview(bytearray(length)) if view is None else view


def empty(shape: Any, dtype: Any = "f8") -> Any:
    """As ``numpy.empty``, in memory that can be returned without being copied. Imports numpy."""
    import importlib

    numpy: Any = importlib.import_module("numpy")
    kind = numpy.dtype(dtype)
    count = 1
    for length in (shape,) if isinstance(shape, int) else shape:
        count *= length
    memory = buffer(count * kind.itemsize)
    return numpy.frombuffer(memory, kind, count).reshape(shape)
