"""Cancelling calls of a real worker."""

from __future__ import annotations

import random
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from conftest import BOUND, Host
from snakehouse import Cancelled, _codec, _frames
from snakehouse._callbacks import Callbacks
from snakehouse._doorbell import WORD_RECALL, Doorbell
from snakehouse._seat import MainSeat


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < end


@pytest.mark.parametrize("how", ["sleep", "loop", "process", "read"])
def test_a_running_call_is_cancelled(host: Host, how: str) -> None:
    stream = host.start("wait", how)
    assert host.process.stdout
    assert host.process.stdout.readline() == b"ready\n"
    assert host.started == stream
    host.ring(stream)
    answered, (kind, failure) = host.reply()
    assert (answered, kind) == (stream, _frames.KIND_ERROR)
    assert (failure["kind"], failure["code"]) == ("cancelled", "cancelled")
    assert host.call("echo", "next") == "next"


def test_a_waiting_call_is_cancelled_and_never_runs(host: Host) -> None:
    running, one = host.open_frames("wait", "sleep")
    waiting, two = host.open_frames("count")
    host.send(one + two)
    wait_until(lambda: host.started == running)
    host.ring(waiting)
    host.ring(running)
    for stream in (running, waiting):
        answered, (kind, failure) = host.reply()
        assert (answered, kind, failure["code"]) == (stream, _frames.KIND_ERROR, "cancelled")
    assert host.call("calls") == 0


def test_two_cancels_with_one_ring_are_both_heard(host: Host) -> None:
    running = host.start("wait", "sleep")
    wait_until(lambda: host.started == running)
    host.ring(running + 1, frame=False)
    host.ring(running, frame=False)
    assert host.reply()[1][1]["code"] == "cancelled"
    assert host.fail("count")["code"] == "cancelled"
    assert host.call("calls") == 0


def test_a_cancel_by_frame_alone_stops_a_call_that_waits(host: Host) -> None:
    stream, data = host.open_frames("count")
    host.send(_frames.frame(_frames.KIND_CANCEL, stream, b"") + data)
    assert host.reply()[1][1]["code"] == "cancelled"


def test_a_late_cancel_hits_nothing(host: Host) -> None:
    stream = host.start("echo", 1)
    assert host.reply()[0] == stream
    host.ring(stream)
    assert host.call("spin", 200_000) == sum(range(200_000))


def test_a_tool_can_swallow_it_and_answers_all_the_same(host: Host) -> None:
    stream = host.start("swallow")
    # A started call may still be decoding its arguments, where nobody could swallow anything.
    assert host.process.stdout
    assert host.process.stdout.readline() == b"ready\n"
    host.ring(stream)
    assert host.reply() == (stream, (_frames.KIND_LAST, "Cancelled"))


def test_more_cancels_than_the_ring_holds(host: Host) -> None:
    stream = host.start("wait", "sleep")
    wait_until(lambda: host.started == stream)
    for other in range(stream + 1000, stream + 1400):
        host.ring(other, frame=False)
    host.ring(stream, frame=False)
    assert host.reply()[1][1]["code"] == "cancelled"


def test_hammered_with_cancels_every_call_has_exactly_one_answer(host: Host) -> None:
    """Calls in batches, cancels at random moments, some twice, some for calls that are over."""
    chance = random.Random(42)
    total, cancelled, stray = 10_000, 0, 0
    sent: dict[int, bool] = {}
    answered = 0
    while answered < total:
        batch = [
            host.open_frames("spin", chance.choice([0, 10, 300, 3000]))
            for _ in range(chance.randrange(1, 17))
        ]
        host.send(b"".join(data for _, data in batch))
        wanted = [stream for stream, _ in batch if chance.random() < 0.3]
        for stream in wanted:
            for _ in range(chance.randrange(chance.choice([1, 400]))):
                pass
            host.ring(stream, frame=chance.random() < 0.5)
            if chance.random() < 0.3:
                host.ring(stream, frame=False)
        for stream, _ in batch:
            sent[stream] = stream in wanted
            got, (kind, value) = host.reply()
            assert got == stream
            answered += 1
            if kind == _frames.KIND_ERROR:
                assert value["code"] == "cancelled", value
                cancelled += 1
                stray += stream not in wanted
    assert stray == 0
    assert total / 100 < cancelled < total / 2
    assert host.call("echo", "whole") == "whole"
    assert host.end() == (0, "", "")


