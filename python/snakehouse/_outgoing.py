"""What an event loop writes: at once as far as the socket takes it, the rest when it takes more.

A host that reads slowly holds up nobody but itself. What is kept is bounded by whoever writes: a
stream waits for room before its next item, and no call begins without it.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# With more bytes than this there is no room.
_ROOM = 1 << 20
# Pieces that are written at once.
_PIECES = 64


class Outgoing:
    """The end of the socket that an event loop writes to."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        control: socket.socket,
        changed: Callable[[OSError | None], None],
    ) -> None:
        """``changed`` is told that there is room again, or that nothing can be written any more."""
        self._loop = loop
        self._control = control
        self._changed = changed
        self._pieces: deque[memoryview] = deque()
        self._waiters: list[asyncio.Future[None]] = []
        # Bytes that are kept.
        self.held = 0

    @property
    def has_room(self) -> bool:
        """Whether more may be written."""
        return self.held <= _ROOM

    def send(self, *pieces: bytes | memoryview) -> None:
        """Write whole frames. Raises ``OSError`` of the socket."""
        is_idle = not self._pieces
        for piece in pieces:
            if len(piece):
                self._pieces.append(memoryview(piece))
                self.held += len(piece)
        if is_idle and not self._write():
            self._loop.add_writer(self._control, self._go_on)

    async def room(self) -> None:
        """Wait until there is room."""
        while not self.has_room:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def finish(self) -> None:
        """Write the rest, however long that takes. Raises ``OSError`` of the socket."""
        for piece in self._pieces:
            self._control.sendall(piece)

    def _write(self) -> bool:
        """Write what the socket takes; whether that was all."""
        pieces = self._pieces
        while pieces:
            first = [pieces[at] for at in range(min(len(pieces), _PIECES))]
            try:
                sent = self._control.sendmsg(first, (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            self.held -= sent
            while pieces and sent >= len(pieces[0]):
                sent -= len(pieces.popleft())
            if sent:
                pieces[0] = pieces[0][sent:]
        return True

    def _go_on(self) -> None:
        """The socket takes more."""
        try:
            if self._write():
                self._loop.remove_writer(self._control)
        except OSError as error:
            self._loop.remove_writer(self._control)
            self._changed(error)
            return
        if self.has_room:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._changed(None)
