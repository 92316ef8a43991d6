"""How many calls a worker runs at once, and in what way."""

from __future__ import annotations

from snakehouse import _loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import MutableMapping
    from typing import Protocol

    from snakehouse._codec import Codec
    from snakehouse._doorbell import Doorbell
    from snakehouse._tool import Tool

    class Server(Protocol):
        """What serves a connection."""

        def run(self) -> None:
            """Serve until it ends."""
            ...


THREADS, ASYNCIO = "threads", "asyncio"
_MAX_CAPACITY = 1024


class Mode:
    """What the host asked for: one call at a time unless it says otherwise."""

    __slots__ = ("capacity", "name")

    def __init__(self, capacity: int = 1, name: str = THREADS) -> None:
        """Raises ``ValueError`` for what there is not."""
        if not 1 <= capacity <= _MAX_CAPACITY:
            raise ValueError(f"SNAKEHOUSE_CAPACITY is not within 1 and {_MAX_CAPACITY}")
        if name not in (THREADS, ASYNCIO):
            raise ValueError(f"SNAKEHOUSE_MODE is neither {THREADS} nor {ASYNCIO}")
        self.capacity = capacity
        self.name = name

    @classmethod
    def take(cls, variables: MutableMapping[str, str]) -> Mode:
        """Out of the environment, which tools do not see. Raises ``ValueError``."""
        capacity = variables.pop("SNAKEHOUSE_CAPACITY", "1")
        name = variables.pop("SNAKEHOUSE_MODE", THREADS)
        return cls(int(capacity), name)

    def server(
        self, control: socket.socket, doorbell: Doorbell, codec: Codec, tools: list[Tool]
    ) -> Server:
        """What serves these tools in this way. Raises ``LoadError`` if that cannot be."""
        if self.capacity == 1:
            return _loop.Loop(control, doorbell, codec, tools)
        if self.name == THREADS:
            from snakehouse._threads import ThreadServer

            return ThreadServer(control, doorbell, tools, self.capacity)
        from snakehouse._tasks import TaskServer

        return TaskServer(control, doorbell, codec, tools, self.capacity)
