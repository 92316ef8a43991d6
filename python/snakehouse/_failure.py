"""What was raised, as the map that an error frame carries.

The map's keys are documented in ``crates/wire/src/failure.rs``. Building it must not fail, whatever
the exception does in its ``__str__``; and it must fit into one frame.
"""

from __future__ import annotations

from snakehouse import _msgpack
from snakehouse._errors import Cancelled, MalformedValue, ToolError, UnsupportedValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

MAX_CHAIN = 16
_MAX_TEXT = 64 << 10
_OUTER_FRAMES, _INNER_FRAMES = 16, 48
_MAX_ENCODED = 1 << 20


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
    return {
        "kind": kind,
        "code": code,
        "type": "" if error is None else _type_name(error),
        "message": message[:_MAX_TEXT],
        "hint": hint,
        "traceback": [] if error is None else _frames(error.__traceback__, skip),
        "cause": None if error is None else _cause(error, 1),
    }


def from_exception(error: BaseException, *, skip: int = 0) -> dict[str, Any]:
    """The failure of a tool that raised ``error``."""
    kind, code, hint = "tool", "tool_raised", None
    if isinstance(error, Cancelled):
        message = str(error) or "the caller gave up"
        return failure("cancelled", "cancelled", message, error=error, skip=skip)
    if isinstance(error, ToolError):
        code, hint = str(error.code), None if error.hint is None else str(error.hint)
    elif isinstance(error, UnsupportedValue):
        code = "unsupported_value"
    elif isinstance(error, MalformedValue):
        code = "malformed_value"
    return failure(kind, code, message_of(error), hint=hint, error=error, skip=skip)


def encode(content: dict[str, Any]) -> bytes:
    """The payload of an error frame; parts are left out until it fits."""
    body = _msgpack.encode(_sendable(content))
    if len(body) <= _MAX_ENCODED:
        return body
    short: dict[str, Any] = {
        **content,
        "traceback": [],
        "cause": None,
        "message": content["message"][:10_000],
    }
    return _msgpack.encode(_sendable(short))


def _sendable(value: Any) -> Any:
    """The same content without lone surrogates, which source lines and messages may hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
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
        lines = [str(error)]
        lines += [str(note) for note in getattr(error, "__notes__", ())]
        return "\n".join(lines)[:_MAX_TEXT]
    except Exception as broken:
        return f"<{_type_name(error)} whose message raised {_type_name(broken)}>"


def _cause(error: BaseException, depth: int) -> dict[str, Any] | None:
    cause = error.__cause__
    if cause is None and not error.__suppress_context__:
        cause = error.__context__
    if cause is None or depth >= MAX_CHAIN:
        return None
    return {
        "kind": "tool",
        "code": "tool_raised",
        "type": _type_name(cause),
        "message": message_of(cause),
        "hint": None,
        "traceback": _frames(cause.__traceback__, 0),
        "cause": _cause(cause, depth + 1),
    }


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
