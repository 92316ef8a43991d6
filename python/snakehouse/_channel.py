"""The two directions of one stream, as the worker sees them.

One thread reads the socket and feeds the channel (``receive``, ``grant``); one thread, often the
same, runs the call and uses it. Each number has one writer, so no lock is needed: what may be sent
is what was granted less what was spent, and likewise for what the host may send. Memory is bounded
by the credit that this side gives: an item more than that ends the connection.
"""

from __future__ import annotations

from collections import deque

from snakehouse import _frames
from snakehouse._frames import CREDIT, KIND_CREDIT, START_CREDIT, ProtocolError, cost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _nobody() -> None:
    """Nobody waits."""


class Channel:
    """Items from the host that were not taken yet, and the credit of both sides."""

    __slots__ = (
        "_owed",
        "_piece",
        "_received",
        "_returned",
        "granted",
        "is_ended",
        "items",
        "spent",
        "stream",
        "wake",
    )

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.items: deque[bytes | bytearray] = deque()
        # The host sends no more items.
        self.is_ended = False
        # Called by the reading thread when something changed.
        self.wake: Callable[[], None] = _nobody
        # What may be sent to the host, all in all, and what was.
        self.granted = START_CREDIT
        self.spent = 0
        self._received = 0
        self._returned = START_CREDIT
        self._owed = 0
        self._piece: bytearray | None = None

    @property
    def unfinished(self) -> int:
        """Bytes of the item that is still arriving."""
        return len(self._piece or b"")

    def receive(self, payload: memoryview, is_whole: bool) -> None:
        """A piece of an item, perhaps its last. Raises ``ProtocolError``."""
        piece = self._piece
        if piece is None:
            if self.is_ended or self._received >= self._returned:
                raise ProtocolError("an item without credit, or behind the end")
            if is_whole:
                self._received += cost(len(payload))
                self.items.append(bytes(payload))
                self.wake()
                return
            piece = self._piece = bytearray()
        if len(piece) + len(payload) > _frames.MAX_BODY:
            raise ProtocolError(f"an item of more than {_frames.MAX_BODY} bytes")
        piece += payload
        if is_whole:
            self._piece = None
            self._received += cost(len(piece))
            self.items.append(piece)
            self.wake()

    def receive_end(self) -> None:
        """The host sends no more items. Raises ``ProtocolError``."""
        if self.is_ended or self._piece is not None:
            raise ProtocolError("an end within an item, or a second one")
        self.is_ended = True
        self.wake()

    def grant(self, credit: int) -> None:
        """The host took items."""
        self.granted += credit
        self.wake()

    def may_send(self) -> bool:
        """Whether an item may be sent now."""
        return self.granted > self.spent

    def spend(self, length: int) -> None:
        """An item of so many bytes is sent."""
        self.spent += cost(length)

    def return_credit(self, length: int) -> bytes | None:
        """An item of so many bytes was taken; gives the frame that is due, if one is."""
        self._owed += cost(length)
        if self._owed < START_CREDIT // 2 or self.is_ended:
            return None
        owed, self._owed = self._owed, 0
        self._returned += owed
        return _frames.frame(KIND_CREDIT, self.stream, CREDIT.pack(owed))
