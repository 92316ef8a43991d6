"""A worker written from the protocol's page alone, with at most one fault: ``FAULT`` or ``none``.

It runs one call at a time, has no streams, and hears a cancel only between calls or, by polling the
page, in ``wait``. The checks must pass it without a fault, and find each fault.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from snakehouse import _msgpack

HELLO, OPEN, DATA, LAST, ERROR, CANCEL, PING, PONG, GOAWAY = 1, 2, 3, 4, 5, 6, 8, 9, 10
TOOLS = ["echo", "fail", "wait"]
CAP = (1 << 20) + 48


class Worker:
    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.socket = socket.socket(fileno=os.dup(int(os.environ["SNAKEHOUSE_FD"])))
        self.page = mmap.mmap(int(os.environ["SNAKEHOUSE_PAGE_FD"]), 4096)
        self.cancelled: set[int] = set()
        self.seen = 0
        self.bodies: dict[int, tuple[int, int, bytearray]] = {}

    def send(self, kind: int, stream: int, value: object) -> None:
        whole = _msgpack.encode(value)
        while len(whole) > 1 << 20:
            self.write(DATA, stream, whole[: 1 << 20])
            whole = whole[1 << 20 :]
        self.write(kind, stream, whole)

    def write(self, kind: int, stream: int, payload: bytes) -> None:
        self.socket.sendall(struct.pack("<IBI", len(payload), kind, stream) + payload)

    def read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            if not part:
                sys.exit(0)
            data += part
        return data

    def run(self) -> None:
        tools = [
            {"name": name, "number": number, "signature": "", "doc": ""}
            for number, name in enumerate(TOOLS)
        ]
        hello = {"protocol": 1, "language": "python", "version": "0", "runtime": "test"}
        hello |= {"pid": os.getpid(), "codec": "own", "capabilities": ["started", "cancel"]}
        self.send(HELLO, 0, hello | {"tools": tools, "failure": None})
        while True:
            length, kind, stream = struct.unpack("<IBI", self.read(9))
            if length > CAP:
                sys.exit(76)
            payload = self.read(length)
            if kind == OPEN and stream and length >= 48:
                tool, flags, micros = struct.unpack_from("<HHQ", payload)
                self.bodies[stream] = (tool, micros, bytearray(payload[48:]))
                if not flags & 1:
                    self.call(stream)
            elif kind in (DATA, LAST) and stream in self.bodies:
                self.bodies[stream][2].extend(payload)
                if kind == LAST:
                    self.call(stream)
            elif kind == CANCEL:
                self.cancelled.add(stream)
            elif kind == PING:
                self.write(PONG, 0, payload)
            elif kind == GOAWAY:
                sys.exit(0)
            elif self.fault != "lenient":
                sys.exit(76)

    def call(self, stream: int) -> None:
        tool, micros, body = self.bodies.pop(stream)
        if self.fault != "silent":
            struct.pack_into("<I", self.page, 64, stream)
        kind, code, message = "invalid_input", "malformed_value", "the body is not [args, kwargs]"
        if tool >= len(TOOLS):
            kind, code, message = "not_found", "unknown_tool", "no such tool"
        elif self.is_cancelled(stream):
            kind = code = message = "cancelled"
        elif micros == 0:
            kind = code = message = "deadline"
        else:
            try:
                args, kwargs = _msgpack.decode(bytes(body))
                result: Any = getattr(self, TOOLS[tool])(stream, *args, **kwargs)
            except ValueError as error:
                if str(error).startswith("tool: "):
                    kind, code, message = "tool", "tool_raised", str(error)
            except InterruptedError:
                kind = code = message = "cancelled"
            else:
                if self.fault == "loses-tuples" and type(result) is tuple:
                    result = list(result)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
                self.send(LAST, stream, result)
                if self.fault == "answers-twice":
                    self.send(LAST, stream, result)
                return
        failure: Any = {"kind": kind, "code": code, "message": message}
        self.send(ERROR, stream, "no" if self.fault == "untyped" else failure)

    def is_cancelled(self, stream: int) -> bool:
        (count,) = struct.unpack_from("<I", self.page, 128)
        while self.seen < count and self.fault != "deaf":
            (one,) = struct.unpack_from("<I", self.page, 192 + 4 * (self.seen % 256))
            self.cancelled.add(one)
            self.seen += 1
        return stream in self.cancelled

    def echo(self, _stream: int, value: Any) -> Any:
        return value

    def fail(self, _stream: int, message: str) -> None:
        raise ValueError(f"tool: {message}")

    def wait(self, stream: int) -> None:
        while not self.is_cancelled(stream):
            time.sleep(0.001)
        raise InterruptedError


if __name__ == "__main__":
    import signal

    # The page is looked at often enough; the bell needs no more than not to kill.
    signal.signal(signal.SIGURG, signal.SIG_IGN)
    Worker(sys.argv[1]).run()
