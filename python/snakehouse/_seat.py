"""Where a call runs, and what it may be interrupted in.

A call runs guarded: only within ``guard`` can a cancel hit it, so that no line of this package is
interrupted where it must not be. What the package does in the name of a tool that is running (it
takes an item, it sends one) happens between ``pause`` and ``resume``.
"""

from __future__ import annotations

import select
import threading

from snakehouse._doorbell import WORD_STARTED
from snakehouse._errors import Cancelled

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine
    from contextvars import Context
    from typing import Any, Protocol

    from snakehouse._async import Runner, Turn
    from snakehouse._channel import Channel
    from snakehouse._doorbell import Doorbell

    class Seat(Protocol):
        """The place of one call at a time."""

        @property
        def ident(self) -> int:
            """The thread that runs the call."""
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

        def wait(self, channel: Channel) -> None:
            """Until something happens to the channel, or the call is given up.

            May raise ``Cancelled``; called between ``pause`` and ``resume``, or outside of
            ``guard``.
            """
            ...

        def send(self, data: bytes, /) -> None:
            """Write whole frames."""
            ...

        def complete(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
            """Run a coroutine to its end, on this seat's event loop; not within ``guard``."""
            ...


class MainSeat:
    """The only seat of a worker that runs one call at a time: its main thread."""

    def __init__(
        self,
        control: socket.socket,
        doorbell: Doorbell,
        pump: Callable[[], None],
        send: Callable[[bytes], None],
    ) -> None:
        """``pump`` reads once from ``control``, and takes the frames."""
        self.ident = threading.get_ident()
        self.was_hit = False
        self.send = send
        self._control = control
        self._pump = pump
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._runner: Runner | None = None
        self._turn: Turn | None = None
        self._doorbell = doorbell
        self._stream = 0
        self._is_cut = False

    def begin(self, stream: int) -> None:
        """A call starts: say so; from now on cancels of it are kept."""
        self.was_hit = False
        self._stream = self._doorbell.open = stream
        self._doorbell.words[WORD_STARTED] = stream

    def end(self) -> None:
        """The call is over."""
        self._doorbell.open = 0
        self._doorbell.wanted.discard(self._stream)

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

    def wait(self, channel: Channel) -> None:  # noqa: ARG002
        """See ``Seat``."""
        if self._is_cut:
            raise Cancelled
        # Nothing is read while a cancel may interrupt: not a byte may be lost.
        self.resume()
        try:
            self._poll.poll()
        finally:
            self.pause()
        self._pump()
        self.resume()
        self.pause()

    def complete(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
        """See ``Seat``."""
        if self._runner is None:
            from snakehouse._async import Runner

            self._runner = Runner()
            # Cancels and credit come while the event loop runs.
            self._runner.loop.add_reader(self._control, self._pump)
        doorbell = self._doorbell
        self._turn = turn = self._runner.begin(context)
        doorbell.on_cancel = self._cancel_task
        doorbell.on_ring = turn.hit
        try:
            if self._stream in doorbell.wanted:
                self._cancel_task()
            return self._runner.complete(turn, coroutine, context)
        finally:
            doorbell.on_cancel = doorbell.on_ring = None

    def stop_reading(self) -> None:
        """There is nothing more to be read: who waits is given up."""
        self._is_cut = True
        if self._runner is not None:
            self._runner.loop.remove_reader(self._control)

    def _cancel_task(self) -> None:
        self.was_hit = True
        if self._turn is not None:
            self._turn.cancel()
