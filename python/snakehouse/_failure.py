"""What was raised, as the map that an error frame carries.

The map's keys are documented in ``crates/wire/src/failure.rs``. Building it must not fail, whatever
the exception does in its ``__str__``; and it must fit into one frame.
"""

from __future__ import annotations

import os

from snakehouse import _msgpack
from snakehouse._errors import (
    Cancelled,
    HostToolError,
    MalformedValue,
    ToolError,
    UnsupportedValue,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
MAX_CHAIN = 16
# Exceptions in one failure: causes, members of groups, and their causes.
MAX_ERRORS = 64
_MAX_TEXT = 64 << 10
_MAX_NOTES = 16
_OUTER_FRAMES, _INNER_FRAMES = 16, 48
# The longest frame that a failure, or a hello, is put into.
MAX_ENCODED = 1 << 20


def failure(
    kind: str,
    code: str,
    message: str,
    *,
    hint: str | None = None,
    error: BaseException | None = None,
    skip: int = 0,
) -> dict[str, Any]:
    """A failure, with the type, the place and the causes of ``error`` if there is one.

    ``skip`` outermost frames of the traceback are this package's own and left out.
    """
    if error is None:
        return _map(kind, code, "", message[:_MAX_TEXT], hint)
    return _describe(error, kind, code, message[:_MAX_TEXT], hint, skip, _Room(), 1)


def from_exception(error: BaseException, *, skip: int = 0) -> dict[str, Any]:
    """The failure of a tool that raised ``error``. Never raises."""
    try:
        kind, code, hint = _kind_of(error)
        message = message_of(error)
        if isinstance(error, Cancelled):
            message = message or "the caller gave up"
        return failure(kind, code, message, hint=hint, error=error, skip=skip)
    except BaseException:
        return unspeakable(error)


def unspeakable(error: BaseException) -> dict[str, Any]:
    """What is left to say of an exception that breaks whoever looks at it: its type's name."""
    # Its class may lie about itself: only what ``type`` knows is asked for.
    kind = type(error)
    name = str.__str__(type.__dict__["__name__"].__get__(kind))
    message = f"<{name} that cannot be looked at>"
    if issubclass(kind, Cancelled):
        return _map("cancelled", "cancelled", name, message, None)
    return _map("tool", "tool_raised", name, message, None)


def to_error(content: Any) -> HostToolError:
    """What the host said of a callback that failed, as an exception. Never raises."""
    said: dict[Any, Any] = content if isinstance(content, dict) else {}  # pyright: ignore[reportUnknownVariableType]

    def text(key: str, default: str) -> str:
        value = said.get(key)
        return value if isinstance(value, str) else default

    hint, cause = said.get("hint"), said.get("cause")
    return HostToolError(
        text("message", "the host reported a failure that cannot be read"),
        kind=text("kind", "tool"),
        code=text("code", "failure_malformed"),
        hint=hint if isinstance(hint, str) else None,
        cause=cause if isinstance(cause, dict) else None,  # pyright: ignore[reportUnknownArgumentType]
    )


def _kind_of(error: BaseException) -> tuple[str, str, str | None]:
    """Kind, code and hint of what a tool raised."""
    if isinstance(error, Cancelled):
        return "cancelled", "cancelled", None
    if isinstance(error, ToolError):
        return "tool", str(error.code), None if error.hint is None else str(error.hint)
    if isinstance(error, HostToolError):
        # The end of a callback is not that of the call which it was made in.
        ends = (("deadline", "deadline"), ("cancelled", "cancelled"))
        code = f"host_{error.code}" if (error.kind, error.code) in ends else str(error.code)
        return str(error.kind), code, None if error.hint is None else str(error.hint)
    if isinstance(error, UnsupportedValue):
        return "tool", "unsupported_value", None
    if isinstance(error, MalformedValue):
        return "tool", "malformed_value", None
    return "tool", "tool_raised", None


def encode(content: dict[str, Any]) -> bytes:
    """The payload of an error frame; parts are left out until it fits."""
    body = encode_plain(content)
    return body if len(body) <= MAX_ENCODED else encode_plain(shortened(content))


def shortened(content: dict[str, Any]) -> dict[str, Any]:
    """A failure without its places and causes, and with short texts."""
    kept = (content["kind"], content["code"][:10_000], content["type"][:10_000])
    return _map(*kept, content["message"][:10_000], content["hint"] and content["hint"][:10_000])


def encode_plain(content: dict[str, Any]) -> bytes:
    """The bytes of any map of texts, however long."""
    return _msgpack.encode(_sendable(content))


def _sendable(value: Any) -> Any:
    """The same content without lone surrogates, which source lines and messages may hold."""
    if isinstance(value, str):
        # A subclass of the tool's own may do anything.
        return str.encode(value, "utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, list):
        return [_sendable(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, dict):
        return {key: _sendable(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return value


def _type_name(error: BaseException) -> str:
    kind = type(error)
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def message_of(error: BaseException) -> str:
    """What an exception says, whatever its ``__str__`` does."""
    try:
        return str(error)[:_MAX_TEXT]
    except BaseException as broken:
        return f"<{_type_name(error)} whose message raised {_type_name(broken)}>"


def _notes_of(error: BaseException) -> list[str]:
    try:
        notes = [str(note)[:_MAX_TEXT] for note in getattr(error, "__notes__", ())]
        return notes[:_MAX_NOTES]
    except BaseException as broken:
        return [f"<notes that raised {_type_name(broken)}>"]


class _Room:
    """How many exceptions more a failure tells of."""

    def __init__(self) -> None:
        self.left = MAX_ERRORS - 1

    def take(self) -> bool:
        self.left -= 1
        return self.left >= 0


def _map(kind: str, code: str, type_name: str, message: str, hint: str | None) -> dict[str, Any]:
    return {
        "kind": kind,
        "code": code,
        "type": type_name,
        "message": message,
        "hint": hint,
        "traceback": [],
        "cause": None,
    }


def _describe(
    error: BaseException,
    kind: str,
    code: str,
    message: str,
    hint: str | None,
    skip: int,
    room: _Room,
    depth: int,
) -> dict[str, Any]:
    content = _map(kind, code, _type_name(error), message, hint)
    content["traceback"] = places = _frames(error.__traceback__, skip)
    while isinstance(error, HostToolError) and places and places[-1][0].startswith(_PACKAGE):
        # How it came through this package tells nobody anything.
        places.pop()
    if notes := _notes_of(error):
        content["notes"] = notes
    cause = error.__cause__
    if cause is None and not error.__suppress_context__:
        cause = error.__context__
        if cause is not None:
            content["implicit"] = True
    if cause is not None and depth < MAX_CHAIN and room.take():
        content["cause"] = _plain(cause, room, depth + 1)
    if isinstance(error, HostToolError) and error.__cause__ is None and error.cause:
        content["cause"] = error.cause
        content.pop("implicit", None)
    if isinstance(error, BaseExceptionGroup):
        group: tuple[BaseException, ...] = error.exceptions  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        inside = group if depth < MAX_CHAIN else ()
        content["members"] = [_plain(each, room, depth + 1) for each in inside if room.take()]
        content["left_out"] = len(group) - len(content["members"])
    return content


def _plain(error: BaseException, room: _Room, depth: int) -> dict[str, Any]:
    kind, code, hint = _kind_of(error)
    return _describe(error, kind, code, message_of(error), hint, 0, room, depth)


def _frames(traceback: TracebackType | None, skip: int) -> list[list[Any]]:
    import linecache

    places: list[tuple[str, int, str]] = []
    while traceback is not None:
        if skip:
            skip -= 1
        else:
            code = traceback.tb_frame.f_code
            places.append((code.co_filename, traceback.tb_lineno, code.co_qualname))
        traceback = traceback.tb_next
    left_out = len(places) - _OUTER_FRAMES - _INNER_FRAMES
    if left_out > 0:
        gap = ("", 0, f"... {left_out} more ...")
        places = [*places[:_OUTER_FRAMES], gap, *places[-_INNER_FRAMES:]]
    return [
        [file, line or 0, function, linecache.getline(file, line).strip()[:500] if line else ""]
        for file, line, function in places
    ]
