"""Everything this package raises.

::

    BaseException
     +-- Cancelled                   the caller gave up
     +-- SystemExit
     |    +-- DeviceFault            raised by tools: the worker and its device are done for
     +-- Exception
          +-- SnakehouseError
               +-- ToolError         raised by tools, with a code and a hint
               +-- HostToolError     raised by tools of the host, with a kind, a code and a hint
               +-- UnsupportedValue  a value that does not travel (also a TypeError)
               +-- MalformedValue    bytes that are no value (also a ValueError)
               +-- LostReference     its object is not here (also a LookupError)
               +-- SessionStateFull  what is to be stored is over a limit (a ToolError)
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What a host reads out of the exit status of a worker: EX_OSERR.
EXIT_DEVICE_FAULT = 71


class Cancelled(BaseException):
    """The caller gave the running call up.

    Raised inside of the tool, once, at whatever it is doing. Not an ``Exception``, so that a broad
    ``except`` does not swallow it: clean up and let it pass. A tool that goes on all the same is
    killed with its worker after a grace.
    """


class DeviceFault(SystemExit):
    """The device that this worker is bound to failed, and so did everything that was set up on it.

    Raise it from a tool, with a message for the log. The worker ends, the call fails because of it,
    and the host leaves the device alone for a while; the next worker gets another one.
    """

    def __init__(self, message: str) -> None:
        super().__init__(EXIT_DEVICE_FAULT)
        try:
            print(f"snakehouse worker: device fault: {message}", file=sys.stderr, flush=True)
        except (AttributeError, OSError, ValueError):
            # There is no standard error, or nobody reads it: the exit status says what matters.
            pass


class SnakehouseError(Exception):
    """Base of the errors of this package."""


class ToolError(SnakehouseError):
    """A failure that the caller is meant to tell apart.

    ``code`` is a stable name for programs, ``hint`` says what a person can do about it.
    """

    # Also of a subclass that does not call ``__init__``.
    code: str = "tool_error"
    hint: str | None = None

    def __init__(self, message: str, *, code: str = "tool_error", hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class HostToolError(SnakehouseError):
    """A tool of the host failed, or could not be called.

    ``kind`` is the family (``not_found``, ``invalid_input``, ``saturated``, ...), ``code`` the
    stable name that the host gave it, ``hint`` what a person can do about it. If a tool does not
    catch it, it travels on to the tool's caller, with what the host said was its cause.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str = "tool",
        code: str = "host_error",
        hint: str | None = None,
        cause: dict[str, Any] | None = None,
    ) -> None:
        """``cause`` is a failure map, of what happened at the host."""
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.hint = hint
        self.cause = cause


class SessionStateFull(ToolError):
    """The state of a session has a limit that this would go over. Nothing was stored."""

    def __init__(self, message: str) -> None:
        hint = "keep less in the session, or raise the pool's limits of sessions"
        super().__init__(message, code="session_state_full", hint=hint)


class UnsupportedValue(SnakehouseError, TypeError):
    """A value that does not travel. The message names its type and where it is.

    ``path`` is an expression such as ``$['rows'][3]``, in which ``$`` is the whole value.
    """

    def __init__(self, reason: str, path: str) -> None:
        super().__init__(f"{reason} at {path}")
        self.path = path


class MalformedValue(SnakehouseError, ValueError):
    """Bytes that are not the encoding of a value."""


class LostReference(SnakehouseError, LookupError):
    """A reference to an object that is not in this process, or was let go."""
