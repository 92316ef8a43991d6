"""What this worker tells its host beside answers: spans and events, if the host asked for them.

Each is encoded where it is made and waits here until enough of them wait, or the last frame was
sent long enough ago: then whoever serves the connection sends them in one frame. So one that comes
alone travels with the answer behind it, and nobody has to wake for it. What does not fit is
dropped, and how much that was is told as well. Nothing here ever makes a call wait, or fail.
"""

from __future__ import annotations

import os
from collections import deque
from itertools import count
from time import monotonic

from snakehouse import _msgpack
from snakehouse._frames import HEAD, KIND_TELEMETRY, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable
    from typing import Any

    from snakehouse._tool import Tool

# How many may wait, and the longest (bytes).
_MAX_WAITING = 1024
_MAX_ITEM = 8 << 10
# They are sent when so many wait, or none were sent for so long (seconds).
_DUE = 64
DELAY = 0.05
# A frame takes no further ones once it has so many bytes.
_MAX_BATCH = 256 << 10
# Names whose fate is remembered.
_MAX_NAMES = 1024
_MASK = 0xFFFFFFFFFFFFFFFF


class Telemetry:
    """The one place of a worker where telemetry waits."""

    __slots__ = (
        "_changed",
        "_dropped",
        "_ids",
        "_rate",
        "_saved",
        "_since",
        "_tools",
        "_wanted",
        "_wants",
        "is_on",
        "voice",
        "waiting",
    )

    def __init__(self) -> None:
        self.is_on = False
        self.waiting: deque[bytes] = deque()
        # Sends what is due, if that is possible right now. Called by tools.
        self.voice: Callable[[], None] | None = None
        self._since = 0.0
        self._dropped = 0
        # The part of the events that is kept, and what is saved up towards the next one.
        self._rate, self._saved = 1.0, 0.0
        self._wants: Callable[[str], bool] = bool
        self._wanted: dict[str, bool] = {}
        self._ids = count()
        self._tools: list[Tool] = []
        self._changed: Callable[[], None] | None = None

    def serve(
        self,
        tools: list[Tool],
        voice: Callable[[], None],
        changed: Callable[[], None] | None = None,
    ) -> None:
        """Tell of the calls of these tools.

        ``voice`` sends what is due; ``changed`` hears when the functions of tools are others.
        """
        self._tools = tools
        self._changed = changed
        self.voice = voice
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def configure(self, settings: Any) -> None:
        """What the host asks for now. Raises ``ProtocolError``."""
        try:
            is_on, rate = bool(settings["on"]), float(settings.get("events", 1.0))
            globs = [[str(glob) for glob in settings.get(key, ())] for key in ("allow", "deny")]
            self._wants = _filter(*globs)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ProtocolError(f"malformed settings of telemetry: {error}") from None
        self._rate = rate
        self._wanted = {}
        if is_on and not self.is_on:
            # Not before: what is forked shares what it was forked from.
            self._ids = count(int.from_bytes(os.urandom(8), "big"), 0x9E3779B97F4A7C15)
        self.is_on = is_on
        for tool in self._tools:
            if is_on and self.wants(tool.name):
                from snakehouse._spans import traced

                tool.function = traced(tool, self)
            else:
                tool.function = tool.plain
        if self._changed is not None:
            self._changed()

    def wants(self, name: str) -> bool:
        """Whether the host wants to hear of what has this name."""
        is_wanted = self._wanted.get(name)
        if is_wanted is None:
            if len(self._wanted) >= _MAX_NAMES:
                self._wanted = {}
            is_wanted = self._wanted[name] = self._wants(name)
        return is_wanted

    def is_sampled(self) -> bool:
        """Whether this event is one of those that are kept: each n-th, if a part is."""
        self._saved += self._rate
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True

    def new_id(self) -> bytes:
        """An id for a span."""
        return ((next(self._ids) & _MASK) or 1).to_bytes(8, "big")

    def add(self, item: bytes) -> None:
        """Keep an encoded map until it is sent. From any thread."""
        waiting = self.waiting
        if len(waiting) >= _MAX_WAITING or len(item) > _MAX_ITEM:
            self._dropped += 1
            return
        waiting.append(item)

    def is_due(self) -> bool:
        """Whether what waits should be sent now."""
        return len(self.waiting) >= _DUE or monotonic() - self._since >= DELAY

    def speak(self) -> None:
        """Send what is due. Called by tools, so that those that run for long are heard."""
        if self.voice is not None and self.is_due():
            self.voice()

    def take(self) -> bytes:
        """One frame with what waits, or with the first part of it; empty if nothing does."""
        items: list[bytes] = []
        length, waiting = 0, self.waiting
        if self._dropped:
            items.append(_msgpack.encode({"dropped": self._dropped}))
            self._dropped = 0
        while waiting and length < _MAX_BATCH:
            try:
                item = waiting.popleft()
            except IndexError:
                # Another thread was quicker.
                break
            items.append(item)
            length += len(item)
        if not items:
            return b""
        self._since = monotonic()
        body = b"".join((b"\xdc", len(items).to_bytes(2, "big"), *items))
        return HEAD.pack(len(body), KIND_TELEMETRY, 0) + body

    def _leave_to_parent(self) -> None:
        self.is_on = False
        self.voice = None
        self.waiting.clear()


def _filter(allow: list[str], deny: list[str]) -> Callable[[str], bool]:
    """Which names are wanted: those that are allowed, or all if nothing is said, but for some."""
    if not allow and not deny:
        return _every
    import re

    def pattern(globs: list[str]) -> re.Pattern[str]:
        # Everything but * and ? stands for itself.
        texts = [re.escape(glob).replace(r"\*", ".*").replace(r"\?", ".") for glob in globs]
        return re.compile("|".join(texts), re.DOTALL)

    allowed, denied = pattern(allow or ["*"]), pattern(deny)
    return lambda name: bool(allowed.fullmatch(name)) and not (deny and denied.fullmatch(name))


def _every(_name: str) -> bool:
    return True


current = Telemetry()
