"""The front door of a pool, `snakehouse pool serve`, with the client that the `grpcio` server has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
from loop import Sample

from .http2 import Connection, closed_loop


def field(number: int, content: bytes) -> bytes:
    """A protobuf field of bytes."""
    length, size = b"", len(content)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


class System:
    """The server and the client."""

    def start(self, workers: int, place: str) -> None:
        """Starts the server."""
        self.connections = workers
        tools = Path(__file__).with_name("front_door_tools.py")
        options = ["--tools", tools, "--workers", str(workers), "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [
                os.environ["SNAKEHOUSE_BINARY"],
                *("pool", "serve", "--json", "--home", place, "--python", sys.executable),
                *options,
            ],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the front door does not open (status {self.process.wait()})")
        self.port = int(json.loads(line)["url"].rpartition(":")[2])

    def measure(self, value: Any, in_flight: int, seconds: float) -> Sample:
        """Calls spread over as many connections as there are workers."""
        arguments = field(1, msgpack.packb([[value], {}]))
        message = field(1, b"echo") + field(2, arguments)
        answer = len(field(1, field(1, msgpack.packb(value))))
        connections = [
            Connection(("127.0.0.1", self.port), message, b"/snakehouse.v1.Pool/Call", answer)
            for _ in range(min(self.connections, in_flight))
        ]
        return closed_loop(connections, in_flight, seconds)

    def stop(self) -> None:
        """Ends the server."""
        self.process.terminate()
        self.process.wait(20)
