"""Async tools: coroutines and async generators on an event loop.

``run_tool`` is the coroutine of one call, wherever it runs. ``Runner`` is an event loop that runs
one call at a time and stands still in between: what a tool leaves running goes on with the next
async call. A cancel is a cancel of the call's task.
"""

from __future__ import annotations

import asyncio
import traceback
from functools import partial

from snakehouse._answer import BadItem
from snakehouse._errors import Cancelled, UnsupportedValue
from snakehouse._stream import item_frames
from snakehouse._tool import ASYNC_FUNCTION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
    from contextvars import Context
    from typing import Any

    from snakehouse._channel import Channel
    from snakehouse._codec import Codec
    from snakehouse._tool import Tool


async def run_tool(
    tool: Tool,
    channel: Channel | None,
    codec: Codec,
    send: Callable[[bytes], None],
    was_hit: Callable[[], bool],
    args: list[Any],
    kwargs: dict[str, Any],
) -> Any:
    """Run an async tool; gives its result, after the items of a stream were sent."""
    if tool.kind == ASYNC_FUNCTION or channel is None:
        return await tool.function(*args, **kwargs)
    generator = tool.function(*args, **kwargs)
    try:
        async for item in generator:
            if was_hit():
                # It was told, and goes on all the same.
                raise asyncio.CancelledError
            try:
                payload = codec.encode(item)
            except UnsupportedValue as error:
                raise BadItem from error
            await changed(channel, channel.may_send)
            channel.spend(len(payload))
            send(item_frames(channel.stream, payload))
    finally:
        await _close(generator)


async def _close(generator: AsyncGenerator[Any, Any]) -> None:
    """Let a generator's cleaning up run. What that raises is printed: the call has its answer."""
    try:
        await generator.aclose()
    except (SystemExit, asyncio.CancelledError):
        raise
    except BaseException:
        traceback.print_exc()


async def changed(channel: Channel, is_due: Callable[[], bool]) -> None:
    """Wait until something is so that the reading thread brings about."""
    loop = asyncio.get_running_loop()
    while not is_due():
        future: asyncio.Future[None] = loop.create_future()
        channel.wake = partial(_wake, loop, future)
        # It may have come before anybody could be woken.
        if not is_due():
            await future


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    loop.call_soon_threadsafe(_resolve, future)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class AsyncIncoming:
    """The items that the host sends to a streaming call, in their order, until it sends no more.

    An asynchronous iterator. Only the code that runs the call, on its event loop, may use it.
    """

    def __init__(
        self,
        channel: Channel,
        decode: Callable[[bytes | bytearray], Any],
        send: Callable[[bytes], None],
    ) -> None:
        self._channel = channel
        self._decode = decode
        self._send = send

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        channel = self._channel
        await changed(channel, self._is_due)
        if not channel.items:
            raise StopAsyncIteration
        body = channel.items.popleft()
        if credit := channel.return_credit(len(body)):
            self._send(credit)
        return self._decode(body)

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("this tool is async: use 'async for', not 'for'")

    def _is_due(self) -> bool:
        return bool(self._channel.items) or self._channel.is_ended


class Runner:
    """An event loop for one call after the other."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._task: asyncio.Task[Any] | None = None
        self._is_cancelled = False

    def begin(self) -> None:
        """There is a new call that may be cancelled."""
        self._is_cancelled = False

    def complete(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
        """Run a coroutine to its end. Raises what it raises, ``Cancelled`` if it was cancelled.

        ``cancel`` counts from ``begin`` on.
        """
        self._task = task = self.loop.create_task(coroutine, context=context)
        task.add_done_callback(self._stop)
        if self._is_cancelled:
            task.cancel()
        try:
            self.loop.run_forever()
        finally:
            self._task = None
        if self._is_cancelled and task.cancelled():
            raise Cancelled
        return task.result()

    def cancel(self) -> None:
        """Cancel the call, once. From any thread, and from a signal's handler."""
        if not self._is_cancelled:
            self._is_cancelled = True
            if (task := self._task) is not None:
                self.loop.call_soon_threadsafe(task.cancel)

    def _stop(self, _task: asyncio.Task[Any]) -> None:
        self.loop.stop()
