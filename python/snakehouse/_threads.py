"""A worker that runs several calls at once, each in a thread.

The main thread reads; as many threads as the worker has capacity take the calls in their order, run
them and write their answers, each when it is ready. A cancel is an exception that CPython raises in
one thread, at its next line of Python: a thread that sleeps or waits in a system call is not woken
by it, and the host kills the worker after the grace.

That exception must hit the one call and nothing else. A call that may be interrupted holds a claim.
Whoever takes the claim away, and only one can, decides: the thread, then nothing is raised any
more; or the canceller, then the thread does not go on before it has been hit.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextvars import copy_context
from queue import Empty, SimpleQueue
from time import monotonic, sleep

from snakehouse import _answer, _buffers, _codec, _sessions, _telemetry
from snakehouse._doorbell import WORD_STARTED
from snakehouse._errors import Cancelled
from snakehouse._frames import KIND_ERROR, LAST_WORDS, ProtocolError, in_pieces
from snakehouse._inbox import Inbox
from snakehouse._load import LoadError
from snakehouse._perform import perform, unready
from snakehouse._ports import AsyncPort, SyncPort
from snakehouse._reader import Reader
from snakehouse._running import Running
from snakehouse._session_hooks import HookThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context
    from typing import Any

    from snakehouse._async import Runner
    from snakehouse._channel import Channel
    from snakehouse._doorbell import Doorbell
    from snakehouse._inbox import Request
    from snakehouse._tool import Tool

    Raise = Callable[[int, type[BaseException] | None], None]

# How long (seconds) a busy thread lets the others wait: the one that reads is one of them.
_SWITCH = 1e-3


def load_raise() -> Raise:
    """What raises an exception in another thread, or takes it back if it was not raised yet.

    Raises ``LoadError`` where this Python was built without ctypes.
    """
    try:
        import ctypes
    except ImportError as error:
        raise LoadError(
            "calls in threads cannot be cancelled: this Python was built without ctypes",
            code="no_ctypes",
            hint="use another interpreter, asyncio mode, or a capacity of 1",
        ) from error
    # This way of calling keeps the interpreter locked: the thread is the same before and after.
    set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def raise_in(ident: int, kind: type[BaseException] | None) -> None:
        target = ctypes.py_object() if kind is None else ctypes.py_object(kind)
        set_async_exc(ctypes.c_ulong(ident), target)

    return raise_in


class ThreadServer:
    """One connection, served by several threads until it ends."""

    def __init__(
        self, control: socket.socket, doorbell: Doorbell, tools: list[Tool], capacity: int
    ) -> None:
        """Raises ``LoadError`` if threads cannot be interrupted here."""
        self.raise_in = load_raise()
        self._context = copy_context()
        self.tools = tools
        self.running = Running()
        self.doorbell = doorbell
        self.inbox = Inbox(self.running.cancel, self.send)
        self.running.listen(self.inbox)
        self.inbox.queued = self.running.waiting
        self._control = control
        self._capacity = capacity
        self._reader = Reader(control)
        self._queue: SimpleQueue[Request] = SimpleQueue()
        self._starting = threading.Lock()
        self._writing = threading.Lock()
        self._exit: SystemExit | None = None
        self._hooks = HookThread(self)
        doorbell.route = self.running.cancel
        self.seats: dict[int, ThreadSeat] = {}
        # Event loops of nested calls that are over, for those to come: each has three descriptors,
        # which nobody closes before the garbage collector.
        self.runners: list[Runner] = []
        _buffers.current.shield = self._shield
        self._telemetry = _telemetry.current
        self._telemetry.serve(tools, self._speak)
        os.register_at_fork(after_in_child=control.close)

    def run(self) -> None:
        """Serve until the host hangs up or says goaway.

        Raises ``ProtocolError``, ``OSError`` of the socket, and the ``SystemExit`` of a tool.
        """
        sys.setswitchinterval(_SWITCH)
        for number in range(self._capacity):
            seat = ThreadSeat(self)
            self._start_thread(f"snakehouse-call-{number}", seat.serve)
        reader, inbox = self._reader, self.inbox
        try:
            while reader.fill():
                reader.take_all(inbox, monotonic())
                while inbox.nested:
                    request = inbox.nested[0]
                    self.running.arrived(request)
                    inbox.nested.popleft()
                    # Beside the calls that wait for the host, of which one waits for this.
                    seat = ThreadSeat(self)
                    self._start_thread("snakehouse-nested", seat.serve_one, request)
                while inbox.ready:
                    request = inbox.ready[0]
                    self.running.arrived(request)
                    inbox.ready.popleft()
                    self._queue.put(request)
                self._hooks.ring()
                if inbox.is_over and self.running.is_idle():
                    break
        except ProtocolError:
            # Nobody writes any more: what is said now are the last words. None are said into a
            # frame that a host does not read.
            if not self._writing.acquire(timeout=LAST_WORDS):
                self._control.shutdown(socket.SHUT_WR)
            raise
        if self._exit is None and inbox.is_over:
            _sessions.current.leave()
            self._hooks.finish()
        # What was not due when the last call was answered.
        self._tell()
        if self._exit is not None:
            raise self._exit

    def _start_thread(self, name: str, function: Callable[..., None], *args: object) -> None:
        target = self._context.copy().run
        thread = threading.Thread(target=target, args=(function, *args), name=name, daemon=True)
        thread.start()

    def seat_for_hooks(self) -> ThreadSeat:
        """A seat for the calling thread, which runs no calls."""
        seat = ThreadSeat(self)
        seat.ident = threading.get_ident()
        self.seats[seat.ident] = seat
        return seat

    def next(self, seat: ThreadSeat) -> Request:
        """The next call for a seat; it counts as started when this returns."""
        # In one step, so that they start in their order. Who has the lock waits for a call: the
        # others wait for the lock, and no longer than telemetry may.
        if not (self._telemetry.waiting and self._starting.acquire(timeout=_telemetry.DELAY)):
            self._tell()
            self._starting.acquire()
        try:
            request = self._await()
            self.doorbell.words[WORD_STARTED] = request.stream
            self.start(seat, request)
        finally:
            self._starting.release()
        return request

    def start(self, seat: ThreadSeat, request: Request) -> None:
        """A call begins in a seat."""
        seat.work = work = _Work(self, seat.ident)
        work.wake = seat.ring
        if request.channel is not None:
            request.channel.wake = seat.ring
        self.running.start(request.stream, work)

    def _await(self) -> Request:
        if self._telemetry.waiting:
            try:
                return self._queue.get(timeout=_telemetry.DELAY)
            except Empty:
                self._tell()
        return self._queue.get()

    def _tell(self) -> None:
        """Send all telemetry."""
        try:
            while batch := self._telemetry.take():
                self.send(batch)
        except OSError:
            # The host is gone, which the main thread finds out as well.
            pass

    def _speak(self) -> None:
        """Send what telemetry is due: a tool says so, which may be in a thread of its own."""
        if threading.get_ident() in self.seats:
            self._shield(self._tell)
        else:
            self._tell()

    def answer(self, request: Request, kind: int, payload: bytes) -> None:
        """Write a call's last frames. After a goaway, the last answer ends the worker."""
        try:
            for head, piece in in_pieces(request.stream, payload, kind):
                self.send(head + bytes(piece))
        except OSError:
            # The host is gone, which the main thread finds out as well.
            pass
        if self._telemetry.waiting and (self._telemetry.is_due() or self.inbox.is_over):
            self._tell()
        self.running.end(request.stream)
        if request.channel is not None:
            self.inbox.end(request.channel)
        if self.inbox.is_over and self.running.is_idle():
            self._stop_reading()

    def _shield(self, function: Callable[[], None]) -> None:
        """Run a function in which the calling thread's call is not interrupted."""
        seat = self.seats[threading.get_ident()]
        seat.pause()
        try:
            function()
        finally:
            seat.resume()

    def exit(self, error: SystemExit) -> None:
        """A tool ends the worker."""
        self._exit = self._exit or error
        self._stop_reading()

    def send(self, data: bytes) -> None:
        """Write whole frames."""
        with self._writing:
            self._control.sendall(data)

    def _stop_reading(self) -> None:
        try:
            self._control.shutdown(socket.SHUT_RD)
        except OSError:
            # The host was quicker.
            pass


