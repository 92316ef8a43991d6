"""What a tool calls the host by: ``snakehouse.host`` and ``snakehouse.host_async``."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial

from snakehouse._context import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, Protocol

    from snakehouse._callbacks import HostTool

    class Stand(Protocol):
        """What stands in for the host where there is none."""

        def tools(self) -> list[HostTool]:
            """The tools that there are."""
            ...

        def call(self, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
            """Call one and wait."""
            ...

        async def acall(self, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
            """Call one from async code."""
            ...


# See ``snakehouse.testing``.
stand: ContextVar[Stand | None] = ContextVar("snakehouse_host_stand", default=None)

_NO_CALL = "host tools are for the code of a running call"


def _call(name: str, /, *args: Any, **kwargs: Any) -> Any:
    call = current.get()
    if call is not None and call.port is not None:
        return call.port.call(call, name, args, kwargs)
    if (fake := stand.get()) is not None:
        return fake.call(name, args, kwargs)
    raise RuntimeError(_NO_CALL)


async def _acall(name: str, /, *args: Any, **kwargs: Any) -> Any:
    call = current.get()
    if call is not None and call.port is not None:
        return await call.port.acall(call, name, args, kwargs)
    if (fake := stand.get()) is not None:
        return await fake.acall(name, args, kwargs)
    raise RuntimeError(_NO_CALL)


class Host:
    """The host's tools as methods, for plain functions and generators.

    ``host.lookup(key=1)`` calls the tool that the host named ``lookup`` and gives its result; the
    values are as exact as those of a call. ``host["a.b"](key=1)`` is for names that are no
    identifiers. It waits at most until the call's deadline, and a caller that gives up raises
    ``Cancelled`` in it.

    Raises ``HostToolError`` for what the host says, ``UnsupportedValue`` for arguments that do not
    travel, and ``RuntimeError`` outside of a call or in another thread than the one that runs it.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return partial(_call, name)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return partial(_call, name)


class AsyncHost:
    """The host's tools as coroutines, for async tools: ``await host_async.lookup(key=1)``.

    As ``host`` in all else. Several may be awaited at once.
    """

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name.startswith("__"):
            raise AttributeError(name)
        return partial(_acall, name)

    def __getitem__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return partial(_acall, name)


host = Host()
host_async = AsyncHost()


def host_tools() -> list[HostTool]:
    """The tools of the host that the running call can use. Costs no message.

    Raises ``RuntimeError`` outside of a call.
    """
    call = current.get()
    if call is not None and call.port is not None:
        return list(call.port.callbacks.tools.values())
    if (fake := stand.get()) is not None:
        return fake.tools()
    raise RuntimeError(_NO_CALL)
