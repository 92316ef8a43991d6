"""Python functions as tools of a Snakehouse pool.

Write plain functions, decorate them, and name the file when the pool starts::

    import snakehouse

    @snakehouse.tool
    def shout(text: str, times: int = 1) -> str:
        return text.upper() * times

A tool runs in a worker process, one call at a time unless the pool asks for more: then calls run
in threads, or as tasks of one event loop if every tool is ``async``. Its arguments and its result
are None, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, the
types of
``datetime`` (with time zones of fixed offset), numpy arrays and pyarrow tables, nested as you like:
they arrive equal and of the same type, or the call fails with an error that names what could not
travel. (A ``memoryview`` is sent as the bytes it shows.) Arrays are ``Array`` and tables ``Arrow``
where numpy or pyarrow is not imported. What the caller shares among calls arrives without a copy,
as a read-only view; ``buffer`` and ``empty`` give memory that can be returned without one. For the
rest there are ``keep``, which leaves an object here and sends a reference, and ``sendable``, which
puts marks in the place of what cannot travel.

A tool may be an ``async`` function; where calls run one at a time, or in threads, it has an event
loop that stands still between its calls. A generator, plain or async, is a stream: each value that
it yields is sent at once, as long as the caller takes them, and what it returns comes last.
``incoming()`` gives the items that the caller sends to a stream meanwhile. A stream that is given
up closes its generator, so that its ``finally`` blocks run::

    @snakehouse.tool
    def shouted():
        for text in snakehouse.incoming():
            yield text.upper()

Calls of one session share ``session_state()``, a dict with limits that is dropped when the session
is over; functions that are marked with ``on_session_end`` are called then.

What a tool raises becomes the caller's error, with type, message, traceback and causes; raise
``ToolError`` to give it a stable code and a hint. What it prints goes to the pool's log.
``sys.exit`` ends the worker, and the call fails because its worker died; ``DeviceFault`` does the
same, and has the host leave the worker's device alone for a while. A caller that gives up
raises ``Cancelled`` inside of a plain function or generator, wherever it is, and cancels the task
of an async one. In a thread, ``Cancelled`` waits until a sleep or a system call is over. What a
tool sets in its context variables ends with its call.

A host can have tools too: Rust closures, which a tool calls as ``host.NAME(...)``, and an async
one as ``await host_async.NAME(...)``. What they raise is ``HostToolError``. ``host_tools()`` tells
which there are; in tests without a host, ``snakehouse.testing.host_tools`` stands in for them::

    @snakehouse.tool
    def price(fruit: str) -> int:
        return snakehouse.host.lookup(key=fruit)["price"]

``span`` makes a part of a call visible in its trace and ``emit`` tells the host of something that
happened; both cost next to nothing unless the host asked for telemetry. ``trace`` gives the place
in the trace, for requests to elsewhere.

This package needs nothing but the standard library.
"""

from snakehouse._buffers import buffer, empty
from snakehouse._callbacks import HostTool
from snakehouse._context import deadline, incoming, remaining, session, session_state
from snakehouse._errors import (
    Cancelled,
    DeviceFault,
    HostToolError,
    LostReference,
    MalformedValue,
    SessionStateFull,
    SnakehouseError,
    ToolError,
    UnsupportedValue,
)
from snakehouse._host import host, host_async, host_tools
from snakehouse._marks import (
    Array,
    Arrow,
    Reference,
    Unsupported,
    keep,
    sendable,
)
from snakehouse._sessions import SessionState, on_session_end
from snakehouse._spans import emit, span, trace
from snakehouse._tool import tool
from snakehouse._trace import TraceContext
from snakehouse._version import __version__

__all__ = [
    "Array",
    "Arrow",
    "Cancelled",
    "DeviceFault",
    "HostTool",
    "HostToolError",
    "LostReference",
    "MalformedValue",
    "Reference",
    "SessionState",
    "SessionStateFull",
    "SnakehouseError",
    "ToolError",
    "TraceContext",
    "Unsupported",
    "UnsupportedValue",
    "__version__",
    "buffer",
    "deadline",
    "emit",
    "empty",
    "host",
    "host_async",
    "host_tools",
    "incoming",
    "keep",
    "on_session_end",
    "remaining",
    "sendable",
    "session",
    "session_state",
    "span",
    "tool",
    "trace",
]
