"""What went wrong with a call, as the body of its error frame."""

from __future__ import annotations

from snakehouse import _failure
from snakehouse._errors import Cancelled, MalformedValue, UnsupportedValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from snakehouse._tool import Tool


class NotAStream(Exception):
    """A generator was called as if it gave one result."""


class Recalled(Exception):
    """The host took a call back before it ran."""


class BadItem(Exception):
    """An item of a stream cannot travel."""


def refused(kind: str, code: str, message: str) -> bytes:
    """A call that never ran."""
    return _failure.encode(_failure.failure(kind, code, message))


def no_tool(number: int) -> bytes:
    """A call of what was never announced."""
    return refused("not_found", "unknown_tool", f"the worker has no tool number {number}")


def too_late() -> bytes:
    """A call whose caller has stopped waiting."""
    return refused("deadline", "deadline", "the deadline passed before the call began")


def too_large(limit: int) -> bytes:
    """A call whose body nobody kept."""
    message = f"the body of the call is over {limit} bytes"
    return refused("invalid_input", "body_too_large", message)


def given_up() -> bytes:
    """A call that was cancelled before it ran."""
    return refused("cancelled", "cancelled", "the caller gave up")


def recalled() -> bytes:
    """A call that the host took back before it ran."""
    return not_decoded(Recalled())


def failed(tool: Tool, error: BaseException) -> bytes:
    """A tool raised, or gave what does not travel. Never raises: every call is answered."""
    try:
        return _failure.encode(_failed(tool, error))
    except BaseException:
        return _failure.encode(_failure.unspeakable(error))


def _failed(tool: Tool, error: BaseException) -> dict[str, Any]:
    outer, inner = _own_frames(error.__traceback__)
    if type(error) is TypeError and not inner:
        # Raised by the call itself: the arguments do not fit the parameters.
        content = _failure.failure(
            "invalid_input",
            "bad_arguments",
            str(error),
            hint=f"the tool is {tool.name}{tool.signature()}",
        )
    elif isinstance(error, NotAStream):
        content = _failure.failure(
            "invalid_input",
            "is_stream",
            f"{tool.name} gives a stream, not one result",
            hint="open it as a stream",
        )
    elif isinstance(error, BadItem):
        content = _failure.failure(
            "tool", "unsupported_value", f"an item of {tool.name}: {error.__cause__}"
        )
    elif isinstance(error, UnsupportedValue) and _is_ours(error):
        content = _failure.failure(
            "tool", "unsupported_value", f"the result of {tool.name}: {error}"
        )
    else:
        content = _failure.from_exception(error, skip=outer)
    return content


def not_decoded(error: BaseException) -> bytes:
    """The failure of a call whose tool never ran. Never raises."""
    try:
        return _failure.encode(_not_decoded(error))
    except BaseException:
        return _failure.encode(_failure.unspeakable(error))


def _not_decoded(error: BaseException) -> dict[str, Any]:
    if isinstance(error, Cancelled):
        content = _failure.from_exception(error, skip=_own_frames(error.__traceback__)[0])
    elif isinstance(error, Recalled):
        content = _failure.failure("cancelled", "recalled", "the host took the call back")
    elif isinstance(error, (MalformedValue, TypeError, ValueError)):
        content = _failure.failure("invalid_input", "malformed_value", str(error))
    else:
        message = f"{type(error).__name__} while the call's body was decoded"
        if said := _failure.message_of(error):
            message = f"{message}: {said}"
        content = _failure.failure("invalid_input", "body_not_decoded", message)
    return content


def _own_frames(traceback: TracebackType | None) -> tuple[int, int]:
    """How many outermost frames are this package's, and how many are behind them."""
    outer = inner = 0
    while traceback is not None:
        if inner or not _is_own(traceback):
            inner += 1
        else:
            outer += 1
        traceback = traceback.tb_next
    return outer, inner


def _is_own(traceback: TracebackType) -> bool:
    return str(traceback.tb_frame.f_globals.get("__name__")).startswith("snakehouse._")


def _is_ours(error: UnsupportedValue) -> bool:
    """Whether the codec refused the result, and not the tool something of its own."""
    traceback: Any = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and _is_own(traceback)
