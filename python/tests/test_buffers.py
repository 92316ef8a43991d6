"""Shared buffers and the ring, against a host that is played here."""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import snakehouse
from conftest import BOUND
from snakehouse import (
    Array,
    Arrow,
    Cancelled,
    MalformedValue,
    UnsupportedValue,
    _buffers,
    _codec,
    _threads,
)
from snakehouse._doorbell import Doorbell

LARGE = _buffers.LEND_FROM


class Host:
    """The other end of the socket: reads what is lent, and gives it back when it is told to."""

    def __init__(self) -> None:
        self.talk, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        self.buffers = _buffers.Buffers(theirs)
        self.ring: mmap.mmap | None = None
        self.size = 0

    def share(self, number: int, data: bytes) -> None:
        fd = os.memfd_create("test")
        os.truncate(fd, max(len(data), 1))
        os.pwrite(fd, data, 0)
        self._send(struct.pack("<BQQ", 1, number, len(data)), fd)
        os.close(fd)

    def forget(self, number: int) -> None:
        self.talk.send(struct.pack("<BQ", 2, number))

    def _send(self, packet: bytes, fd: int) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
        self.talk.sendmsg([packet], [rights])

    def read(self, body: bytes) -> list[bytes]:
        """What a body is attached to."""
        assert body[:2] == b"\xc1\x01"
        if self.ring is None:
            packet, fds, _, _ = socket.recv_fds(self.talk, 64, 1)
            kind, slots, self.size = struct.unpack("<BII", packet)
            assert kind == 3
            self.ring = mmap.mmap(fds[0], 4096 + slots * self.size)
            os.close(fds[0])
        found: list[bytes] = []
        for n in range(body[2]):
            slot, offset, length = struct.unpack_from("<IIQ", body, 3 + 16 * n)
            begin = 4096 + slot * self.size + offset
            found.append(self.ring[begin : begin + length])
        return found

    def give_back(self, body: bytes) -> None:
        assert self.ring is not None
        for n in range(body[2]):
            slot = struct.unpack_from("<I", body, 3 + 16 * n)[0]
            struct.pack_into("<I", self.ring, 64 + 4 * slot, 0)

    def close(self) -> None:
        self.talk.close()
        self.buffers.close()

    def take(self, body: bytes) -> list[bytes]:
        found = self.read(body)
        self.give_back(body)
        return found


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    host = Host()
    monkeypatch.setattr(_buffers, "current", host.buffers)
    yield host
    host.close()


@pytest.fixture(params=["msgpack", "python"])
def codec(
    request: pytest.FixtureRequest, host: Host, monkeypatch: pytest.MonkeyPatch
) -> _codec.Codec:
    if request.param == "python":
        monkeypatch.setitem(sys.modules, "msgpack._cmsgpack", None)
    chosen = _codec.choose(host.buffers)
    assert chosen.name == request.param
    return chosen


