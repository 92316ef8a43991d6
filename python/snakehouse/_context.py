"""What a tool can ask about the call it runs."""

from __future__ import annotations

import time
from contextvars import ContextVar

_NEVER = 0xFFFFFFFFFFFFFFFF


class Call:
    """One call: when it arrived, how long its caller waits from then on, its session or 0.

    ``arrived`` is on the clock of ``time.monotonic()``.
    """

    __slots__ = ("arrived", "micros", "session")

    def __init__(self, arrived: float, micros: int, session: int) -> None:
        self.arrived = arrived
        self.micros = micros
        self.session = session


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


def session() -> int | None:
    """The number of the session the call belongs to; ``None`` if it belongs to none."""
    call = current.get()
    return None if call is None else call.session or None
