"""What a tool can ask about the call it runs."""

from __future__ import annotations

import time
from contextvars import ContextVar

from snakehouse import _sessions
from snakehouse._frames import TRACE_FLAGS, TRACE_SAMPLED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Any, Protocol

    from snakehouse._async import AsyncIncoming
    from snakehouse._ports import Port
    from snakehouse._sessions import SessionState
    from snakehouse._stream import Incoming

    class Items(Protocol):
        """For ``for`` in synchronous tools, for ``async for`` in async ones."""

        def __iter__(self) -> Iterator[Any]: ...
        def __next__(self) -> Any: ...
        def __aiter__(self) -> AsyncIterator[Any]: ...
        async def __anext__(self) -> Any: ...


_NEVER = 0xFFFFFFFFFFFFFFFF


class Call:
    """One call: when it arrived, how long its caller waits from then on, its session or 0.

    ``arrived`` is on the clock of ``time.monotonic()``; ``place`` is the end of the open head,
    which says where the call stands in its trace.
    """

    __slots__ = (
        "arrived",
        "ident",
        "incoming",
        "micros",
        "place",
        "port",
        "session",
        "stream",
    )

    def __init__(
        self, arrived: float, micros: int, session: int, place: bytes, stream: int = 0
    ) -> None:
        # Its number; 0 is that of the call which was started last.
        self.stream = stream
        # The way to the host, as long as it runs; and the thread that runs it, if it is async.
        self.port: Port | None = None
        self.ident = 0
        self.arrived = arrived
        self.micros = micros
        self.session = session
        self.place = place
        # Of a stream only: what the host sends.
        self.incoming: Incoming | AsyncIncoming | None = None

    def where(self) -> bytes:
        """Where the call stands in its trace."""
        return self.place

    def is_sampled(self) -> int:
        """Whether somebody records its trace: not 0."""
        return self.place[TRACE_FLAGS] & TRACE_SAMPLED


current: ContextVar[Call | None] = ContextVar("snakehouse_call", default=None)


def deadline() -> float | None:
    """When the caller stops waiting, on the clock of ``time.monotonic()``.

    ``None`` if the caller waits for ever, or outside of a call. Threads that a tool starts are
    outside; asyncio tasks are inside.
    """
    call = current.get()
    return None if call is None or call.micros == _NEVER else call.arrived + call.micros * 1e-6


def remaining() -> float | None:
    """Seconds until the deadline, 0.0 when it has passed; ``None`` as for ``deadline``."""
    at = deadline()
    return None if at is None else max(0.0, at - time.monotonic())


def session() -> str | None:
    """The name of the session the call belongs to; ``None`` if it belongs to none.

    A session without a name is ``#`` and a number.
    """
    call = current.get()
    return _sessions.current.name(call.session) if call is not None and call.session else None


def session_state() -> SessionState:
    """What the calls of this session left for each other, and for this one.

    It is empty at the session's first call in this worker, and dropped when the session is over.
    Calls of one session that run at the same time share it.

    Raises ``RuntimeError`` if the call belongs to no session, and ``SessionStateFull`` if as many
    sessions have state as may have.
    """
    call = current.get()
    if call is None or not call.session:
        raise RuntimeError("session_state() is for the calls of a session")
    return _sessions.current.state(call.session)


def incoming() -> Items:
    """The items that the host sends to the running call, until it sends no more.

    An iterator, or in async tools an async iterator; it waits for the next item. Items that nobody
    takes hold the host up after about one MiB. A call that is not a stream has none.

    Raises ``RuntimeError`` outside of a call.
    """
    call = current.get()
    if call is None:
        raise RuntimeError("incoming() is for the code of a running call")
    items: Any = call.incoming or NoItems()
    return items


class NoItems:
    """What a call gets that is not a stream: nothing."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        raise StopIteration

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        raise StopAsyncIteration
