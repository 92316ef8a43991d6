"""The user's modules, and the tools in them."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

from snakehouse._sessions import find_hooks
from snakehouse._tool import FUNCTION, Hidden, find_tools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from snakehouse._sessions import Hook
    from snakehouse._tool import Tool


class LoadError(Exception):
    """What was asked for cannot be served. ``code`` is stable, ``hint`` says what to do."""

    def __init__(self, message: str, *, code: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


def load(names: list[str]) -> list[Tool]:
    """Import modules by name or path and collect their tools.

    Raises ``LoadError``, or whatever an import raises.
    """
    tools: list[Tool] = []
    for name in names:
        for tool in tools_of(import_module(name)):
            same = next((other for other in tools if other.name == tool.name), None)
            if same is None:
                tools.append(tool)
            elif same is not tool:
                raise LoadError(
                    f"two tools have the name {tool.name!r}",
                    code="duplicate_tool",
                    hint="give one of them another: @snakehouse.tool(name=...)",
                )
    if names and not tools:
        raise LoadError(
            f"there is no tool in {', '.join(names)}",
            code="no_tools",
            hint="decorate a function with @snakehouse.tool",
        )
    if len(tools) > 0xFFFF:
        raise LoadError("there are more than 65535 tools", code="too_many_tools")
    # What a tool is shows in its number: the loop has no time to look it up.
    return sorted(tools, key=lambda tool: tool.kind != FUNCTION)


def hooks(names: list[str]) -> list[Hook]:
    """What the modules want to be told of, in the order in which it is defined."""
    found: list[Hook] = []
    for name in names:
        found += [hook for hook in find_hooks(vars(import_module(name))) if hook not in found]
    return found


def tools_of(module: ModuleType) -> list[Tool]:
    """The tools of one module. Raises ``LoadError`` for one behind another decorator."""
    try:
        return find_tools(vars(module))
    except Hidden as hidden:
        raise LoadError(
            f"{hidden} is a tool within another decorator, which calls would not go through",
            code="decorated_tool",
            hint="put @snakehouse.tool above all other decorators",
        ) from None


def import_module(name: str) -> ModuleType:
    """Import one module by dotted name or path. Raises ``LoadError``, or what the import raises."""
    if "/" not in name and not name.endswith(".py"):
        _put_on_path(os.getcwd())
        return importlib.import_module(name)
    path = os.path.abspath(name)
    module_name = os.path.splitext(os.path.basename(path))[0]
    if not os.path.isfile(path):
        raise LoadError(f"there is no file {path}", code="tool_file_missing")
    if module_name in sys.modules:
        loaded = sys.modules[module_name]
        if getattr(loaded, "__file__", None) == path:
            return loaded
        raise LoadError(
            f"{path} would be imported as {module_name!r}, which is another module already",
            code="module_name_taken",
            hint="rename the file",
        )
    # As for a script: what lies beside it can be imported.
    _put_on_path(os.path.dirname(path))
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"{path} is not a Python file", code="tool_file_missing")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _put_on_path(directory: str) -> None:
    # Behind the directory of this package, which stays first.
    if directory not in sys.path:
        sys.path.insert(1, directory)