def test_what_is_large_is_lent_and_what_is_small_is_not(host: Host, codec: _codec.Codec) -> None:
    data = bytes(range(256)) * (LARGE // 256)
    for value in (data, bytearray(data), memoryview(data), [Array("|u1", (LARGE,), data)]):
        body = codec.encode_result(value)
        assert len(body) < 100
        assert host.take(body) == [data]
        assert not codec.encode(value).startswith(b"\xc1")
    for value in (data[1:], bytearray(data[1:]), [data], {"k": (1,)}):
        assert codec.encode_result(value) == codec.encode(value)
    body = codec.encode_result([Array("|u1", (LARGE,), data), (Arrow(data), bytearray(data))])
    assert host.take(body) == [data] * 3
    assert host.buffers.count() == (0, 0)


def test_with_no_slot_free_it_travels_inline(host: Host, codec: _codec.Codec) -> None:
    values = [bytes([n]) * LARGE for n in range(_buffers.SLOTS + 1)]
    bodies = [codec.encode_result(value) for value in values]
    assert bodies[-1] == codec.encode(values[-1])
    assert [host.read(body) for body in bodies[:-1]] == [[value] for value in values[:-1]]
    assert host.buffers.count() == (_buffers.SLOTS, 0)
    host.give_back(bodies[2])
    body = codec.encode_result(values[-1])
    assert host.read(body) == [values[-1]]
    assert host.read(bodies[1]) == [values[1]], "a lent slot was written to"


def test_what_is_too_large_for_a_slot_travels_inline(
    codec: _codec.Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_buffers, "SLOT", LARGE)
    for value in (bytes(LARGE + 1), bytearray(LARGE + 1)):
        assert codec.encode_result(value) == codec.encode(value)


def test_what_is_made_in_a_slot_is_not_copied(host: Host, codec: _codec.Codec) -> None:
    view = snakehouse.buffer(LARGE + 16)
    view[:] = b"a" * (LARGE + 16)
    body = codec.encode_result(view[8:-8])
    assert host.read(body) == [b"a" * LARGE]
    # The host sees what is written afterwards, so it was not copied.
    view[8] = 0x62
    assert host.take(body)[0][:2] == b"ba"
    assert host.buffers.count() == (0, 1)
    del view
    assert host.buffers.count() == (0, 0)


def test_a_view_that_is_sent_twice_is_copied_the_second_time(
    host: Host, codec: _codec.Codec
) -> None:
    view = snakehouse.buffer(LARGE)
    view[:] = b"1" * LARGE
    first = codec.encode_result(view)
    view[:] = b"2" * LARGE
    second = codec.encode_result(view)
    del view
    host.take(first)
    snakehouse.buffer(LARGE)[:] = b"3" * LARGE
    assert host.take(second) == [b"2" * LARGE]


def test_a_part_of_a_view_holds_its_slot(host: Host) -> None:
    part = snakehouse.buffer(LARGE)[5:9]
    assert host.buffers.count() == (0, 1)
    other = snakehouse.buffer(LARGE)
    other[:] = b"x" * LARGE
    part[:] = b"mine"
    assert bytes(other[5:9]) == b"xxxx"


def test_a_result_that_does_not_travel_lends_nothing(host: Host, codec: _codec.Codec) -> None:
    big = Array("|u1", (LARGE,), bytes(LARGE))
    for value in ([big, object()], (big, {1: range(2)}), {"a": big, "b": "\ud800"}):
        with pytest.raises(UnsupportedValue):
            codec.encode_result(value)
        assert host.buffers.count() == (0, 0)
    # Both are in slots, although the C packer had to give up on the second.
    body = codec.encode_result([big, bytearray(LARGE)])
    assert len(host.take(body)) == 2
    assert host.buffers.count() == (0, 0)


def named(number: int, length: int, form: bytes) -> bytes:
    content = struct.pack(">QQ", number, length) + form
    return b"\xc7" + bytes([len(content), 16]) + content


def test_a_shared_buffer_is_a_read_only_view(host: Host, codec: _codec.Codec) -> None:
    host.share(7, b"shared bytes")
    views = [codec.decode(named(7, 12, b"\0")) for _ in range(3)]
    assert {(bytes(view), view.readonly) for view in views} == {(b"shared bytes", True)}
    table = codec.decode(b"\x91" + named(7, 12, b"\x0c\x01"))[0]
    assert table == Arrow(b"shared bytes", is_batch=True)
    head = b"\x0b\x03<u4C\x01" + struct.pack(">Q", 3)
    assert codec.decode(named(7, 12, head)) == Array("<u4", (3,), b"shared bytes")
    host.forget(7)
    host.share(8, b"")
    assert bytes(codec.decode(named(8, 0, b"\0"))) == b""
    with pytest.raises(MalformedValue):
        codec.decode(named(7, 12, b"\0"))
    assert bytes(views[0]) == b"shared bytes", "a view outlives that"


@pytest.mark.parametrize(
    "bad",
    [
        named(9, 3, b"\0"),
        named(7, 4, b"\0"),
        named(7, 3, b"\1"),
        named(7, 3, b""),
        named(7, 3, b"\0x"),
        named(7, 3, b"\x0c\x02"),
        named(7, 3, b"\x0b\x03<u4C\x01" + bytes(8)),
        b"\xc7\x03\x10\0\0\0",
    ],
)
def test_a_buffer_that_is_not_there_or_is_another_is_refused(
    host: Host, codec: _codec.Codec, bad: bytes
) -> None:
    host.share(7, b"abc")
    with pytest.raises(MalformedValue):
        codec.decode(bad)


def test_without_a_socket_there_is_ordinary_memory() -> None:
    view: Any = snakehouse.buffer(LARGE)
    assert (type(view.obj), len(view)) == (bytearray, LARGE)
    assert _buffers.Buffers(None).reserve(LARGE) is None


def test_a_forked_child_lends_nothing_of_its_parent(host: Host, codec: _codec.Codec) -> None:
    value = b"p" * LARGE
    body = codec.encode_result(value)
    pid = os.fork()
    if not pid:
        try:
            os._exit(0 if codec.encode_result(value) == codec.encode(value) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert host.take(body) == [value]


def test_threads_never_get_the_same_slot(host: Host) -> None:
    barrier = threading.Barrier(8)
    got: list[memoryview] = []

    def work() -> None:
        barrier.wait()
        for _ in range(50):
            view = snakehouse.buffer(LARGE)
            got.append(view)
            view[:8] = struct.pack("q", id(view))
            assert bytes(view[:8]) == struct.pack("q", id(view))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 400
    assert sum(1 for view in got if type(view.obj) is mmap.mmap) == _buffers.SLOTS
    assert len({bytes(view[:8]) for view in got}) == 400


class Talk:
    """A worker's end that does something right after it has received, or found nothing."""

    def __init__(
        self, inner: Any, received: Callable[[], None], empty: Callable[[], object] = bool
    ) -> None:
        self._inner = inner
        self._received = received
        self._empty = empty
        self.close = inner.close

    def recvmsg(self, *args: int) -> Any:
        try:
            packet = self._inner.recvmsg(*args)
        except BlockingIOError:
            self._empty()
            raise
        self._received()
        return packet


def listen(host: Host, received: Callable[[], None], empty: Callable[[], object] = bool) -> None:
    buffers: Any = host.buffers
    buffers._talk = Talk(buffers._talk, received, empty)


def test_a_cancel_of_the_only_call_loses_no_buffer(host: Host) -> None:
    doorbell = Doorbell(None)
    bell: Any = doorbell

    def ring() -> None:
        doorbell.words[48 + doorbell.words[32]] = 5
        doorbell.words[32] += 1
        bell._ring(0, None)

    host.buffers.shield = doorbell.shield
    listen(host, ring)
    host.share(7, b"seven")
    doorbell.running = 5
    with pytest.raises(Cancelled):
        host.buffers.shared(7, 5)
    assert bytes(host.buffers.shared(7, 5)) == b"seven"


def test_a_cancel_in_a_thread_loses_no_buffer(host: Host) -> None:
    ours, theirs = socket.socketpair()
    server = _threads.ThreadServer(ours, Doorbell(None), [], 2)
    seat = _threads.ThreadSeat(server)
    seat.ident = threading.get_ident()
    server.seats[seat.ident] = seat
    seat.work = _threads._Work(server, seat.ident)  # pyright: ignore[reportPrivateUsage]
    listen(host, seat.work.cancel)
    host.share(7, b"seven")
    with pytest.raises(Cancelled):
        seat.guard(host.buffers.shared, 7, 5)
    assert bytes(host.buffers.shared(7, 5)) == b"seven"
    # CPython 3.11 looks for an exception that was taken back until another one arrives, and stands
    # still in the first function that is profiled then.
    with pytest.raises(Cancelled):
        raise_here(server)
    ours.close()
    theirs.close()


def raise_here(server: _threads.ThreadServer) -> None:
    server.raise_in(threading.get_ident(), Cancelled)
    for _ in range(1000):
        pass


def test_a_thread_waits_for_what_another_has_received_for_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_here = threading.Event()
    lock = threading.Lock()
    found: list[bytes] = []

    class Watched:
        """A lock that tells when somebody waits for it."""

        def __enter__(self) -> None:
            if lock.locked():
                is_here.set()
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    def second() -> None:
        found.append(bytes(host.buffers.shared(7, 5)))

    thread = threading.Thread(target=second)

    def received() -> None:
        if not thread.ident:
            thread.start()
            assert is_here.wait(BOUND)

    listen(host, received, is_here.set)
    monkeypatch.setattr(host.buffers, "_receiving", Watched())
    host.share(7, b"seven")
    host.share(8, b"eight")
    assert bytes(host.buffers.shared(8, 5)) == b"eight"
    thread.join(BOUND)
    assert found == [b"seven"]
