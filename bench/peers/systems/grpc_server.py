"""A `grpcio` server behind Unix sockets, with the client of `http2`: one connection per server."""

from __future__ import annotations

from typing import Any

import msgpack
from loop import Sample

from .http2 import Connection, closed_loop
from .servers import Servers


class System:
    """The servers and the client."""

    def start(self, workers: int, place: str) -> None:
        """Starts the servers."""
        self.servers = Servers("systems.grpc_app", workers, place)

    def measure(self, value: Any, in_flight: int, seconds: float) -> Sample:
        """Calls spread over the connections."""
        message = msgpack.packb(value)
        paths = self.servers.paths[:in_flight]
        return closed_loop([Connection(path, message) for path in paths], in_flight, seconds)

    def stop(self) -> None:
        """Ends the servers."""
        self.servers.stop()
