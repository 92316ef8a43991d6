"""A gRPC client that costs little, so that the server is what is measured.

One connection, many streams; request headers are fixed bytes, answers are counted and not kept,
response headers are not decoded. Flow control, settings and pings are done as the protocol asks.
"""

from __future__ import annotations

import socket
import struct
from time import perf_counter

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5
LARGEST = (1 << 31) - 1
WINDOW = 65_535
# Bytes of answers after which the connection's window is opened again.
GRANT = 1 << 28


def text(data: bytes) -> bytes:
    """A string as HPACK has it, not compressed."""
    return bytes([len(data)]) + data


REQUEST = (
    b"\x83\x86"  # :method POST, :scheme http
    + (b"\x04" + text(b"/p/Echo"))
    + (b"\x01" + text(b"localhost"))
    + (b"\x0f\x10" + text(b"application/grpc"))
    + (b"\x00" + text(b"te") + text(b"trailers"))
)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A whole frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class Stream:
    """One call."""

    __slots__ = ("number", "received", "rest", "sent", "window")

    def __init__(self, number: int, body: memoryview, window: int) -> None:
        self.number = number
        self.rest = body
        self.window = window
        self.received = 0
        self.sent = perf_counter()


class Connection:
    """A connection whose calls all carry the same message and expect one of its length."""

    def __init__(self, path: str, message: bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.body = memoryview(b"\0" + struct.pack(">I", len(message)) + message)
        self.streams: dict[int, Stream] = {}
        self.next = 1
        self.window = WINDOW
        self.initial = WINDOW
        self.largest = 16_384
        self.buffer = bytearray()
        self.chunk = bytearray(1 << 20)
        self.skip = 0
        self.consumed = 0
        settings = struct.pack(">HIHI", INITIAL_WINDOW_SIZE, LARGEST, MAX_FRAME_SIZE, (1 << 24) - 1)
        self.out: list[bytes | memoryview] = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            frame(SETTINGS, 0, 0, settings),
            frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", LARGEST - WINDOW)),
        ]

    def call(self) -> None:
        """Begins a call; `flush` sends it."""
        stream = Stream(self.next, self.body, self.initial)
        self.next += 2
        self.streams[stream.number] = stream
        self.out.append(frame(HEADERS, END_HEADERS, stream.number, REQUEST))
        self.pump(stream)

    def pump(self, stream: Stream) -> None:
        """Queues as much of a call's body as the windows take."""
        while stream.rest:
            size = min(len(stream.rest), self.window, stream.window, self.largest)
            if size <= 0:
                return
            piece, stream.rest = stream.rest[:size], stream.rest[size:]
            self.window -= size
            stream.window -= size
            flags = 0 if stream.rest else END_STREAM
            self.out.append(
                struct.pack(">I", size)[1:] + struct.pack(">BBI", DATA, flags, stream.number)
            )
            self.out.append(piece)

    def flush(self) -> None:
        """Sends what is queued."""
        if self.out:
            out, self.out = self.out, []
            self.socket.sendall(b"".join(out))

    def receive(self) -> list[Stream]:
        """Reads once; the calls that are answered."""
        count = self.socket.recv_into(self.chunk)
        if count == 0:
            raise ConnectionError("the server hung up")
        data = memoryview(self.chunk)[:count]
        done: list[Stream] = []
        if self.skip:
            passed = min(self.skip, count)
            self.skip -= passed
            data = data[passed:]
        self.buffer += data
        at = 0
        buffer = self.buffer
        while len(buffer) - at >= 9:
            head = int.from_bytes(buffer[at : at + 3])
            kind, flags = buffer[at + 3], buffer[at + 4]
            number = int.from_bytes(buffer[at + 5 : at + 9])
            if kind == DATA:
                # Only counted, so a part of it will do.
                self.streams[number].received += head
                self.consumed += head
                here = min(head, len(buffer) - at - 9)
                self.skip = head - here
                at += 9 + here
                if flags & END_STREAM:
                    raise ConnectionError("an answer without a status")
                continue
            if len(buffer) - at - 9 < head:
                break
            done += self.control(kind, flags, number, bytes(buffer[at + 9 : at + 9 + head]))
            at += 9 + head
        del buffer[:at]
        if self.consumed > GRANT:
            self.out.append(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self.consumed)))
            self.consumed = 0
        return done

    def control(self, kind: int, flags: int, number: int, payload: bytes) -> list[Stream]:
        """Everything but data."""
        if kind == HEADERS and flags & END_STREAM:
            stream = self.streams.pop(number)
            if stream.received != len(self.body):
                raise ConnectionError(f"the server answered {stream.received} bytes")
            return [stream]
        if kind == SETTINGS and not flags & ACK:
            for key, value in struct.iter_unpack(">HI", payload):
                if key == INITIAL_WINDOW_SIZE:
                    for stream in self.streams.values():
                        stream.window += value - self.initial
                    self.initial = value
                elif key == MAX_FRAME_SIZE:
                    self.largest = value
            self.out.append(frame(SETTINGS, ACK, 0, b""))
            self.pump_all()
        elif kind == PING and not flags & ACK:
            self.out.append(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            grant = int.from_bytes(payload)
            if number == 0:
                self.window += grant
            elif number in self.streams:
                self.streams[number].window += grant
            self.pump_all()
        elif kind in (RST_STREAM, GOAWAY):
            raise ConnectionError(f"the server gave up: frame {kind}, {payload!r}")
        return []

    def pump_all(self) -> None:
        """The oldest call first."""
        for stream in self.streams.values():
            if self.window <= 0:
                return
            if stream.rest:
                self.pump(stream)
