"""What the loop knows of a plain call, and of a tool that it serves."""

from __future__ import annotations

from snakehouse._context import Call
from snakehouse._frames import HEAD, OPEN_LENGTH, TRACE_AT, TRACE_FLAGS, TRACE_SAMPLED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from snakehouse._reader import Reader
    from snakehouse._tool import Tool

# Where in its frame a call's body begins, and what says where it stands in its trace.
BODY = HEAD.size + OPEN_LENGTH
_PLACE = HEAD.size + TRACE_AT
FLAGS = _PLACE + TRACE_FLAGS
# A call is short if it takes less (seconds).
_SHORT = 200e-6


class PlainCall(Call):
    """The call that runs, in one frame at ``at`` of what was read."""

    __slots__ = ("_reader", "at")

    def __init__(self, reader: Reader) -> None:
        super().__init__(0.0, 0, 0, b"")
        self._reader = reader
        self.at = 0

    def where(self) -> bytes:
        """See ``Call``: read only if somebody asks."""
        if self.at < 0:
            return self.place
        return bytes(self._reader.view[self.at + _PLACE : self.at + BODY])

    def is_sampled(self) -> int:
        """See ``Call``: asked of every call while there is telemetry."""
        at = self.at
        flags = self._reader.view[at + FLAGS] if at >= 0 else self.place[TRACE_FLAGS]
        return flags & TRACE_SAMPLED

    def next(self) -> PlainCall:
        """For the calls to come; whoever still has this one sees it as it was."""
        self.keep()
        call = PlainCall(self._reader)
        call.arrived = self.arrived
        call.port, self.port = self.port, None
        return call

    def keep(self) -> None:
        """What was read is about to be read over."""
        self.place = self.where()
        self.at = -1


class Served:
    """A tool, and how many calls of it in a row were short."""

    __slots__ = ("plain", "short", "tool", "traced")

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.plain = tool.plain
        # What is called instead if the call's trace is recorded; None without telemetry.
        self.traced: Callable[..., Any] | None = None
        self.short = 0

    def choose(self) -> None:
        """Telemetry was turned on or off."""
        tool = self.tool
        self.traced = None if tool.function is tool.plain else tool.function

    def took(self, seconds: float) -> None:
        """A call of it is over."""
        self.short = self.short + 1 if seconds < _SHORT else 0
