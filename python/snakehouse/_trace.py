"""Where a call stands in a trace: the same three things as a W3C ``traceparent``."""

from __future__ import annotations

from snakehouse._frames import TRACE, TRACE_SAMPLED

_NO_TRACE = bytes(16)


class TraceContext:
    """A place in a trace: what is done next is a child of this span.

    ``trace_id`` has 32 hexadecimal digits, ``span_id`` 16. Nobody records a trace that is not
    ``is_sampled``. ``str()`` gives the ``traceparent`` header that takes the trace on elsewhere.
    """

    __slots__ = ("is_sampled", "span_id", "trace_id")

    def __init__(self, trace_id: str, span_id: str, *, is_sampled: bool) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.is_sampled = is_sampled

    @classmethod
    def read(cls, place: bytes) -> TraceContext | None:
        """What the end of an open head says; ``None`` if that is nothing."""
        trace, span, flags, _ = TRACE.unpack(place)
        if trace == _NO_TRACE:
            return None
        return cls(trace.hex(), span.hex(), is_sampled=bool(flags & TRACE_SAMPLED))

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{int(self.is_sampled):02x}"

    def __repr__(self) -> str:
        return f"TraceContext({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TraceContext) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))
