"""A bare ASGI server behind Unix sockets, and the cheapest HTTP/1.1 client that will do: raw sockets,
one connection per call in flight, no parsing beyond the length of an answer."""

from __future__ import annotations

import select
import socket
from time import perf_counter
from typing import Any

import msgpack
from loop import Sample

from .servers import Servers


class Connection:
    """One keep-alive connection with one call at a time."""

    def __init__(self, path: str, body: bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.request = (
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        self.expected = len(body)
        self.head = b""
        self.missing = -1
        self.sent = 0.0

    def send(self) -> None:
        """Begins a call."""
        self.head, self.missing = b"", -1
        self.sent = perf_counter()
        self.socket.sendall(self.request)

    def receive(self, buffer: bytearray) -> bool:
        """Takes what is there; whether the answer is whole."""
        count = self.socket.recv_into(buffer)
        if count == 0:
            raise ConnectionError("the server hung up")
        if self.missing < 0:
            self.head += buffer[:count]
            head, found, rest = self.head.partition(b"\r\n\r\n")
            if not found:
                return False
            if (
                not head.startswith(b"HTTP/1.1 200")
                or b"content-length: %d" % self.expected not in head
            ):
                raise ConnectionError(f"the server answered {head!r}")
            self.missing = self.expected - len(rest)
        else:
            self.missing -= count
        return self.missing == 0


class System:
    """Uvicorn and its client."""

    def start(self, workers: int, place: str) -> None:
        """Starts the servers."""
        self.servers = Servers("systems.asgi_app", workers, place)

    def measure(self, value: Any, in_flight: int, seconds: float) -> Sample:
        """One connection per call, spread over the servers."""
        body, paths = msgpack.packb(value), self.servers.paths
        connections = [Connection(paths[n % len(paths)], body) for n in range(in_flight)]
        by_number = {connection.socket.fileno(): connection for connection in connections}
        poll = select.epoll()
        for number in by_number:
            poll.register(number, select.EPOLLIN)
        buffer = bytearray(1 << 20)
        latencies: list[float] = []
        began = perf_counter()
        until, left = began + seconds, in_flight
        for connection in connections:
            connection.send()
        while left:
            # With a single connection, waiting in the read itself is the quickest.
            ready = poll.poll() if in_flight > 1 else [(next(iter(by_number)), 0)]
            for number, _ in ready:
                connection = by_number[number]
                if connection.receive(buffer):
                    now = perf_counter()
                    latencies.append(now - connection.sent)
                    if now < until:
                        connection.send()
                    else:
                        left -= 1
        elapsed = perf_counter() - began
        poll.close()
        for connection in connections:
            connection.socket.close()
        return Sample(elapsed, latencies)

    def stop(self) -> None:
        """Ends the servers."""
        self.servers.stop()