class _Work:
    """A call in a thread, and whether it is given up."""

    __slots__ = ("_ident", "_raise_in", "claim", "is_cancelled", "is_told", "wake")

    def __init__(self, server: ThreadServer, ident: int) -> None:
        self._raise_in = server.raise_in
        self._ident = ident
        # Holds one thing while the call may be interrupted.
        self.claim: list[None] = []
        self.is_cancelled = False
        # The call knows it, or the exception is on its way.
        self.is_told = False
        self.wake: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Give the call up. In the main thread, or in the call's own before it begins."""
        self.is_cancelled = True
        if self.wake is not None:
            self.wake()
        try:
            self.claim.pop()
        except IndexError:
            # It looks for itself before it may be interrupted again.
            return
        try:
            self._raise_in(self._ident, Cancelled)
        finally:
            self.is_told = True


class ThreadSeat:
    """See ``Seat``: one of the threads."""

    def __init__(self, server: ThreadServer) -> None:
        self.ident = 0
        self.send = server.send
        self.work: _Work = _Work(server, 0)
        self._server = server
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._runner: Runner | None = None
        # A codec keeps state while it works.
        self._codec = _codec.choose(_buffers.current)
        callbacks = server.inbox.callbacks
        self.port = SyncPort(self, callbacks, self._codec)
        self.async_port = AsyncPort(callbacks, self._codec, server.send)

    def renew(self) -> None:
        """What runs next is no call."""
        self.work = _Work(self._server, self.ident)

    @property
    def was_hit(self) -> bool:
        """See ``Seat``."""
        return self.work.is_cancelled

    def serve(self) -> None:
        """Run calls for ever."""
        self._sit()
        while self._serve(self._server.next(self)):
            pass

    def serve_one(self, request: Request) -> None:
        """Run one nested call."""
        self._sit()
        self._server.start(self, request)
        self._serve(request)
        del self._server.seats[self.ident]
        if self._runner is not None:
            self._server.runners.append(self._runner)

    def _sit(self) -> None:
        self.ident = threading.get_ident()
        self._server.seats[self.ident] = self

    def _serve(self, request: Request) -> bool:
        """Run a call and answer it; false if it ends the worker."""
        server = self._server
        content = unready(request, len(server.tools))
        if (
            content is None
            and not request.is_nested
            and server.doorbell.is_recalled(request.stream)
        ):
            content = _answer.recalled()
        try:
            if content is None:
                tool = server.tools[request.number]
                kind, payload = perform(self, request, tool, self._codec)
            else:
                kind, payload = KIND_ERROR, content
        except SystemExit as error:
            server.exit(error)
            return False
        server.answer(request, kind, payload)
        return True

    def guard(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See ``Seat``."""
        try:
            self.resume()
            result = function(*args, **kwargs)
        except BaseException:
            self.pause()
            raise
        self.pause()
        return result

    def pause(self) -> None:
        """See ``Seat``. It is here, if nowhere before, that an exception on its way arrives."""
        work = self.work
        try:
            work.claim.pop()
        except IndexError:
            if work.is_cancelled:
                while not work.is_told:
                    sleep(0)
                self._server.raise_in(self.ident, None)

    def resume(self) -> None:
        """See ``Seat``."""
        work = self.work
        if not work.is_cancelled:
            work.claim.append(None)
            if not work.is_cancelled:
                return
            try:
                work.claim.pop()
            except IndexError:
                # The exception is on its way.
                return
        if not work.is_told:
            work.is_told = True
            raise Cancelled

    def adopt(self) -> int:
        """See ``Seat``: every call of a thread has its seat."""
        return 0

    def let_go(self) -> None:
        """See ``Seat``."""

    def wait(self, channel: Channel | None) -> None:  # noqa: ARG002
        """See ``Seat``."""
        # Who waits has looked before, and rung is from the call's beginning on.
        self._bell.get()
        self.resume()
        self.pause()

    def ring(self) -> None:
        """Something changed that the call may wait for."""
        if self._bell.empty():
            self._bell.put(None)

    def complete(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
        """See ``Seat``."""
        if self._runner is None:
            from snakehouse._async import Runner

            try:
                self._runner = self._server.runners.pop()
            except IndexError:
                self._runner = Runner()
        runner, work = self._runner, self.work
        turn = runner.begin(context)
        work.wake = turn.cancel
        if work.is_cancelled:
            turn.cancel()
        return runner.complete(turn, coroutine, context)
