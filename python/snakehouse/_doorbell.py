"""Cancelling the running call, and saying which call has started.

The host shares a page with the worker (layout: ``crates/wire/src/page.rs``). To cancel, it writes
the call's number there and rings: SIGURG. The handler runs in the main thread, which is the one
that runs the tool, and raises ``Cancelled`` in it. A call that is not cancelled pays for two
accesses to memory.

The host also says there which calls it takes back. A call looks after it has said that it has
begun, and the host looks at what has begun after it has said so: one of the two sees the other.

Nothing but the tool may be hit. ``running`` names the call while its tool runs and is 0 otherwise;
the handler raises only if it finds that number, and clears it first, so it raises once. Cancels for
calls that have not begun are remembered; for calls that are over they are ignored.
"""

from __future__ import annotations

import mmap
import signal

from snakehouse._errors import Cancelled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_LENGTH = 4096
_MAGIC = b"SNKP"
_VERSION = 1
_MASK = 0xFFFFFFFF
_SLOTS = 256
# Positions as 32-bit words.
_WORD_VERSION, WORD_STARTED, _WORD_CANCELS, WORD_RECALL, _WORD_RING = 1, 16, 32, 33, 48
_MAX_WANTED = 4096


def _never(_stream: int) -> bool:
    return False


class Doorbell:
    """The worker's end of the page, or of none."""

    __slots__ = (
        "_page",
        "_seen",
        "below",
        "is_arriving",
        "is_muffled",
        "on_cancel",
        "on_ring",
        "open",
        "past",
        "route",
        "running",
        "wanted",
        "words",
    )

    def __init__(self, fd: int | None) -> None:
        """Map the page behind a descriptor.

        Raises ``ValueError`` if it is no page of this version, ``OSError`` if it cannot be mapped.
        """
        # Without a page the words are our own: nobody rings, and the loop need not ask.
        self._page = bytearray(_LENGTH) if fd is None else mmap.mmap(fd, _LENGTH)
        self.words = memoryview(self._page).cast("I")
        if fd is not None and (
            bytes(self._page[:4]) != _MAGIC or self.words[_WORD_VERSION] != _VERSION
        ):
            raise ValueError("it is not a worker page of this version")
        self._seen = self.words[_WORD_CANCELS]
        self.running = 0
        # A call that runs, but is not always to be interrupted: its cancels are kept in ``wanted``
        # and told to ``on_cancel``.
        self.open = 0
        # Those below it, which wait for the host while it runs; and the newest nested call so far.
        self.below: list[int] = []
        self.past = 0
        self.on_cancel: Callable[[], None] | None = None
        # Told whenever the bell was heard, and what was interrupted by it: a host rings again as
        # long as a call that it gave up is not answered. May raise.
        self.on_ring: Callable[[FrameType | None], None] | None = None
        # Whether a call arrives or waits to be started: it may be overtaken, and is not over.
        self.is_arriving: Callable[[int], bool] = _never
        # In a worker that runs several calls, who gets every cancel.
        self.route: Callable[[int], None] | None = None
        # While it is set the bell is not heard; whoever unsets it looks himself.
        self.is_muffled = False
        self.wanted: set[int] = set()

    def give_up(self) -> None:
        """Give up what runs, if it may be interrupted now. In a signal's handler."""
        if self.on_cancel is not None:
            self.on_cancel()
        elif self.running:
            self.running = 0
            raise Cancelled

    def install(self) -> None:
        """Let SIGURG interrupt the running call."""
        signal.signal(signal.SIGURG, self._ring)

    def ask(self, stream: int) -> None:
        """A cancel arrived on another way. Ignored if the call is over."""
        if self.route is not None:
            self.route(stream)
            return
        if stream == self.open or stream in self.below:
            self.wanted.add(stream)
            if self.on_cancel is not None and stream == self.open:
                self.on_cancel()
            return
        newest = self.words[WORD_STARTED]
        if self.past and (self.past - newest) & _MASK < 0x80000000:
            # Whatever was sent before a nested call has arrived.
            newest = self.past
        is_over = (newest - stream) & _MASK < 0x80000000
        is_over = is_over and not self.is_arriving(stream)
        if not is_over and len(self.wanted) < _MAX_WANTED:
            self.wanted.add(stream)

    def is_recalled(self, stream: int) -> bool:
        """Whether the host has taken a call back that was just published as started."""
        first = self.words[WORD_RECALL]
        is_recalled = first != 0 and (stream - first) & _MASK < 0x80000000
        if is_recalled:
            # It does not begin here any more, and a cancel of it would be remembered for ever.
            self.wanted.discard(stream)
        return is_recalled

    def _ring(self, _signal: int, frame: FrameType | None) -> None:
        if not self.is_muffled:
            self.look()
            if self.on_ring is not None:
                self.on_ring(frame)

    def shield(self, function: Callable[[], None]) -> None:
        """Run a function that the bell does not interrupt; then look, as ``look`` does."""
        was_muffled = self.is_muffled
        self.is_muffled = True
        try:
            function()
        finally:
            self.is_muffled = was_muffled
        if not was_muffled:
            self.look()

    def look(self) -> None:
        """Take note of the cancels in the page; raises ``Cancelled`` if one is for this call."""
        # May be entered again by a second signal at any point: then entries are looked at twice,
        # which changes nothing, and never left out.
        words = self.words
        while (seen := self._seen) != (count := words[_WORD_CANCELS]):
            if (count - seen) & _MASK > _SLOTS:
                seen = (count - _SLOTS) & _MASK
            stream = words[_WORD_RING + seen % _SLOTS]
            self._seen = (seen + 1) & _MASK
            if stream == self.running and stream:
                self.running = 0
                raise Cancelled
            self.ask(stream)
