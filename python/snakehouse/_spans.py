"""Spans and events of the running call: those that tools make, and the call's own.

A span is made only if the host asked for telemetry and the call belongs to a trace that somebody
records. What ``here`` holds is the place that the next thing has: below which span it is made.
"""

from __future__ import annotations

import struct
from contextvars import ContextVar
from time import time_ns

from snakehouse import _msgpack, _telemetry
from snakehouse._context import current
from snakehouse._frames import TRACE_FLAGS, TRACE_SAMPLED
from snakehouse._tool import ASYNC_FUNCTION, ASYNC_GENERATOR, FUNCTION
from snakehouse._trace import TraceContext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from contextvars import Token
    from types import TracebackType
    from typing import Any

    from snakehouse._context import Call
    from snakehouse._telemetry import Telemetry
    from snakehouse._tool import Tool

    Scalar = bool | int | float | str

_MAX_NAME = 128
_MAX_TEXT = 1024
_MAX_ATTRIBUTES = 32
_MAX_INT = 1 << 63
_NOWHERE = bytes(28)
# In a place: the trace, the span, the flags and the rest.
_TRACE, _SPAN, _REST = slice(0, 16), slice(16, 24), slice(24, 28)

# From the trace's id on, every span has the same fields in the same places.
_FIXED = struct.Struct(">16s7s8s9s8s7sQ5sQ")
_TRACE_KEY = _msgpack.encode("trace") + b"\xc4\x10"
_SPAN_KEY = _msgpack.encode("span") + b"\xc4\x08"
_PARENT_KEY = _msgpack.encode("parent") + b"\xc4\x08"
_START_KEY = _msgpack.encode("start") + b"\xcf"
_END_KEY = _msgpack.encode("end") + b"\xcf"
_FIELDS = 7

here: ContextVar[bytes] = ContextVar("snakehouse_here")


def place() -> bytes:
    """Where what is done next stands: the end of an open head."""
    where = here.get(None)
    if where is None:
        call = current.get()
        where = _NOWHERE if call is None else call.where()
    return where


def place_in(call: Call) -> bytes:
    """Where what this call does next stands."""
    return here.get(None) or call.where()


def trace() -> TraceContext | None:
    """Where the running code stands in a trace; ``None`` if the call is part of none.

    ``str()`` of it is a W3C ``traceparent``, for requests that the tool makes. Outside of a call it
    is ``None`` as well.
    """
    return TraceContext.read(place())


def span(name: str, /, **attributes: Scalar) -> Span:
    """A part of the call, to be seen in its trace: ``with snakehouse.span("load", rows=5): ...``.

    What is done inside, also by tools of the host, is below it. It costs next to nothing unless the
    trace is recorded. Names have at most 128 printable ASCII characters; attributes are bool, int
    of 64 bits, float or str (cut at 1,024 characters), at most 32 of them.

    Raises ``TypeError`` or ``ValueError`` for other names and attributes, recorded or not.
    """
    return Span(_checked(name), _scalars(attributes))


class Span:
    """What ``span`` gives: a context manager, for ``async`` code too. Use it once."""

    __slots__ = ("_attributes", "_id", "_name", "_place", "_start", "_token")

    def __init__(self, name: str, attributes: dict[str, Scalar]) -> None:
        self._name = name
        self._attributes = attributes
        self._id = b""
        self._place = b""
        self._start = 0
        self._token: Token[bytes] | None = None

    def set(self, **attributes: Scalar) -> None:
        """Add attributes, or replace them. Raises as ``span`` does."""
        self._attributes = _scalars(self._attributes | attributes)

    def __enter__(self) -> Span:
        telemetry, where = _telemetry.current, place()
        if telemetry.is_on and where[TRACE_FLAGS] & TRACE_SAMPLED and telemetry.wants(self._name):
            self._id = telemetry.new_id()
            self._place = where
            self._token = here.set(_below(where, self._id))
            self._start = time_ns()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            here.reset(self._token)
            self._token = None
            head = _head("inner", self._name)
            told = _told(head, self._place, self._id, self._start, kind, self._attributes)
            _telemetry.current.add(told)
            _telemetry.current.speak()


def emit(name: str, /, *values: Scalar, **attributes: Scalar) -> None:
    """Tell the host of something that happened: ``snakehouse.emit("loss", 0.25, step=10)``.

    It costs next to nothing unless the host asked for it; it never waits for anything and never
    fails a call: what does not fit is dropped, and counted. Names, values and attributes are as
    those of ``span``. What a thread of the tool's own tells while no call runs travels with the
    next call.

    Raises ``TypeError`` or ``ValueError`` for other names, values and attributes, told or not.
    """
    name = _checked(name)
    numbers = [_scalar(name, value) for value in values[:_MAX_ATTRIBUTES]]
    scalars = _scalars(attributes)
    if len(values) > _MAX_ATTRIBUTES:
        raise ValueError(f"{name} has more than {_MAX_ATTRIBUTES} values")
    telemetry = _telemetry.current
    if not telemetry.is_on or not telemetry.wants(name) or not telemetry.is_sampled():
        return
    event: dict[str, object] = {"event": name, "at": time_ns()}
    if numbers:
        event["values"] = numbers
    if scalars:
        event["attributes"] = scalars
    where = place()
    if where[_TRACE] != _NOWHERE[_TRACE]:
        event["trace"] = where[_TRACE]
        event["span"] = where[_SPAN]
    telemetry.add(_msgpack.encode(event))
    telemetry.speak()


