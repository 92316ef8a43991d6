"""A worker that runs several async calls at once, each as a task of one event loop.

The event loop reads, starts the calls in their order, at most as many at once as the worker has
capacity, and writes each answer when it is ready. A cancel is a cancel of the call's task. A tool
that does not await holds up all others; if it is cancelled it is interrupted where it is, as
``_async`` says. A host that reads slowly holds up no call that has begun, and no other begins.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from time import monotonic

from snakehouse import _answer, _sessions, _telemetry
from snakehouse._async import AsyncIncoming, Turn, run_tool
from snakehouse._context import Call, current
from snakehouse._doorbell import WORD_STARTED
from snakehouse._errors import Cancelled, MalformedValue
from snakehouse._frames import KIND_ERROR, KIND_LAST, ProtocolError, in_pieces
from snakehouse._inbox import Inbox
from snakehouse._load import LoadError
from snakehouse._outgoing import Outgoing
from snakehouse._perform import NO_ARGUMENTS, unready
from snakehouse._ports import AsyncPort
from snakehouse._reader import Reader
from snakehouse._running import Running
from snakehouse._session_hooks import outside, run_each
from snakehouse._tool import ASYNC_FUNCTION, ASYNC_GENERATOR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextvars import Context
    from types import FrameType
    from typing import Any

    from snakehouse._codec import Codec
    from snakehouse._doorbell import Doorbell
    from snakehouse._inbox import Request
    from snakehouse._tool import Tool

_MAX_UNREAD = 4096


class TaskServer:
    """One connection, served by one event loop until it ends."""

    def __init__(
        self,
        control: socket.socket,
        doorbell: Doorbell,
        codec: Codec,
        tools: list[Tool],
        capacity: int,
    ) -> None:
        """Raises ``LoadError`` if there is a tool that is not async."""
        for tool in tools:
            if tool.kind not in (ASYNC_FUNCTION, ASYNC_GENERATOR):
                raise LoadError(
                    f"{tool.name} is not async and would hold up all other calls",
                    code="not_async",
                    hint="make it async, use threads, or a capacity of 1",
                )
        self._control = control
        self._doorbell = doorbell
        self._codec = codec
        self._tools = tools
        self._free = capacity
        self._loop = asyncio.new_event_loop()
        self._running = Running()
        self._out = Outgoing(self._loop, control, self._written)
        self._inbox = Inbox(self._running.cancel, self._pong)
        self._running.listen(self._inbox)
        self._reader = Reader(control)
        self._broken: BaseException | None = None
        self._is_over = False
        # Pongs since there was no more room.
        self._unread = 0
        self._base = copy_context()
        self._tasks: set[asyncio.Task[None]] = set()
        # Of the calls that have begun, by what their context says.
        self._works: dict[Call, _Work] = {}
        self._port = AsyncPort(self._inbox.callbacks, codec, self._out.send, self._out.room)
        self._ident = 0
        doorbell.route = self._running.cancel
        self._telemetry = _telemetry.current
        self._telemetry.serve(tools, self._speak)
        self._is_telling = False
        # Runs hooks.
        self._ending: asyncio.Task[None] | None = None
        doorbell.on_ring = self._rung
        os.register_at_fork(after_in_child=control.close)

    def run(self) -> None:
        """Serve until the host hangs up or says goaway.

        Raises ``ProtocolError``, ``OSError`` of the socket, and the ``SystemExit`` of a tool.
        """
        self._ident = threading.get_ident()
        self._loop.add_reader(self._control, self._read)
        # A tool may stop the loop as well.
        try:
            while not self._is_over:
                self._loop.run_forever()
        except SystemExit:
            with suppress(OSError):
                self._out.finish()
            raise
        if isinstance(self._broken, ProtocolError) and self._out.held:
            # No last words in the middle of a frame.
            self._control.shutdown(socket.SHUT_WR)
        if self._broken is not None:
            raise self._broken

    def _rung(self, frame: FrameType | None) -> None:
        """The bell was heard in this frame."""
        call = current.get()
        if call is not None and (work := self._works.get(call)):
            work.hit(frame)

    def _written(self, error: OSError | None) -> None:
        """There is room for more to be written, or no use."""
        if error is not None:
            self._broken = error
            self._stop()
            return
        self._go_on()

    def _go_on(self) -> None:
        """Begin what there is room for, or end."""
        if self._is_over:
            return
        try:
            self._start()
        except OSError as error:
            self._broken = error
            self._stop()
        is_done = self._inbox.is_over and self._running.is_idle()
        if is_done:
            _sessions.current.leave()
            # What was not due when the last call was answered.
            self._tell()
        if not self._is_ending() and is_done and not self._out.held:
            self._stop()

    def _is_ending(self) -> bool:
        """Have the hooks of sessions that are over run; whether they do."""
        if self._ending is None and _sessions.current.ended:
            self._ending = self._task(self._end_sessions(), outside())
        return self._ending is not None

    def _task(self, coroutine: Coroutine[Any, Any, None], context: Context) -> asyncio.Task[None]:
        # Not by the loop's factory, which is the tools' own: an eager one would run, and perhaps
        # answer, a call that is not entered yet.
        return asyncio.Task(coroutine, loop=self._loop, context=context)

    async def _end_sessions(self) -> None:
        try:
            while _sessions.current.ended:
                await run_each(_sessions.current.ended.popleft())
        finally:
            self._ending = None
            self._loop.call_soon(self._go_on)

    def _pong(self, data: bytes) -> None:
        """Answer what is no call. Raises ``ProtocolError`` for a host that only asks."""
        self._unread = 0 if self._out.has_room else self._unread + 1
        if self._unread > _MAX_UNREAD:
            raise ProtocolError("pings from a host that does not read")
        self._out.send(data)

    def _read(self) -> None:
        """Read once; what that raises ends the loop, which would only print it."""
        inbox = self._inbox
        try:
            if self._reader.fill():
                self._reader.take_all(inbox, monotonic())
                for request in inbox.nested:
                    self._running.arrived(request)
                for request in inbox.ready:
                    self._running.arrived(request)
                self._go_on()
                return
        except (ProtocolError, OSError) as error:
            self._broken = error
        self._stop()

    def _speak(self) -> None:
        """Have what telemetry is due sent: a tool says so, from any thread."""
        self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        """Send all telemetry that there is room for; the rest goes with a later answer."""
        self._is_telling = False
        try:
            while (self._out.has_room or self._inbox.is_over) and (batch := self._telemetry.take()):
                self._out.send(batch)
        except OSError as error:
            self._broken = error
            self._stop()

    def _stop(self) -> None:
        self._is_over = True
        self._loop.remove_reader(self._control)
        self._loop.stop()

    def _start(self) -> None:
        inbox = self._inbox
        # Whoever waits for a nested call has a place already, and makes no use of it meanwhile.
        while (inbox.nested or (self._free and inbox.ready)) and self._out.has_room:
            request = (inbox.nested or inbox.ready).popleft()
            if not request.is_nested:
                self._doorbell.words[WORD_STARTED] = request.stream
            content = unready(request, len(self._tools))
            if (
                content is None
                and not request.is_nested
                and self._doorbell.is_recalled(request.stream)
            ):
                content = _answer.recalled()
            if content is not None:
                self._answer(request, KIND_ERROR, content)
                continue
            self._free -= not request.is_nested
            call = Call(
                request.arrived, request.micros, request.session, request.place, request.stream
            )
            call.port, call.ident = self._port, self._ident
            work = self._works[call] = _Work(self._loop, call)
            context = self._base.copy()
            context.run(current.set, call)
            task = self._task(self._serve(request, work, call), context)
            self._tasks.add(task)
            task.add_done_callback(partial(self._done, request, work))
            work.task = task
            self._running.start(request.stream, work)

    async def _serve(self, request: Request, work: _Work, call: Call) -> None:
        pid = os.getpid()
        tool, codec = self._tools[request.number], self._codec
        channel, out = request.channel, self._out
        is_decoded = False
        try:
            if work.is_cancelled:
                raise Cancelled
            body = codec.decode(request.body)
            args, kwargs = body
            if type(args) is not list or type(kwargs) is not dict:
                raise MalformedValue(NO_ARGUMENTS)
            is_decoded = True
            if channel is None and tool.kind == ASYNC_GENERATOR:
                raise _answer.NotAStream
            if channel is not None:
                call.incoming = AsyncIncoming(channel, codec.decode, out.send)
            result = await run_tool(
                tool, channel, codec, out.send, work.was_hit, *body, room=out.room
            )
            kind, payload = KIND_LAST, codec.encode_result(result)
        except SystemExit:
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and work.is_cancelled:
                told = Cancelled().with_traceback(error.__traceback__)
            else:
                told = error
            kind = KIND_ERROR
            payload = _answer.failed(tool, told) if is_decoded else _answer.not_decoded(told)
            error.__traceback__ = told.__traceback__ = None
        if os.getpid() != pid:
            # A child that the tool forked must not speak in the worker's name.
            os._exit(70)
        work.is_answered = True
        call.port = None
        self._end(request, kind, payload)

    def _done(self, request: Request, work: _Work, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if work.call is not None:
            del self._works[work.call]
        if task.cancelled() and not work.is_answered:
            # A tool cancelled all tasks, this one before its first step.
            self._end(request, KIND_ERROR, _answer.given_up())

    def _end(self, request: Request, kind: int, payload: bytes) -> None:
        try:
            self._answer(request, kind, payload)
        except OSError as error:
            self._broken = error
            self._stop()
            return
        self._free += not request.is_nested
        self._go_on()

    def _answer(self, request: Request, kind: int, payload: bytes) -> None:
        for head, piece in in_pieces(request.stream, payload, kind):
            self._out.send(head, piece)
        if self._telemetry.waiting:
            if self._telemetry.is_due() or self._inbox.is_over:
                self._tell()
            elif not self._is_telling:
                self._is_telling = True
                self._loop.call_later(_telemetry.DELAY, self._tell)
        self._running.end(request.stream)
        if request.channel is not None:
            self._inbox.end(request.channel)


class _Work(Turn):
    """A call in a task, whether it is given up, and whether it is answered."""

    __slots__ = ("is_answered",)

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Call) -> None:
        super().__init__(loop, call)
        self.is_answered = False

    def was_hit(self) -> bool:
        """Whether it is given up."""
        return self.is_cancelled
