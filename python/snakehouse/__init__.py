"""Python functions as tools of a Snakehouse pool.

Write plain functions, decorate them, and name the file when the pool starts::

    import snakehouse

    @snakehouse.tool
    def shout(text: str, times: int = 1) -> str:
        return text.upper() * times

A tool runs in a worker process, one call at a time. Its arguments and its result are None, bool,
int, float, str, bytes, list, tuple and dict, nested as you like: they arrive equal and of the same
type, or the call fails with an error that names what could not travel. (``bytearray`` and
``memoryview`` are sent as the bytes they hold.)

What a tool raises becomes the caller's error, with type, message, traceback and causes; raise
``ToolError`` to give it a stable code and a hint. What it prints goes to the pool's log.
``sys.exit`` ends the worker, and the call fails because its worker died. A caller that gives up
raises ``Cancelled`` inside of the tool, wherever it is.

This package needs nothing but the standard library.
"""

from snakehouse._context import deadline, remaining, session
from snakehouse._errors import (
    Cancelled,
    MalformedValue,
    SnakehouseError,
    ToolError,
    UnsupportedValue,
)
from snakehouse._tool import tool
from snakehouse._version import __version__

__all__ = [
    "Cancelled",
    "MalformedValue",
    "SnakehouseError",
    "ToolError",
    "UnsupportedValue",
    "__version__",
    "deadline",
    "remaining",
    "session",
    "tool",
]
