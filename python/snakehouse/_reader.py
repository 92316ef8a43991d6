"""The bytes that were read and not yet understood, in one buffer that is used again."""

from __future__ import annotations

import mmap

from snakehouse._frames import HEAD, MAX_PAYLOAD, OPENING, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from snakehouse._inbox import Inbox

_ROOM = 256 << 10


class Reader:
    """A buffer: what lies between ``start`` and ``end`` was read and not yet taken.

    Behind its ``room`` there is space for the longest head, which may be looked at before it is
    known to have arrived.
    """

    __slots__ = ("_control", "buffer", "end", "room", "start", "view")

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self.start = self.end = 0
        self._grow(_ROOM)

    def fill(self) -> bool:
        """Read once, waiting if there is nothing; false if the host hung up."""
        got = self._control.recv_into(self.view[self.end : self.room])
        self.end += got
        return got > 0

    def take_all(self, inbox: Inbox, arrived: float) -> None:
        """Hand over all complete frames. Raises ``ProtocolError``."""
        while self.end - self.start >= HEAD.size:
            at = self.start + HEAD.size
            length, kind, stream = HEAD.unpack_from(self.buffer, self.start)
            if length > MAX_PAYLOAD or at + length > self.end:
                break
            self.start = at + length
            inbox.take(kind, stream, self.view[at : self.start], arrived)
        self.make_room()

    def make_room(self) -> None:
        """Room for the rest of a frame that has begun. Raises ``ProtocolError``."""
        start, end = self.start, self.end
        if start == end:
            self.start = self.end = 0
            return
        missing = HEAD.size
        if end - start >= HEAD.size:
            length = HEAD.unpack_from(self.buffer, start)[0]
            if length > MAX_PAYLOAD:
                raise ProtocolError(f"frame of {length} bytes is over the cap")
            missing += length
        if start + missing > self.room or start > _ROOM // 2:
            rest = self.view[start:end]
            if missing > self.room:
                self._grow(missing + _ROOM)
            self.start, self.end = 0, len(rest)
            # In one buffer the two may overlap, which this allows for.
            self.view[: len(rest)] = rest

    def _grow(self, room: int) -> None:
        self.room = room
        # Takes memory as far as it is used: an idle worker's is not.
        self.buffer = mmap.mmap(-1, room + OPENING.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.view = memoryview(self.buffer)
