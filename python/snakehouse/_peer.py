"""A host's end of one worker, for checking workers: frames out, frames in, nothing clever.

It starts the worker as a real host does (control socket as standard input, the page beside it) and
speaks the frames of ``docs/worker-protocol.md`` by hand, so that it can also break their rules.
Everything that waits has a bound: a worker that hangs is a failed check, never a hung one.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import struct
import subprocess
from time import monotonic

from snakehouse import _msgpack
from snakehouse._frames import (
    FLAG_MORE,
    FLAG_NESTED,
    HEAD,
    KIND_CALLBACK_OPEN,
    KIND_CANCEL,
    KIND_CREDIT,
    KIND_DATA,
    KIND_ERROR,
    KIND_HELLO,
    KIND_LAST,
    KIND_OPEN,
    KIND_SETTINGS,
    MAX_CHUNK,
    MAX_PAYLOAD,
    NEVER,
    OPEN_LENGTH,
    frame,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

KIND_ITEM, KIND_END = 11, 12
FLAG_STREAM = 2
START_CREDIT = 64
CREDIT_STEP = 16 * 1024

_PAGE = 4096
_STARTED, _CANCELS, _RECALL, _RING, _SLOTS = 64, 128, 132, 192, 256
# A signal that lands just before a system call blocks is noticed only after it: ring again.
_RING_AGAIN = 0.02


class CheckFailed(Exception):
    """The worker did something that the protocol does not allow."""


def expect(condition: object, message: str) -> None:
    """Raises ``CheckFailed`` with the message unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


