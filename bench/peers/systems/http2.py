"""A gRPC client that costs little, so that the server is what is measured.

One connection, many streams; request headers are fixed bytes, answers are counted and not kept,
response headers are not decoded. Flow control, settings and pings are done as the protocol asks.
"""

from __future__ import annotations

import select
import socket
import struct
from time import perf_counter

from loop import Sample

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


def request(method: bytes) -> bytes:
    """The headers of a call."""
    return (
        b"\x83\x86"  # :method POST, :scheme http
        + (b"\x04" + text(method))
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
    """A connection whose calls all carry the same message and expect one of the same length, or of
    ``answer`` bytes. ``place`` is a path, or a host and a port."""

    def __init__(
        self,
        place: str | tuple[str, int],
        message: bytes,
        method: bytes = b"/p/Echo",
        answer: int | None = None,
    ) -> None:
        if isinstance(place, str):
            self.socket = socket.socket(socket.AF_UNIX)
        else:
            self.socket = socket.socket(socket.AF_INET)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(place)
        self.request = request(method)
        self.body = memoryview(b"\0" + struct.pack(">I", len(message)) + message)
        self.answer = 5 + (len(message) if answer is None else answer)
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
        self.out.append(frame(HEADERS, END_HEADERS, stream.number, self.request))
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
            if stream.received != self.answer:
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


def closed_loop(connections: list[Connection], in_flight: int, seconds: float) -> Sample:
    """Keeps so many calls in flight for a while, spread over the connections."""
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
