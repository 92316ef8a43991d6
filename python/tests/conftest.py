"""A host for one real worker process, small enough to be read."""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snakehouse import _frames, _msgpack

WORKER = Path(__file__).parents[1] / "snakehouse" / "worker.py"
TOOLS = Path(__file__).parent / "tools_for_tests.py"
# Nothing here takes a second; a test that reaches this bound has failed.
BOUND = 30.0

Reply = tuple[int, Any]


@pytest.fixture(autouse=True)
def no_snakehouse_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SNAKEHOUSE_", "PYTHON")):
            monkeypatch.delenv(name)


class Host:
    """The host's end: socket, page and process of one worker."""

    def __init__(
        self,
        names: list[str],
        *,
        page: bool = True,
        flags: tuple[str, ...] = (),
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(BOUND)
        env = {**os.environ, "SNAKEHOUSE_FD": "0", **(env or {})}
        fds: tuple[int, ...] = ()
        if page:
            fd = os.memfd_create("page")
            os.ftruncate(fd, 4096)
            self.page = mmap.mmap(fd, 4096)
            self.page[:8] = b"SNKP" + struct.pack("<I", 1)
            env["SNAKEHOUSE_PAGE_FD"] = str(fd)
            fds = (fd,)
        self.process = subprocess.Popen(
            [sys.executable, *flags, str(WORKER), *names],
            stdin=theirs.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            pass_fds=fds,
            cwd=cwd,
        )
        theirs.close()
        for fd in fds:
            os.close(fd)
        self._stream = 0
        self._cancels = 0
        self._rung = False
        self.hello: dict[str, Any] = {}

    def greet(self) -> Host:
        kind, stream, payload = self.frame()
        assert (kind, stream) == (_frames.KIND_HELLO, 0)
        self.hello = _msgpack.decode(payload)
        return self

    def number(self, tool: str) -> int:
        return next(t["number"] for t in self.hello["tools"] if t["name"] == tool)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def open_frames(
        self,
        tool: str | int,
        *args: Any,
        micros: int = _frames.NEVER,
        session: int = 0,
        place: bytes = bytes(28),
        **kwargs: Any,
    ) -> tuple[int, bytes]:
        """The next stream id and the bytes of its call."""
        self._stream += 1
        number = self.number(tool) if isinstance(tool, str) else tool
        body = _msgpack.encode([list(args), kwargs])
        first, rest = body[: _frames.MAX_CHUNK], body[_frames.MAX_CHUNK :]
        head = struct.pack("<HHQQ", number, 1 if rest else 0, micros, session) + place
        data = _frames.frame(_frames.KIND_OPEN, self._stream, head + first)
        while rest:
            piece, rest = rest[: _frames.MAX_CHUNK], rest[_frames.MAX_CHUNK :]
            kind = _frames.KIND_DATA if rest else _frames.KIND_LAST
            data += _frames.frame(kind, self._stream, piece)
        return self._stream, data

    def open_stream(self, tool: str | int, *args: Any, **kwargs: Any) -> int:
        """Open a call as a stream."""
        stream, data = self.open_frames(tool, *args, **kwargs)
        flags_at = _frames.HEAD.size + 2
        flags = data[flags_at] | _frames.FLAG_STREAM
        self.send(data[:flags_at] + bytes([flags]) + data[flags_at + 1 :])
        return stream

    def item_frames(self, stream: int, value: Any) -> bytes:
        """One item for a stream."""
        body = _msgpack.encode(value)
        pieces = _frames.in_pieces(stream, body, _frames.KIND_ITEM)
        return b"".join(part for pair in pieces for part in pair)

    def credit(self, stream: int, credit: int) -> None:
        data = _frames.CREDIT.pack(credit)
        self.send(_frames.frame(_frames.KIND_CREDIT, stream, data))

    def end_items(self, stream: int) -> None:
        self.send(_frames.frame(_frames.KIND_END, stream, b""))

    def event(self) -> tuple[int, int, Any]:
        """The next whole thing of a stream: kind, stream, value (of a credit its number)."""
        whole = b""
        while True:
            kind, stream, payload = self.frame()
            if kind == _frames.KIND_CREDIT:
                return kind, stream, _frames.CREDIT.unpack(payload)[0]
            whole += payload
            if kind != _frames.KIND_DATA:
                return kind, stream, _msgpack.decode(whole)

    def items(self, stream: int, *, grant: bool = True) -> tuple[list[Any], int, Any]:
        """The items until the end of a stream, the kind and the value of that end."""
        items: list[Any] = []
        while True:
            kind, answered, value = self.event()
            if kind == _frames.KIND_CREDIT:
                continue
            assert answered == stream
            if kind != _frames.KIND_ITEM:
                self._rung = False
                return items, kind, value
            items.append(value)
            if grant:
                self.credit(stream, _frames.cost(len(_msgpack.encode(value))))

    def start(self, tool: str | int, *args: Any, **kwargs: Any) -> int:
        stream, data = self.open_frames(tool, *args, **kwargs)
        self.send(data)
        return stream

    def ring(self, stream: int, *, frame: bool = True) -> None:
        """Cancel as a host does: slot, count, doorbell, frame."""
        struct.pack_into("<I", self.page, 192 + 4 * (self._cancels % 256), stream)
        self._cancels += 1
        struct.pack_into("<I", self.page, 128, self._cancels)
        self.process.send_signal(signal.SIGURG)
        self._rung = True
        if frame:
            self.send(_frames.frame(_frames.KIND_CANCEL, stream, b""))

    def rung_enough(self) -> None:
        """What was given up is answered, by a frame that is no answer."""
        self._rung = False

    @property
    def started(self) -> int:
        return struct.unpack_from("<I", self.page, 64)[0]

    def frame(self) -> tuple[int, int, bytes]:
        length, kind, stream = _frames.HEAD.unpack(self._exactly(_frames.HEAD.size))
        return kind, stream, self._exactly(length)

    def reply(self) -> tuple[int, Reply]:
        """The next complete answer: its stream, its final kind, its value."""
        whole = b""
        while True:
            kind, stream, payload = self.frame()
            whole += payload
            if kind != _frames.KIND_DATA:
                self._rung = False
                return stream, (kind, _msgpack.decode(whole))

    def call(self, tool: str | int, *args: Any, **kwargs: Any) -> Any:
        stream = self.start(tool, *args, **kwargs)
        answered, (kind, value) = self.reply()
        assert answered == stream
        assert kind == _frames.KIND_LAST, value
        return value

    def fail(self, tool: str | int, *args: Any, **kwargs: Any) -> dict[str, Any]:
        stream = self.start(tool, *args, **kwargs)
        answered, (kind, value) = self.reply()
        assert answered == stream
        assert kind == _frames.KIND_ERROR, value
        return value

    def end(self) -> tuple[int, str, str]:
        """Hang up; exit status, standard output and standard error."""
        self.socket.close()
        return self.outcome()

    def outcome(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=BOUND)
        return self.process.returncode, out.decode(), err.decode()

    def eof(self) -> bool:
        return self.socket.recv(1) == b""

    def _exactly(self, length: int) -> bytes:
        parts: list[bytes] = []
        while length:
            while self._rung and not select.select([self.socket], [], [], 0.02)[0]:
                # A signal that arrives just before a system call blocks is noticed only after
                # it: hosts ring until the call is answered.
                self.process.send_signal(signal.SIGURG)
            part = self.socket.recv(min(length, 1 << 20))
            assert part, f"the worker hung up: {self.process.communicate(timeout=BOUND)}"
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.communicate(timeout=BOUND)


@pytest.fixture
def start_host() -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def start(*names: str | Path, **options: Any) -> Host:
        host = Host([str(name) for name in names], **options)
        hosts.append(host)
        return host

    yield start
    for host in hosts:
        host.close()


@pytest.fixture(params=["site", "bare"])
def host(request: pytest.FixtureRequest, start_host: Callable[..., Host]) -> Host:
    """A worker with the test tools; with site packages, and without (pure codec)."""
    flags = ("-S",) if request.param == "bare" else ()
    return start_host(TOOLS, flags=flags).greet()
