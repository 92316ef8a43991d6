"""Where a call runs, and what it may be interrupted in.

A call runs guarded: only within ``guard`` can a cancel hit it, so that no line of this package is
interrupted where it must not be. What the package does in the name of a tool that is running (it
takes an item, it sends one) happens between ``pause`` and ``resume``.
"""

from __future__ import annotations

import select
import sys
import threading

from snakehouse._doorbell import WORD_STARTED
from snakehouse._errors import Cancelled
from snakehouse._ports import AsyncPort, SyncPort

# Stands for what runs in a seat and is no call: no host comes that far.
_HOOK = 0xFFFFFFFF

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine
    from contextvars import Context
    from typing import Any, Protocol

    from snakehouse._async import Runner, Turn
    from snakehouse._callbacks import Callbacks
    from snakehouse._channel import Channel
    from snakehouse._codec import Codec
    from snakehouse._doorbell import Doorbell

    class Seat(Protocol):
        """The place of one call at a time."""

        @property
        def ident(self) -> int:
            """The thread that runs the call."""
            ...

        @property
        def port(self) -> SyncPort:
            """The way to the host of plain code."""
            ...

        @property
        def async_port(self) -> AsyncPort:
            """The way to the host of async code."""
            ...

        @property
        def was_hit(self) -> bool:
            """Whether the call was told that it is given up."""
            ...

        def guard(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            """Call a function; a cancel raises ``Cancelled`` in it, at most one for each call."""
            ...

        def pause(self) -> None:
            """Keep cancels out until ``resume``."""
            ...

        def resume(self) -> None:
            """Let cancels in again; raises ``Cancelled`` if one came meanwhile."""
            ...

        def wait(self, channel: Channel | None) -> None:
            """Until something happens to the channel, a callback is answered, or the call given up.

            May raise ``Cancelled``; called between ``pause`` and ``resume``, or outside of
            ``guard``.
            """
            ...

        def send(self, data: bytes, /) -> None:
            """Write whole frames."""
            ...

        def ring(self) -> None:
            """Something changed that the call may wait for."""
            ...

        def adopt(self) -> int:
            """The call that was started last takes the seat, until ``let_go``; gives its number."""
            ...

        def let_go(self) -> None:
            """It needs the seat no more."""
            ...

        def complete(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
            """Run a coroutine to its end, on this seat's event loop; not within ``guard``."""
            ...


def running_loop() -> Any:
    """The event loop that runs in this thread, if asyncio is there at all."""
    asyncio: Any = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()  # noqa: SLF001


def set_running_loop(loop: Any) -> None:
    """Say which event loop runs in this thread: one inside of another stands still meanwhile."""
    sys.modules["asyncio"]._set_running_loop(loop)  # noqa: SLF001


class MainSeat:
    """The only seat of a worker that runs one call at a time: its main thread."""

    def __init__(
        self,
        control: socket.socket,
        doorbell: Doorbell,
        pump: Callable[[], None],
        send: Callable[[bytes], None],
        callbacks: Callbacks,
        codec: Codec,
        catch_up: Callable[[], None],
    ) -> None:
        """``pump`` reads once from ``control``, and takes the frames.

        ``catch_up``: see ``SyncPort``.
        """
        self.ident = threading.get_ident()
        self.was_hit = False
        self.send = send
        self._control = control
        self._pump = pump
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        # How many nested calls run, one on top of the other; an event loop for each level.
        self.depth = 0
        self._runners: dict[int, Runner] = {}
        self._turn: Turn | None = None
        self._doorbell = doorbell
        self._stream = 0
        self._is_cut = False
        self.port = SyncPort(self, callbacks, codec, catch_up)
        self.async_port = AsyncPort(callbacks, codec, send)

    def begin(self, stream: int) -> None:
        """A call starts: say so; from now on cancels of it are kept."""
        self.was_hit = False
        self._stream = self._doorbell.open = stream
        self._doorbell.words[WORD_STARTED] = stream

    def begin_hook(self) -> None:
        """What runs next is no call, and nobody waits for it."""
        self.was_hit = False
        self._stream = _HOOK

    def end(self) -> None:
        """The call is over."""
        self._doorbell.open = 0
        self._doorbell.wanted.discard(self._stream)

    def adopt(self) -> int:
        """See ``Seat``. It may be interrupted at any point: ``let_go`` is called all the same."""
        self.was_hit = False
        stream: int = self._doorbell.words[WORD_STARTED]
        self._stream = self._doorbell.open = stream
        return stream

    def let_go(self) -> None:
        """See ``Seat``."""
        self.end()

    def ring(self) -> None:
        """See ``Seat``: nobody else waits here."""

    def nest(self, stream: int, function: Callable[[], Any]) -> Any:
        """Run a nested call in the middle of the call that waits."""
        doorbell = self._doorbell
        outer = self._stream, self.was_hit, doorbell.open, self._turn
        told = doorbell.on_cancel, doorbell.on_ring
        doorbell.below.append(doorbell.open)
        doorbell.on_cancel = doorbell.on_ring = None
        doorbell.past = stream
        self.depth += 1
        self.was_hit = False
        self._stream = doorbell.open = stream
        # The event loop of an async call stands still as long as this one runs.
        loop = running_loop()
        if loop is not None:
            set_running_loop(None)
        try:
            return function()
        finally:
            if loop is not None:
                set_running_loop(loop)
            self.depth -= 1
            self._stream, self.was_hit, doorbell.open, self._turn = outer
            doorbell.on_cancel, doorbell.on_ring = told
            doorbell.below.pop()
            doorbell.wanted.discard(stream)
            if doorbell.on_cancel is not None and doorbell.open in doorbell.wanted:
                doorbell.on_cancel()

    def guard(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See ``Seat``."""
        doorbell = self._doorbell
        try:
            self.resume()
            result = function(*args, **kwargs)
            self.pause()
        except BaseException:
            doorbell.running = 0
            raise
        return result

    def pause(self) -> None:
        """See ``Seat``."""
        doorbell = self._doorbell
        if not doorbell.running:
            self.was_hit = True
        doorbell.running = 0

    def resume(self) -> None:
        """See ``Seat``."""
        if not self.was_hit:
            doorbell = self._doorbell
            doorbell.running = self._stream
            if doorbell.wanted and self._stream in doorbell.wanted:
                doorbell.wanted.discard(self._stream)
                doorbell.running = 0
                self.was_hit = True
                raise Cancelled

    def wait(self, channel: Channel | None) -> None:  # noqa: ARG002
        """See ``Seat``."""
        if self._is_cut:
            raise Cancelled
        # Nothing is read while a cancel may interrupt: not a byte may be lost.
        doorbell = self._doorbell
        self.resume()
        try:
            self._poll.poll()
        finally:
            # As ``pause``, but without a call: at its very beginning a cancel could still hit, and
            # nothing would know that it did.
            if not doorbell.running:
                self.was_hit = True
            doorbell.running = 0
        self._pump()
        if not self.was_hit and self._stream in doorbell.wanted:
            doorbell.wanted.discard(self._stream)
            self.was_hit = True
            raise Cancelled

    def complete(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
        """See ``Seat``."""
        runner = self._runners.get(self.depth)
        if runner is None:
            from snakehouse._async import Runner

            self._runners[self.depth] = runner = Runner()
            # Cancels and credit come while the event loop runs.
            runner.loop.add_reader(self._control, self._pump)
        doorbell = self._doorbell
        self._turn = turn = runner.begin(context)
        doorbell.on_cancel = self._cancel_task
        doorbell.on_ring = turn.hit
        try:
            if self._stream in doorbell.wanted:
                self._cancel_task()
            return runner.complete(turn, coroutine, context)
        finally:
            doorbell.on_cancel = doorbell.on_ring = None

    def stop_reading(self) -> None:
        """There is nothing more to be read: who waits is given up."""
        self._is_cut = True
        for runner in self._runners.values():
            runner.loop.remove_reader(self._control)

    def _cancel_task(self) -> None:
        self.was_hit = True
        if self._turn is not None:
            self._turn.cancel()
