"""Which calls a worker with several at once runs, and which of them are given up.

Cancels are told by the main thread, in the handler of a signal too, so nothing here takes a lock:
each step is one operation on a dict or a set, and the order of the steps leaves no gap. A cancel is
noted before it is looked whether the call runs; a call is entered before it is looked whether it is
wanted, and leaves the waiting ones last. A call goes from the inbox to the waiting ones to the
running ones, is entered there before it leaves here, and is looked for in that order.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Protocol

    from snakehouse._inbox import Inbox, Request

    class Work(Protocol):
        """A running call."""

        def cancel(self) -> None:
            """Give it up. May be called again."""
            ...


_MASK = 0xFFFFFFFF
_MAX_WANTED = 4096


class Running:
    """The calls between their arrival and their answer."""

    def __init__(self) -> None:
        self._works: dict[int, Work] = {}
        self.waiting: dict[int, Request] = {}
        self._wanted: set[int] = set()
        self._newest = 0
        self._arriving: set[int] = set()
        self._ready: Collection[Request] = ()

    def listen(self, inbox: Inbox) -> None:
        """What is in the inbox is not over."""
        self._arriving = inbox.waiting
        self._ready = inbox.ready

    def arrived(self, request: Request) -> None:
        """A call waits to be started. It leaves the inbox after this."""
        self.waiting[request.stream] = request
        self._arriving.discard(request.stream)
        if (request.stream - self._newest) & _MASK < 0x80000000:
            self._newest = request.stream

    def start(self, stream: int, work: Work) -> None:
        """A call runs. It is given up at once if that was asked for."""
        self._works[stream] = work
        if stream in self._wanted:
            work.cancel()
        self.waiting.pop(stream, None)

    def end(self, stream: int) -> None:
        """A call was answered, also one that was never started."""
        self.waiting.pop(stream, None)
        self._works.pop(stream, None)
        self._wanted.discard(stream)

    def is_idle(self) -> bool:
        """Whether there is no call at all. Bodies that are still arriving do not count."""
        return not self._ready and not self.waiting and not self._works

    def cancel(self, stream: int) -> None:
        """Give a call up, wherever it is; nothing if it is over."""
        if len(self._wanted) < _MAX_WANTED:
            self._wanted.add(stream)
        work = self._works.get(stream)
        if work is not None:
            work.cancel()
            return
        is_old = (self._newest - stream) & _MASK < 0x80000000
        if is_old and stream not in self._arriving and stream not in self.waiting:
            self._wanted.discard(stream)
