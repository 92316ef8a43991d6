"""A `grpcio` server behind Unix sockets, with the client of `http2`: one connection per server."""

from __future__ import annotations

import select
from time import perf_counter
from typing import Any

import msgpack
from loop import Sample

from .http2 import Connection
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
        connections = [Connection(path, message) for path in paths]
        by_number = {connection.socket.fileno(): connection for connection in connections}
        poll = select.epoll()
        for number in by_number:
            poll.register(number, select.EPOLLIN)
        latencies: list[float] = []
        began = perf_counter()
        until, left = began + seconds, in_flight
        for number in range(in_flight):
            connections[number % len(connections)].call()
        for connection in connections:
            connection.flush()
        while left:
            # With a single connection, waiting in the read itself is the quickest.
            ready = poll.poll() if len(connections) > 1 else [(next(iter(by_number)), 0)]
            for number, _ in ready:
                connection = by_number[number]
                done = connection.receive()
                now = perf_counter()
                for stream in done:
                    latencies.append(now - stream.sent)
                    if now < until:
                        connection.call()
                    else:
                        left -= 1
                connection.flush()
        elapsed = perf_counter() - began
        poll.close()
        for connection in connections:
            connection.socket.close()
        return Sample(elapsed, latencies)

    def stop(self) -> None:
        """Ends the servers."""
        self.servers.stop()