def traced(tool: Tool, telemetry: Telemetry) -> Callable[..., Any]:
    """The tool's function, which makes a span of each call in a trace that is recorded."""
    record = _Record(tool, telemetry)
    if tool.kind == FUNCTION:
        return _function(tool.plain, record)
    if tool.kind == ASYNC_FUNCTION:
        return _coroutine(tool.plain, record)
    if tool.kind == ASYNC_GENERATOR:
        return _async_generator(tool.plain, record)
    return _generator(tool.plain, record)


class _Record:
    """The spans of one tool's calls."""

    __slots__ = ("_add", "_head", "_new_id")

    def __init__(self, tool: Tool, telemetry: Telemetry) -> None:
        self._head = _head("tool", tool.name[:_MAX_NAME])
        self._new_id = telemetry.new_id
        self._add = telemetry.add

    def begin(self) -> _Call | None:
        """The running call's span; ``None`` if nobody records its trace."""
        call = current.get()
        return None if call is None or not call.is_sampled() else self.begin_in(call)

    def begin_in(self, call: Call) -> _Call:
        """The span of this call, whose trace somebody records."""
        return _Call(call.where(), self._new_id())

    def end(self, call: _Call, kind: type[BaseException] | None = None) -> None:
        """The span is over."""
        self._add(_told(self._head, call.place, call.id, call.start, kind, None))


class _Call:
    """The span of a running call."""

    __slots__ = ("id", "place", "start", "token")

    def __init__(self, where: bytes, new: bytes) -> None:
        self.place = where
        self.id = new
        self.token = here.set(_below(where, new))
        self.start = time_ns()


def _function(function: Callable[..., Any], record: _Record) -> Callable[..., Any]:
    running = current.get

    def call(*args: Any, **kwargs: Any) -> Any:
        # Of many calls few are recorded, and the others must cost next to nothing.
        own = running()
        if own is None or not own.is_sampled():
            return function(*args, **kwargs) if kwargs else function(*args)
        begun = record.begin_in(own)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            record.end(begun, type(error))
            raise
        else:
            record.end(begun)
            return result
        finally:
            # The next call may run in the same context. Others have one of their own.
            here.reset(begun.token)

    return call


def _coroutine(function: Callable[..., Any], record: _Record) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        begun = record.begin()
        if begun is None:
            return await function(*args, **kwargs)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            record.end(begun, type(error))
            raise
        record.end(begun)
        return result

    return call


def _generator(function: Callable[..., Any], record: _Record) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        begun = record.begin()
        try:
            generator: Generator[Any, Any, Any] = function(*args, **kwargs)
            result = yield from generator
        except BaseException as error:
            if begun is not None:
                record.end(begun, type(error))
            raise
        if begun is not None:
            record.end(begun)
        return result

    return call


def _async_generator(function: Callable[..., Any], record: _Record) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        begun = record.begin()
        items: AsyncGenerator[Any, Any] = function(*args, **kwargs)
        try:
            async for item in items:
                yield item
        except BaseException as error:
            if begun is not None:
                record.end(begun, type(error))
            raise
        else:
            if begun is not None:
                record.end(begun)
        finally:
            await items.aclose()

    return call


def _below(where: bytes, new: bytes) -> bytes:
    return where[_TRACE] + new + where[_REST]


def _head(kind: str, name: str) -> bytes:
    """A span's bytes up to its trace, without the number of its fields."""
    encode = _msgpack.encode
    return encode("kind") + encode(kind) + encode("name") + encode(name) + _TRACE_KEY


def _told(
    head: bytes,
    where: bytes,
    new: bytes,
    start: int,
    kind: type[BaseException] | None,
    attributes: dict[str, Scalar] | None,
) -> bytes:
    """A span that is over, as a map."""
    fields, rest = _FIELDS, b""
    if kind is not None:
        fields += 1
        # What it says may be of the arguments; its type is not.
        name = kind.__name__.encode("utf-8", "backslashreplace").decode()[:_MAX_NAME]
        rest = _msgpack.encode("error") + _msgpack.encode(name)
    if attributes:
        fields += 1
        rest += _msgpack.encode("attributes") + _msgpack.encode(attributes)
    fixed = _FIXED.pack(
        where[_TRACE],
        _SPAN_KEY,
        new,
        _PARENT_KEY,
        where[_SPAN],
        _START_KEY,
        start,
        _END_KEY,
        max(start, time_ns()),
    )
    return bytes((0x80 | fields,)) + head + fixed + rest


def _checked(name: str) -> str:
    if type(name) is not str:
        raise TypeError(f"a name is a str, not {type(name).__name__}")
    if not 0 < len(name) <= _MAX_NAME or not name.isascii() or not name.isprintable():
        raise ValueError(f"a name has 1 to {_MAX_NAME} printable ASCII characters: {name[:200]!r}")
    return name


def _scalars(attributes: dict[str, Scalar]) -> dict[str, Scalar]:
    if len(attributes) > _MAX_ATTRIBUTES:
        raise ValueError(f"there are more than {_MAX_ATTRIBUTES} attributes")
    return {_checked(name): _scalar(name, value) for name, value in attributes.items()}


def _scalar(name: str, value: object) -> Scalar:
    """The value as the exact type that it is a kind of."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -_MAX_INT <= value < _MAX_INT:
            raise ValueError(f"{name} does not fit into 64 bits")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.encode(value[:_MAX_TEXT], "utf-8", "backslashreplace").decode()
    raise TypeError(f"{name} is a {type(value).__name__}, not a bool, int, float or str")