class Peer:
    """One running worker.

    ``bound`` is the most seconds that anything may take. Use it as a context manager: leaving it
    kills the worker.
    """

    def __init__(self, command: Sequence[str], bound: float) -> None:
        self._bound = bound
        self._buffer = bytearray()
        self._stream = 0
        self._cancels = 0
        self._rings = False
        self.hello: dict[str, Any] = {}
        page = os.memfd_create("snakehouse-page")
        os.ftruncate(page, _PAGE)
        self._page = mmap.mmap(page, _PAGE)
        self._page[:8] = b"SNKP" + struct.pack("<I", 1)
        ours, theirs = socket.socketpair()
        self._socket = ours
        ours.setblocking(False)
        try:
            self.process = subprocess.Popen(  # noqa: S603
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(page,),
                env={**os.environ, "SNAKEHOUSE_FD": "0", "SNAKEHOUSE_PAGE_FD": str(page)},
            )
        finally:
            theirs.close()
            os.close(page)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self.process.kill()
        self.process.wait()
        self._page.close()

    def greet(self) -> Peer:
        """Read the hello; it must be the first frame."""
        kind, stream, payload = self.frame()
        expect(kind == KIND_HELLO, f"the first frame has kind {kind}, not a hello (1)")
        expect(stream == 0, f"the hello is on stream {stream}, not 0")
        hello = _msgpack.decode(payload)
        expect(isinstance(hello, dict), "the hello is not a map")
        self.hello = hello
        return self

    def can(self, capability: str) -> bool:
        """Whether the hello claims a capability."""
        return capability in self.hello.get("capabilities", ())

    def tools(self) -> dict[str, dict[str, Any]]:
        """The announced tools by name."""
        return {tool["name"]: tool for tool in self.hello["tools"]}

    def open(
        self,
        tool: str | int,
        *args: Any,
        body: bytes | None = None,
        micros: int = NEVER,
        stream: bool = False,
        nested: bool = False,
        place: bytes = bytes(28),
    ) -> tuple[int, list[bytes]]:
        """The next stream's number and the frames that open it."""
        self._stream += 1
        number = tool if isinstance(tool, int) else int(self.tools()[tool]["number"])
        call: list[Any] = [list(args), {}]
        whole = _msgpack.encode(call) if body is None else body
        pieces = [whole[at : at + MAX_CHUNK] for at in range(0, max(len(whole), 1), MAX_CHUNK)]
        flags = (FLAG_MORE if len(pieces) > 1 else 0) | (FLAG_STREAM if stream else 0)
        flags |= FLAG_NESTED if nested else 0
        head = struct.pack("<HHQQ", number, flags, micros, 0) + place
        frames = [frame(KIND_OPEN, self._stream, head + pieces[0])]
        for at, piece in enumerate(pieces[1:], 2):
            kind = KIND_LAST if at == len(pieces) else KIND_DATA
            frames.append(frame(kind, self._stream, piece))
        return self._stream, frames

    def start(self, tool: str | int, *args: Any, **options: Any) -> int:
        """Open a call and send it; gives its number."""
        number, frames = self.open(tool, *args, **options)
        self.send(b"".join(frames))
        return number

    def send(self, data: bytes) -> None:
        """Write all of it. What the worker writes meanwhile is kept for later."""
        end = monotonic() + self._bound
        view = memoryview(data)
        while view:
            self._wait(end, select.POLLIN | select.POLLOUT, "to take what it was sent")
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                self._read()
            except (BrokenPipeError, ConnectionResetError):
                raise CheckFailed("it closed the connection while it was sent something") from None

    def tell_host_tools(self, *names: str) -> None:
        """Say that the host has these tools."""
        tools = [{"name": name, "doc": "", "parameters": None, "result": None} for name in names]
        self.send(frame(KIND_SETTINGS, 0, _msgpack.encode({"host_tools": tools})))

    def callback(self, call: int) -> tuple[int, list[Any]]:
        """Expect a callback of this call, in one frame; gives its number and its arguments."""
        kind, number, payload = self.frame()
        expect(kind == KIND_CALLBACK_OPEN, f"a callback was expected, not a frame of kind {kind}")
        expect(len(payload) >= OPEN_LENGTH, "its open head is too short")
        tool, flags, _, made_in = struct.unpack_from("<HHQQ", payload)
        expect((tool, flags) == (0, 0), f"tool and flags are {tool} and {flags}, not 0")
        expect(made_in == call, f"it says that it is made in call {made_in}, not {call}")
        return number, _msgpack.decode(payload[OPEN_LENGTH:])

    def item(self, stream: int, value: Any) -> None:
        """Send one item of a stream."""
        self.send(frame(KIND_ITEM, stream, _msgpack.encode(value)))

    def finish(self, stream: int) -> None:
        """Say that no more items come."""
        self.send(frame(KIND_END, stream, b""))

    def grant(self, stream: int, credit: int) -> None:
        """Let the worker send so much more."""
        self.send(frame(KIND_CREDIT, stream, struct.pack("<I", credit)))

    def cancel(self, stream: int) -> None:
        """Cancel as a host does: page, signal if the worker hears it, frame."""
        slot = _RING + 4 * (self._cancels % _SLOTS)
        struct.pack_into("<I", self._page, slot, stream)
        self._cancels += 1
        struct.pack_into("<I", self._page, _CANCELS, self._cancels)
        if self.can("cancel"):
            self.process.send_signal(signal.SIGURG)
            self._rings = True
        self.send(frame(KIND_CANCEL, stream, b""))

    def recall(self, stream: int) -> None:
        """Take back what has not started, from this call on; 0 is nothing."""
        struct.pack_into("<I", self._page, _RECALL, stream)

    def started(self) -> int:
        """The call that the worker says it started last."""
        return struct.unpack_from("<I", self._page, _STARTED)[0]

    def wait_started(self, stream: int) -> None:
        """Wait until the worker says that it has started this call."""
        end = monotonic() + self._bound
        while self.started() != stream:
            expect(self.process.poll() is None, "it ended before it started the call")
            expect(monotonic() < end, f"it never said that it started call {stream}")
            select.select([], [], [], 0.001)

    def frame(self) -> tuple[int, int, bytes]:
        """The next frame of the worker."""
        end = monotonic() + self._bound
        while True:
            if len(self._buffer) >= HEAD.size:
                length, kind, stream = HEAD.unpack_from(self._buffer)
                expect(length <= MAX_PAYLOAD, f"a frame of {length} bytes is over the cap")
                whole = HEAD.size + length
                if len(self._buffer) >= whole:
                    payload = bytes(self._buffer[HEAD.size : whole])
                    del self._buffer[:whole]
                    return kind, stream, payload
            self._wait(end, select.POLLIN, "to say something")
            expect(self._read(), "it closed the connection instead of answering")

    def answer(self, stream: int) -> tuple[int, Any]:
        """The answer of this call, whole: the kind of its last frame, and the value."""
        whole = bytearray()
        while True:
            kind, at, payload = self.frame()
            expect(at == stream, f"a frame of kind {kind} on stream {at}; {stream} was expected")
            whole += payload
            if kind in (KIND_LAST, KIND_ERROR, KIND_ITEM):
                self._rings = self._rings and kind == KIND_ITEM
                return kind, _msgpack.decode(bytes(whole))
            expect(kind == KIND_DATA, f"a frame of kind {kind} inside of an answer")

    def value(self, tool: str, *args: Any) -> Any:
        """Call and expect a result."""
        stream = self.start(tool, *args)
        kind, value = self.answer(stream)
        expect(kind == KIND_LAST, f"{tool} failed: {value}")
        return value

    def failure(self, stream: int) -> dict[str, Any]:
        """Expect an error as the call's answer."""
        kind, value = self.answer(stream)
        expect(kind == KIND_ERROR, f"an error was expected, not kind {kind}: {value!r:.200}")
        expect(isinstance(value, dict), "an error frame does not hold a map")
        for key in ("kind", "code", "message"):
            expect(isinstance(value.get(key), str), f"the error has no text {key!r}")
        return value

    def hang_up(self) -> int:
        """Close the socket and wait for the worker's end; gives its exit status."""
        self._socket.close()
        return self._status()

    def wait_closed(self) -> int:
        """Wait until the worker has hung up and ended; gives its exit status."""
        end = monotonic() + self._bound
        while True:
            self._wait(end, select.POLLIN, "to end the connection")
            if not self._read():
                return self._status()

    def _status(self) -> int:
        try:
            return self.process.wait(self._bound)
        except subprocess.TimeoutExpired:
            raise CheckFailed("its process did not end") from None

    def _read(self) -> bool:
        """Take what is there; false at the end of the connection."""
        try:
            data = self._socket.recv(1 << 20)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        self._buffer += data
        return bool(data)

    def _wait(self, end: float, events: int, what: str) -> None:
        poll = select.poll()
        poll.register(self._socket, events)
        while not poll.poll(1000 * _RING_AGAIN if self._rings else 1000 * self._bound):
            expect(monotonic() < end, f"it took more than {self._bound:g} s {what}")
            if self._rings:
                self.process.send_signal(signal.SIGURG)
