"""For tests of tools, without a host: plain pytest is enough.

A tool is a function, so a test calls it. What it asks the host for, ``host_tools`` answers::

    from snakehouse.testing import host_tools

    def test_price() -> None:
        with host_tools({"lookup": lambda key: {"price": 3}}):
            assert price("apple") == 3
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager

from snakehouse import _codec
from snakehouse._callbacks import HostTool, unknown
from snakehouse._host import stand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from typing import Any

__all__ = ["host_tools"]


@contextmanager
def host_tools(tools: Mapping[str, Callable[..., Any]]) -> Generator[None]:
    """Let these functions stand in for the host's tools, for the code in the ``with`` block.

    Arguments and results are encoded and decoded as on their way to a host, so what does not travel
    fails here as well. An async function can be called from async tools only. A function that
    raises ``HostToolError`` is a host tool that fails; other exceptions go through as they are.
    """
    token = stand.set(_Stand(tools))
    try:
        yield
    finally:
        stand.reset(token)


class _Stand:
    """Functions in the place of the host."""

    def __init__(self, tools: Mapping[str, Callable[..., Any]]) -> None:
        self._tools = dict(tools)
        self._codec = _codec.choose()

    def tools(self) -> list[HostTool]:
        """See ``Stand``."""
        return [HostTool(name, inspect.getdoc(tool) or "") for name, tool in self._tools.items()]

    def call(self, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """See ``Stand``."""
        result = self._run(name, args, kwargs)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise RuntimeError(f"{name} is async here: use await snakehouse.host_async.{name}(...)")
        return self._travel(result)

    async def acall(self, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """See ``Stand``."""
        result = self._run(name, args, kwargs)
        if inspect.isawaitable(result):
            result = await result
        return self._travel(result)

    def _run(self, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        tool = self._tools.get(name)
        if tool is None:
            raise unknown(name, {each.name: each for each in self.tools()})
        args, kwargs = self._travel([list(args), kwargs])
        return tool(*args, **kwargs)

    def _travel(self, value: Any) -> Any:
        return self._codec.decode(self._codec.encode(value))
