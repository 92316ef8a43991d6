"""Async tools: coroutines and async generators on an event loop.

``run_tool`` is the coroutine of one call, wherever it runs. ``Runner`` is an event loop that runs
one call at a time and stands still in between: what a tool leaves running goes on with the next
async call.

A cancel is a cancel of the call's task, which it notices where it awaits. If the event loop does
not even get to tell it because the call goes on without awaiting, the ``CancelledError`` is raised
where it is: by the handler of the next ring, in the main thread, and never in the middle of what
asyncio or this package do.
"""

from __future__ import annotations

import asyncio
import traceback

from snakehouse._answer import BadItem
from snakehouse._context import current
from snakehouse._errors import Cancelled, UnsupportedValue
from snakehouse._stream import item_frames
from snakehouse._tool import ASYNC_FUNCTION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Iterator,
    )
    from contextvars import Context
    from types import FrameType
    from typing import Any

    from snakehouse._channel import Channel
    from snakehouse._codec import Codec
    from snakehouse._context import Call
    from snakehouse._tool import Tool


async def run_tool(
    tool: Tool,
    channel: Channel | None,
    codec: Codec,
    send: Callable[[bytes], None],
    was_hit: Callable[[], bool],
    args: list[Any],
    kwargs: dict[str, Any],
    room: Callable[[], Awaitable[None]] | None = None,
) -> Any:
    """Run an async tool; gives its result, after the items of a stream were sent.

    ``room`` waits until there is room for another item, where ``send`` does not.
    """
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
            if room is not None:
                await room()
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
    if is_due():
        return
    waiters = channel.wake
    if not isinstance(waiters, _Waiters):
        waiters = channel.wake = _Waiters(asyncio.get_running_loop())
    while not is_due():
        await waiters.wait(is_due)


class _Waiters:
    """Who waits for one channel: the generator for credit, and any task for items."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._futures: set[asyncio.Future[None]] = set()

    def __call__(self) -> None:
        """Wake all. In the reading thread."""
        if self._futures:
            self._loop.call_soon_threadsafe(self._wake)

    async def wait(self, is_due: Callable[[], bool]) -> None:
        """Until something changed."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._futures.add(future)
        try:
            # It may have come before anybody could be woken.
            if not is_due():
                await future
        finally:
            self._futures.discard(future)

    def _wake(self) -> None:
        for future in self._futures:
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


class Turn:
    """One async call, and whether it is given up."""

    __slots__ = ("_is_told", "_loop", "_was_rung", "call", "is_cancelled", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Call | None) -> None:
        self._loop = loop
        self.call = call
        self.task: asyncio.Task[Any] | None = None
        self.is_cancelled = False
        # Whether the call knows it.
        self._is_told = False
        self._was_rung = False

    def cancel(self) -> None:
        """Give it up, once. From any thread, and from a signal's handler; nothing if it is over."""
        if not self.is_cancelled:
            self.is_cancelled = True
            if self.task is not None:
                self._loop.call_soon_threadsafe(self._tell)

    def hit(self, frame: FrameType | None) -> None:
        """The bell rang and interrupted this frame, which may be the call's.

        Raises ``CancelledError`` in what does not let the event loop tell it.
        """
        if not self.is_cancelled or self._is_told or current.get() is not self.call:
            return
        if not self._was_rung:
            # It may be about to await.
            self._was_rung = True
        elif _is_tools(frame):
            self._is_told = True
            raise asyncio.CancelledError

    def _tell(self) -> None:
        if not self._is_told and self.task is not None:
            self._is_told = True
            self.task.cancel()


def _is_tools(frame: FrameType | None) -> bool:
    """Whether a frame is of what a call runs, with nothing of asyncio or of ours within that."""
    step = frame
    while step is not None:
        name = str(step.f_globals.get("__name__"))
        if name.startswith(("asyncio.", "snakehouse.")):
            return step is not frame and step.f_code in _OUTERMOST
        step = step.f_back
    return False


# What runs a tool, and what runs a step of a task.
_STEP = asyncio.Handle._run  # noqa: SLF001  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportUnknownVariableType]
_OUTERMOST = (run_tool.__code__, _STEP.__code__)  # pyright: ignore[reportUnknownMemberType]


class Runner:
    """An event loop for one call after the other."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._task: asyncio.Task[Any] | None = None

    def begin(self, context: Context) -> Turn:
        """There is a new call that may be cancelled."""
        return Turn(self.loop, context.get(current))

    def complete(self, turn: Turn, coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
        """Run a coroutine to its end. Raises what it raises, ``Cancelled`` if it was cancelled."""
        self._task = turn.task = task = self.loop.create_task(coroutine, context=context)
        task.add_done_callback(self._stop)
        if turn.is_cancelled:
            task.cancel()
        try:
            # A tool may stop the loop as well.
            while not task.done():
                self.loop.run_forever()
        except BaseException:
            # What must not be kept by a task, or was raised beside it, by a signal's handler.
            task.remove_done_callback(self._stop)
            task.cancel()
            raise
        finally:
            self._task = None
        if turn.is_cancelled and task.cancelled():
            raise Cancelled
        return task.result()

    def _stop(self, task: asyncio.Task[Any]) -> None:
        # It may be heard only after the loop was stopped otherwise.
        if task is self._task:
            self.loop.stop()
