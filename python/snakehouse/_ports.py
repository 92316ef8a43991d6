"""How a running call reaches the host: ``SyncPort`` from plain code, ``AsyncPort`` from async code.

A call that waits for the host is waiting as a generator waits for credit: a cancel interrupts it,
and whoever reads the socket goes on. In a worker that runs one call at a time, that is the waiting
call itself, which also runs the nested calls that come meanwhile, one on top of the other.
"""

from __future__ import annotations

import contextlib
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, Protocol

    from snakehouse._callbacks import Callbacks
    from snakehouse._codec import Codec
    from snakehouse._context import Call
    from snakehouse._seat import Seat

    class Port(Protocol):
        """What the code of a call asks the host through."""

        callbacks: Callbacks

        def call(self, call: Call, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
            """Call a tool of the host and wait."""
            ...

        async def acall(self, call: Call, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
            """Call a tool of the host and let others go on meanwhile."""
            ...


_WRONG_THREAD = "host tools are for the thread that runs the call"


class SyncPort:
    """The way to the host of plain functions and generators that run in one seat."""

    def __init__(
        self,
        seat: Seat,
        callbacks: Callbacks,
        codec: Codec,
        catch_up: Callable[[], None] | None = None,
    ) -> None:
        """``catch_up`` takes what was read before a call without a seat, and not looked at."""
        self.callbacks = callbacks
        self._seat = seat
        self._encode = codec.encode
        self._decode = codec.decode
        self._catch_up = catch_up

    def call(self, call: Call, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """See ``Port``."""
        seat, callbacks = self._seat, self.callbacks
        if seat.ident != threading.get_ident():
            raise RuntimeError(_WRONG_THREAD)
        tool = callbacks.find(name)
        body = self._encode([list(args), kwargs])
        if call.stream:
            pending = self._wait(call, call.stream, tool, body)
        else:
            try:
                pending = self._wait(call, seat.adopt(), tool, body)
            finally:
                seat.let_go()
        return callbacks.result(pending, self._decode)

    def _wait(self, call: Call, stream: int, tool: Any, body: bytes) -> Any:
        seat, callbacks = self._seat, self.callbacks
        seat.pause()
        try:
            if self._catch_up is not None and not call.stream:
                self._catch_up()
            pending, frames = callbacks.start(tool, stream, call, body, seat.ring)
            seat.send(frames)
            try:
                while not pending.kind:
                    seat.wait(None)
            except BaseException:
                if frame := callbacks.abandon(pending):
                    # The host may be gone, which whoever reads finds out as well.
                    with contextlib.suppress(OSError):
                        seat.send(frame)
                raise
        finally:
            seat.resume()
        return pending

    async def acall(self, call: Call, name: str, args: Any, kwargs: dict[str, Any]) -> Any:  # noqa: ARG002
        """See ``Port``."""
        raise RuntimeError(f"this tool is not async: use snakehouse.host.{name}(...)")


class AsyncPort:
    """The way to the host of coroutines and async generators on one thread's event loop."""

    def __init__(
        self,
        callbacks: Callbacks,
        codec: Codec,
        send: Callable[[bytes], None],
        room: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``room`` waits until there is room for what is sent, if ``send`` does not."""
        self._room = room
        self.callbacks = callbacks
        self._encode = codec.encode
        self._decode = codec.decode
        self._send = send

    def call(self, call: Call, name: str, args: Any, kwargs: dict[str, Any]) -> Any:  # noqa: ARG002
        """See ``Port``."""
        raise RuntimeError(f"this tool is async: use await snakehouse.host_async.{name}(...)")

    async def acall(self, call: Call, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """See ``Port``."""
        import asyncio

        callbacks, loop = self.callbacks, asyncio.get_running_loop()
        if threading.get_ident() != call.ident:
            raise RuntimeError(_WRONG_THREAD)
        tool = callbacks.find(name)
        body = self._encode([list(args), kwargs])
        answered: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            if not answered.done():
                answered.set_result(None)

        def wake() -> None:
            loop.call_soon_threadsafe(tell)

        if self._room is not None:
            await self._room()
        pending, frames = callbacks.start(tool, call.stream, call, body, wake)
        self._send(frames)
        try:
            await answered
        except BaseException:
            if frame := callbacks.abandon(pending):
                self._send(frame)
            raise
        return callbacks.result(pending, self._decode)
