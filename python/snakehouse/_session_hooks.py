"""Running the hooks of sessions that are over, wherever a server can do that.

A hook that takes too long is given up; one that is, or raises, is told of, and the next one has its
turn all the same. Only ``SystemExit`` ends the worker.
"""

from __future__ import annotations

import threading
from contextvars import copy_context
from inspect import iscoroutinefunction
from queue import SimpleQueue

from snakehouse import _sessions
from snakehouse._context import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context
    from typing import Any

    from snakehouse._seat import Seat
    from snakehouse._sessions import Ended, Hook
    from snakehouse._threads import ThreadServer


def run_in(seat: Seat, bound: Callable[[float], Callable[[], None]]) -> None:
    """Run the hooks of every session that is over, in a seat that has no call.

    ``bound`` has what runs given up after so many seconds; what it gives takes that back.
    """
    sessions = _sessions.current
    while sessions.ended:
        ended = sessions.ended.popleft()
        for hook in sessions.hooks:
            release = bound(sessions.limits.hook_seconds)
            try:
                _run(seat, ended, hook)
            except SystemExit:
                raise
            except BaseException:
                _sessions.failed(ended, hook)
            finally:
                release()


def _run(seat: Seat, ended: Ended, hook: Hook) -> None:
    context = outside()
    arguments = (ended.name, ended.reason, ended.state)
    if iscoroutinefunction(hook):
        seat.complete(hook(*arguments), context)
    else:
        seat.guard(context.run, hook, *arguments)


def outside() -> Context:
    """A context outside of any call."""
    context = copy_context()
    context.run(current.set, None)
    return context


async def run_each(ended: Ended) -> None:
    """Run one session's hooks on an event loop. A hook that is not async holds it up."""
    import asyncio

    sessions = _sessions.current
    for hook in sessions.hooks:
        try:
            result: Any = hook(ended.name, ended.reason, ended.state)
            if iscoroutinefunction(hook):
                await asyncio.wait_for(result, sessions.limits.hook_seconds)
        except (SystemExit, asyncio.CancelledError):
            raise
        except BaseException:
            _sessions.failed(ended, hook)


class HookThread:
    """The thread in which a worker with several calls at once runs its hooks, one at a time."""

    def __init__(self, server: ThreadServer) -> None:
        self._server = server
        self._bell: SimpleQueue[bool] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def ring(self) -> None:
        """There may be something to run."""
        if not _sessions.current.ended:
            return
        if self._thread is None:
            target = outside().run
            self._thread = threading.Thread(
                target=target, args=(self._serve,), name="snakehouse-sessions", daemon=True
            )
            self._thread.start()
        self._bell.put(True)

    def finish(self) -> None:
        """Wait until everything has been run."""
        self.ring()
        if self._thread is not None:
            self._bell.put(False)
            self._thread.join()

    def _serve(self) -> None:
        seat = self._server.seat_for_hooks()

        def bound(seconds: float) -> Callable[[], None]:
            seat.renew()
            timer = threading.Timer(seconds, seat.work.cancel)
            timer.daemon = True
            timer.start()
            return timer.cancel

        try:
            while self._bell.get():
                run_in(seat, bound)
        except SystemExit as error:
            self._server.exit(error)