def overtaken(host: Host) -> None:
    """A call whose body is complete only after a later one was answered, and its cancel."""
    stream, data = host.open_frames("echo", 1)
    head = _frames.HEAD.size
    flags_at, cut = head + 2, head + _frames.OPEN_LENGTH + 1
    payload = data[head:flags_at] + bytes([data[flags_at] | 1]) + data[flags_at + 1 : cut]
    host.send(_frames.frame(_frames.KIND_OPEN, stream, payload))
    assert host.call("echo", 2) == 2
    last = _frames.frame(_frames.KIND_LAST, stream, data[cut:])
    host.send(last + _frames.frame(_frames.KIND_CANCEL, stream, b""))
    answered, (kind, failure) = host.reply()
    assert (answered, kind, failure["code"]) == (stream, _frames.KIND_ERROR, "cancelled")
    assert host.call("echo", 3) == 3


def test_a_call_that_was_overtaken_is_cancelled_before_it_starts(host: Host) -> None:
    overtaken(host)


@pytest.mark.parametrize("how", ["loop", "sleep"])
def test_a_coroutine_that_never_awaits_is_interrupted(host: Host, how: str, tmp_path: Path) -> None:
    for number in range(3):
        mark = tmp_path / str(number)
        stream = host.start("never_await", how, str(mark))
        wait_until(mark.exists)
        host.ring(stream)
        answered, (kind, failure) = host.reply()
        assert (answered, kind, failure["code"]) == (stream, _frames.KIND_ERROR, "cancelled")
    assert host.call("echo", 1) == 1
    assert host.end() == (0, f"interrupted {how}\n" * 3, "")


def test_who_waits_is_hit_once_wherever_the_bell_is_heard() -> None:
    """Also in the first moment of a function of ours, which is before its first line."""
    doorbell = Doorbell(None)
    words, stream = doorbell.words, 7
    ours, theirs = socket.socketpair()
    taken: list[bytes] = []
    seat = MainSeat(
        ours,
        doorbell,
        lambda: taken.append(ours.recv(1)),
        ours.sendall,
        Callbacks(),
        _codec.choose(),
        lambda: None,
    )
    hits = 0

    def look(frame: FrameType, event: str, _argument: object) -> None:
        """A cancel in the first moment of ``pause``, if a cancel can hit there at all."""
        if event == "call" and frame.f_code is MainSeat.pause.__code__ and doorbell.running:
            sys.setprofile(None)
            words[48], words[32] = stream, 1
            doorbell.look()

    def wait() -> None:
        nonlocal hits
        seat.pause()
        try:
            try:
                sys.setprofile(look)
                seat.wait(None)
            finally:
                sys.setprofile(None)
                seat.resume()
        except Cancelled:
            hits += 1

    def tool() -> None:
        for _ in range(2):
            theirs.send(b"x")
            wait()
            # The frame that goes with the page comes later.
            doorbell.ask(stream)

    with ours, theirs:
        seat.begin(stream)
        seat.guard(tool)
        seat.end()
    assert hits == 1


def test_a_cancel_of_what_was_taken_back_is_not_remembered() -> None:
    doorbell = Doorbell(None)
    doorbell.words[WORD_RECALL] = 5
    doorbell.ask(6)
    assert doorbell.wanted == {6}
    assert not doorbell.is_recalled(4)
    assert doorbell.is_recalled(6)
    assert not doorbell.wanted
