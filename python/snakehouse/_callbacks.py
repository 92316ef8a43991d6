"""Callbacks: calls that go the other way, from a tool to a Rust closure of the host.

The worker numbers its callbacks itself and sends them with the top bit of the frame's kind set;
the host answers each exactly once, also one that nobody waits for any more. Owned here: the names
of the host's tools, which the settings bring, and the callbacks that are not answered. Answers that
are arriving in pieces have at most ``MAX_BODY`` together. One thread reads and calls ``receive``;
any thread may start a callback.
"""

from __future__ import annotations

import os
from itertools import count
from time import monotonic

from snakehouse import _failure, _frames, _spans
from snakehouse._errors import HostToolError, MalformedValue
from snakehouse._frames import (
    FLAG_MORE,
    HEAD,
    KIND_CALLBACK_CANCEL,
    KIND_CALLBACK_DATA,
    KIND_CALLBACK_ERROR,
    KIND_CALLBACK_LAST,
    KIND_CALLBACK_OPEN,
    MAX_CHUNK,
    NEVER,
    OPEN,
    TRACE,
    ProtocolError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from snakehouse._context import Call

_MASK = 0xFFFFFFFF
_MAX_DEPTH = 0xFF


class HostTool:
    """A tool of the host, as ``snakehouse.host_tools()`` tells of it.

    ``parameters`` and ``result`` are JSON Schemas, or ``None`` if nobody said.
    """

    __slots__ = ("doc", "name", "number", "parameters", "result")

    def __init__(
        self,
        name: str,
        doc: str = "",
        parameters: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
        number: int = 0,
    ) -> None:
        self.name = name
        self.doc = doc
        self.parameters = parameters
        self.result = result
        self.number = number

    def __repr__(self) -> str:
        return f"HostTool({self.name!r})"


class Pending:
    """A callback that is not answered, and what came of its answer."""

    __slots__ = ("body", "is_abandoned", "is_refused", "kind", "number", "wake")

    def __init__(self, number: int, wake: Callable[[], None]) -> None:
        self.number = number
        self.wake = wake
        self.body = bytearray()
        # Of the last frame; 0 before it.
        self.kind = 0
        self.is_abandoned = False
        self.is_refused = False


class Callbacks:
    """The callbacks of one worker."""

    def __init__(self) -> None:
        self.tools: dict[str, HostTool] = {}
        self._open: dict[int, Pending] = {}
        self._numbers = count(1)
        self._held = 0
        self._is_closed = False
        os.register_at_fork(after_in_child=self._close)

    def learn(self, tools: Any) -> None:
        """What the settings say about the host's tools. Raises ``ProtocolError``."""
        try:
            known = [
                HostTool(each["name"], each["doc"], each["parameters"], each["result"], number)
                for number, each in enumerate(tools)
            ]
            self.tools = {tool.name: tool for tool in known}
        except (TypeError, KeyError) as error:
            raise ProtocolError(f"settings without host tools: {error}") from None

    def find(self, name: str) -> HostTool:
        """A tool by its name. Raises ``HostToolError`` if there is none."""
        tool = self.tools.get(name)
        if tool is None:
            raise unknown(name, self.tools)
        return tool

    def start(
        self, tool: HostTool, stream: int, call: Call, body: bytes, wake: Callable[[], None]
    ) -> tuple[Pending, bytes]:
        """A new callback, made in call ``stream``, and its frames.

        Raises ``RuntimeError`` in a child that a tool forked.
        """
        if self._is_closed:
            raise RuntimeError("a process that a tool forked has no host")
        number = next(self._numbers) & _MASK
        while not number or number in self._open:
            number = next(self._numbers) & _MASK
        self._open[number] = pending = Pending(number, wake)
        micros = call.micros
        if micros != NEVER:
            micros = max(0, micros - int((monotonic() - call.arrived) * 1e6))
        trace, span, flags, depth = TRACE.unpack(_spans.place_in(call))
        place = TRACE.pack(trace, span, flags, min(depth + 1, _MAX_DEPTH))
        more = FLAG_MORE if len(body) > MAX_CHUNK else 0
        head = OPEN.pack(tool.number, more, micros, stream) + place
        if not more:
            head = HEAD.pack(len(head) + len(body), KIND_CALLBACK_OPEN, number) + head
            return pending, head + body
        pieces = memoryview(body)
        frames = [
            HEAD.pack(len(head) + MAX_CHUNK, KIND_CALLBACK_OPEN, number),
            head,
            pieces[:MAX_CHUNK],
        ]
        for at in range(MAX_CHUNK, len(body), MAX_CHUNK):
            piece = pieces[at : at + MAX_CHUNK]
            is_last = at + MAX_CHUNK >= len(body)
            kind = KIND_CALLBACK_LAST if is_last else KIND_CALLBACK_DATA
            frames += (HEAD.pack(len(piece), kind, number), piece)
        return pending, b"".join(frames)

    def abandon(self, pending: Pending) -> bytes:
        """Nobody waits for it any more; gives the frame that says so, or nothing."""
        pending.is_abandoned = True
        return b"" if pending.kind else HEAD.pack(0, KIND_CALLBACK_CANCEL, pending.number)

    def receive(self, kind: int, number: int, payload: memoryview) -> None:
        """A frame of an answer. Raises ``ProtocolError``."""
        pending = self._open.get(number)
        if pending is None or len(payload) > MAX_CHUNK:
            raise ProtocolError(f"frame of kind {kind} for callback {number}")
        if kind == KIND_CALLBACK_ERROR:
            self._let_go(pending)
            pending.body += payload
            pending.is_refused = False
        else:
            self._add(pending, payload)
        if kind != KIND_CALLBACK_DATA:
            del self._open[number]
            self._held -= 0 if kind == KIND_CALLBACK_ERROR else len(pending.body)
            pending.kind = kind
            if not pending.is_abandoned:
                pending.wake()

    def result(self, pending: Pending, decode: Callable[[bytearray], Any]) -> Any:
        """What an answered callback gave. Raises ``HostToolError``."""
        if pending.is_refused:
            raise HostToolError(
                f"the answer is over {_frames.MAX_BODY} bytes",
                kind="invalid_input",
                code="body_too_large",
            )
        try:
            value = decode(pending.body)
        except MalformedValue as error:
            message = f"the answer is no value: {error}"
            raise HostToolError(message, kind="corrupt", code="bad_result") from None
        if pending.kind == KIND_CALLBACK_LAST:
            return value
        raise _failure.to_error(value)

    def _add(self, pending: Pending, piece: memoryview) -> None:
        if pending.is_refused or pending.is_abandoned:
            return
        if self._held + len(piece) > _frames.MAX_BODY:
            self._let_go(pending)
            pending.is_refused = True
            return
        self._held += len(piece)
        pending.body += piece

    def _let_go(self, pending: Pending) -> None:
        self._held -= len(pending.body)
        pending.body = bytearray()

    def _close(self) -> None:
        # The socket is the parent's.
        self._is_closed = True


def unknown(name: str, tools: dict[str, HostTool]) -> HostToolError:
    """The error of a name that the host does not know."""
    known = ", ".join(sorted(tools))
    return HostToolError(
        f"the host has no tool {name}",
        kind="not_found",
        code="unknown_host_tool",
        hint=f"there are: {known}" if known else "give the pool's spec a host_tool",
    )
