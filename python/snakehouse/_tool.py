"""The decorator that makes a function a tool.

It leaves the function as it is and marks it: there is no registry. A worker serves the marked
functions that it finds in the modules it was told to import.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar, overload

    Function = TypeVar("Function", bound=Callable[..., Any])

_MARK = "__snakehouse_tool__"
# What a tool is, as the hello says it.
FUNCTION, GENERATOR = "function", "generator"
ASYNC_FUNCTION, ASYNC_GENERATOR = "async_function", "async_generator"
# Flags of its code.
_KINDS = ((0x20, GENERATOR), (0x80, ASYNC_FUNCTION), (0x200, ASYNC_GENERATOR))


class Tool:
    """A function and how it is announced."""

    __slots__ = ("description", "doc", "function", "kind", "name", "plain")

    def __init__(self, function: Callable[..., Any], kind: str, name: str, doc: str) -> None:
        # What is called: the function itself, or what makes a span of each call of it.
        self.function = self.plain = function
        self.kind = kind
        self.name = name
        self.doc = doc
        # What a hello says of it, once that is known.
        self.description: dict[str, Any] | None = None

    def signature(self) -> str:
        """The parameters as text; empty if they cannot be shown."""
        import inspect

        try:
            return str(inspect.signature(self.plain))
        except Exception:
            return ""


if TYPE_CHECKING:

    @overload
    def tool(function: Function, /) -> Function: ...
    @overload
    def tool(
        *, name: str | None = None, doc: str | None = None
    ) -> Callable[[Function], Function]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    doc: str | None = None,
) -> Any:
    """Make a function callable through a pool.

    Use it bare or with a name and a description; both default to the function's own. The function
    stays what it was and can be called directly. It may be a plain or an ``async`` function; a
    generator or an async generator is a stream: each value that it yields is sent at once.

    Raises ``TypeError`` for what is not a function: classes and other things that can be called.
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        code = getattr(function, "__code__", None)
        if code is None:
            raise TypeError(f"a tool must be a plain function, not {type(function).__name__}")
        kind = next((kind for flag, kind in _KINDS if code.co_flags & flag), FUNCTION)
        announced = Tool(function, kind, name or function.__name__, doc or function.__doc__ or "")
        setattr(function, _MARK, announced)
        return function

    return mark if function is None else mark(function)


def find_tools(namespace: dict[str, Any]) -> list[Tool]:
    """The tools among the values of a module, in the order of their definition.

    Raises ``Hidden`` for a tool that is here only behind another decorator, which took the mark
    along: whether to call what is behind it or what is before it is not for us to guess.
    """
    tools: list[Tool] = []
    hidden: list[tuple[str, Tool]] = []
    for name, value in namespace.items():
        mark = _mark_of(value)
        if mark is not None and mark.function is value:
            tools.append(mark)
        elif mark is not None:
            hidden.append((name, mark))
    for name, mark in hidden:
        if mark not in tools:
            raise Hidden(name)
    return tools


class Hidden(Exception):
    """Something decorated is not the tool that it holds; its name is all that this says."""


def _mark_of(value: object) -> Tool | None:
    """The mark of what can be called.

    It is not asked for it: a stand-in for something else may raise at any question, or import.
    """
    try:
        mark = object.__getattribute__(value, "__dict__").get(_MARK) if callable(value) else None
    except Exception:
        # It has no attributes of its own.
        return None
    return mark if type(mark) is Tool else None
