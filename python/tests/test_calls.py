"""Calls of a real worker: results, arguments, failures, sizes, order."""

from __future__ import annotations

import os
import random
import signal
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import TOOLS, Host
from snakehouse import _frames
from values import equal, random_value


def test_hello_says_who_it_is(host: Host) -> None:
    hello = host.hello
    assert hello["protocol"] == 1
    assert hello["language"] == "python"
    assert hello["pid"] == host.process.pid
    assert hello["codec"] in ("msgpack", "python")
    always = ["callbacks", "sessions", "streams", "telemetry"]
    assert hello["capabilities"] == ["cancel", "recall", "started", *always]
    assert hello["failure"] is None
    plus = next(t for t in hello["tools"] if t["name"] == "plus")
    assert plus["signature"] == "(a: 'int', b: 'int' = 1) -> 'int'"
    assert plus["doc"] == "Adds."


def test_both_codecs_are_tested(start_host: Callable[..., Host]) -> None:
    assert start_host(TOOLS).greet().hello["codec"] == "msgpack"
    assert start_host(TOOLS, flags=("-S",)).greet().hello["codec"] == "python"


def test_arguments_reach_the_tool(host: Host) -> None:
    assert host.call("plus", 2) == 3
    assert host.call("plus", 2, b=5) == 7
    assert host.call("plus", b=5, a=1) == 6


def test_random_values_come_back_exactly(host: Host) -> None:
    chance = random.Random(20261121)
    for _ in range(500):
        value = random_value(chance)
        assert equal(host.call("echo", value), value), value


@pytest.mark.parametrize("size", [0, 1, 70_000, (1 << 20) - 40, 1 << 20, 5 << 20])
def test_bodies_of_any_size_travel(host: Host, size: int) -> None:
    value = random.Random(size).randbytes(size)
    assert host.call("echo", value) == value


def test_every_call_is_answered_in_order(host: Host) -> None:
    frames = [host.open_frames("echo", n) for n in range(2_000)]
    host.send(b"".join(data for _, data in frames))
    for n, (stream, _) in enumerate(frames):
        assert host.reply() == (stream, (_frames.KIND_LAST, n))
    assert host.started == frames[-1][0]


def test_long_bytes_among_short_answers_are_whole_and_in_order(host: Host) -> None:
    for _ in range(5):
        host.call("echo", 0)
    # More than the socket holds, so that writes are cut into parts.
    values = [bytes([n]) * 70_000 if n % 3 == 0 else n for n in range(100)]
    frames = [host.open_frames("echo", value) for value in values]
    writer = threading.Thread(target=lambda: host.send(b"".join(data for _, data in frames)))
    writer.start()
    for (stream, _), value in zip(frames, values, strict=True):
        assert host.reply() == (stream, (_frames.KIND_LAST, value))
    writer.join()


def test_a_signal_that_cuts_a_long_write_short_loses_nothing(host: Host) -> None:
    for _ in range(5):
        host.call("echo", 0)
    chance = random.Random(19)
    values = [chance.randbytes(200_000) for _ in range(20)]
    for value in values:
        stream, data = host.open_frames("echo", value)
        host.send(data)
        # The worker writes more than the socket holds: it waits within, or will.
        for _ in range(20):
            host.process.send_signal(signal.SIGURG)
        assert host.reply() == (stream, (_frames.KIND_LAST, value))


def test_bodies_in_pieces_may_be_interleaved(host: Host) -> None:
    first, one = host.open_frames("echo", b"a" * (2 << 20))
    second, two = host.open_frames("echo", b"b" * (2 << 20))
    pieces = [split(one), split(two)]
    for a, b in zip(*pieces, strict=True):
        host.send(a)
        host.send(b)
    assert host.reply() == (first, (_frames.KIND_LAST, b"a" * (2 << 20)))
    assert host.reply() == (second, (_frames.KIND_LAST, b"b" * (2 << 20)))


def split(data: bytes) -> list[bytes]:
    frames: list[bytes] = []
    while data:
        length = 9 + struct.unpack_from("<I", data)[0]
        frames.append(data[:length])
        data = data[length:]
    return frames


def test_frames_may_arrive_byte_by_byte(host: Host) -> None:
    stream, data = host.open_frames("echo", "slow")
    for byte in data:
        host.send(bytes([byte]))
    assert host.reply() == (stream, (_frames.KIND_LAST, "slow"))


def test_a_slow_call_does_not_hold_back_the_answers_before_it(host: Host) -> None:
    for _ in range(3):
        host.call("echo", 0)
    first, one = host.open_frames("echo", 1)
    slow, two = host.open_frames("wait", "sleep")
    host.send(one + two)
    assert host.reply() == (first, (_frames.KIND_LAST, 1))
    host.ring(slow)
    assert host.reply()[0] == slow


@pytest.mark.parametrize("before", [0, 100])
def test_a_finished_answer_never_waits_for_a_call_that_takes_long(
    host: Host, tmp_path: Path, before: int
) -> None:
    """Two answers of a tool that was quick so far arrive while its third call runs."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    for _ in range(before):
        host.call("until_released", "")
    frames = [host.open_frames("until_released", path) for path in ("", "", str(gate))]
    # The two are held only if one read brings all three.
    host.send(b"".join(data for _, data in frames))
    for stream, _ in frames[:2]:
        assert host.reply() == (stream, (_frames.KIND_LAST, ""))
    gate.write_text("")
    assert host.reply() == (frames[2][0], (_frames.KIND_LAST, str(gate)))


def test_a_tool_with_an_alarm_of_its_own_keeps_it(host: Host, tmp_path: Path) -> None:
    """The loop's timer is the process's only one: a tool that uses it is let alone."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def batch() -> None:
        frames = [host.open_frames("alarm", 1000.0) for _ in range(100)]
        host.send(b"".join(data for _, data in frames))
        for stream, _ in frames:
            answered, (kind, left) = host.reply()
            assert (answered, kind) == (stream, _frames.KIND_LAST)
            assert 900 < left <= 1000

    batch()
    batch()
    frames = [host.open_frames("alarm", 1000.0), host.open_frames("until_released", str(gate))]
    host.send(b"".join(data for _, data in frames))
    assert host.reply()[0] == frames[0][0]
    gate.write_text("")
    assert host.reply()[0] == frames[1][0]


def test_an_alarm_that_a_tool_leaves_behind_stays_set(host: Host) -> None:
    warm = [host.open_frames("time_left")[1] for _ in range(40)]
    late = [host.open_frames("leave_an_alarm", 1000.0)[1]]
    after = [host.open_frames("time_left")[1] for _ in range(40)]
    host.send(b"".join(warm + late + after))
    for _ in range(41):
        host.reply()
    for _ in range(40):
        assert 900 < host.reply()[1][1] <= 1000
    for _ in range(40):
        assert 900 < host.call("time_left") <= 1000


def test_an_exception_keeps_its_shape(host: Host) -> None:
    failure = host.fail("fail", "chain")
    assert (failure["kind"], failure["code"]) == ("tool", "tool_raised")
    assert (failure["type"], failure["message"]) == ("KeyError", "'outer'")
    (frame,) = failure["traceback"]
    file, line, function, source = frame
    assert (Path(file).name, function) == ("tools_for_tests.py", "fail")
    assert (line > 0, source) == (True, 'raise KeyError("outer") from error')
    assert failure["cause"]["type"] == "ValueError"
    assert failure["cause"]["cause"] is None
    assert host.call("echo", "still there") == "still there"


@pytest.mark.parametrize(
    ("how", "kind", "code", "message"),
    [
        ("coded", "tool", "no_city", "no such city"),
        ("note", "tool", "tool_raised", "message"),
        ("odd", "tool", "tool_raised", "<tools_for_tests.Odd whose message raised RuntimeError>"),
        ("surrogate", "tool", "tool_raised", "\\ud800"),
        ("type", "tool", "tool_raised", "from inside"),
        (
            "range",
            "tool",
            "unsupported_value",
            "the result of fail: a value of type range cannot travel at $['a'][1][2]",
        ),
    ],
)
def test_failures_have_codes(host: Host, how: str, kind: str, code: str, message: str) -> None:
    failure = host.fail("fail", how)
    assert (failure["kind"], failure["code"], failure["message"]) == (kind, code, message)
    assert (failure["hint"] == "try Bern") == (how == "coded")


def test_an_exception_that_breaks_when_looked_at_is_an_answer(host: Host) -> None:
    failure = host.fail("raise_what_breaks")
    assert (failure["kind"], failure["code"]) == ("tool", "tool_error")
    assert host.call("echo", 1) == 1


def test_huge_failures_are_cut(host: Host) -> None:
    assert len(host.fail("fail", "long")["message"]) == 64 << 10
    deep = host.fail("fail", "deep")
    assert deep["type"] == "RecursionError"
    assert len(deep["traceback"]) == 65
    assert deep["traceback"][16][2].endswith("more ...")


def test_an_unsupported_value_of_the_tools_own_is_a_tools_error(host: Host) -> None:
    failure = host.fail("refused_inside")
    assert failure["type"] == "snakehouse._errors.UnsupportedValue"


def test_wrong_arguments_are_the_callers_mistake(host: Host) -> None:
    failure = host.fail("plus", 1, 2, 3)
    assert (failure["kind"], failure["code"]) == ("invalid_input", "bad_arguments")
    assert failure["hint"].startswith("the tool is plus(a:")
    assert host.fail("plus", 1, c=2)["code"] == "bad_arguments"


def test_an_unknown_tool_is_named(host: Host) -> None:
    assert host.fail(999)["code"] == "unknown_tool"


@pytest.mark.parametrize(
    "body", [b"\xc1", b"\x92\x90", b"\xc0", b"\x92\x90\x90", b"\x92\x90\x81\x01\x02"]
)
def test_a_malformed_body_fails_one_call(host: Host, body: bytes) -> None:
    head = struct.pack("<HHQQ", host.number("echo"), 0, _frames.NEVER, 0) + bytes(28)
    host.send(_frames.frame(_frames.KIND_OPEN, 1000, head + body))
    stream, (kind, failure) = host.reply()
    assert (stream, kind) == (1000, _frames.KIND_ERROR)
    assert failure["kind"] == "invalid_input"
    assert host.call("echo", 1) == 1


@pytest.mark.parametrize(
    "raised", ["MemoryError()", "RecursionError('too much')", "RuntimeError('too much')"]
)
def test_whatever_decoding_raises_fails_a_call_that_has_started(
    start_host: Callable[..., Host], tmp_path: Path, raised: str
) -> None:
    """A body can be too much for the worker: it dies or fails with a call that has begun."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    odd = tmp_path / "odd.py"
    odd.write_text(
        "import snakehouse\n"
        "from snakehouse import _loop\n"
        "class Loop(_loop.Loop):\n"
        "    def __init__(self, *parts):\n"
        "        super().__init__(*parts)\n"
        "        plain = self._decode\n"
        "        def decode(body):\n"
        "            args, kwargs = plain(body)\n"
        "            if kwargs:\n"
        "                open(kwargs['gate']).read()\n"
        f"                raise {raised}\n"
        "            return args, kwargs\n"
        "        self._decode = decode\n"
        "        self._codec.unpack = lambda body, **_: decode(body)\n"
        "_loop.Loop = Loop\n"
        "@snakehouse.tool\n"
        "def same(x):\n    return x\n"
    )
    host = start_host("odd", cwd=tmp_path).greet()
    host.call("same", 1)
    stream = host.start("same", 2, gate=str(gate))
    # Opening the pipe waits for the worker, which is in the middle of the body.
    with gate.open("w"):
        assert host.started == stream
    answered, (kind, failure) = host.reply()
    assert (answered, kind) == (stream, _frames.KIND_ERROR)
    assert (failure["kind"], failure["code"]) == ("invalid_input", "body_not_decoded")
    name, _, said = raised.partition("(")
    said = ": too much" if said != ")" else ""
    assert failure["message"] == f"{name} while the call's body was decoded{said}"
    assert host.call("same", 3) == 3


def test_the_deadline_is_the_tools_to_see(host: Host) -> None:
    remaining, session = host.call("context", micros=60_000_000, session=7)
    assert 0 < remaining <= 60
    assert session == "#7"
    assert host.call("context") == (None, None)


def test_a_call_whose_deadline_has_passed_does_not_run(host: Host) -> None:
    failure = host.fail("count", micros=0)
    assert (failure["kind"], failure["code"]) == ("deadline", "deadline")
    assert host.call("calls") == 0


def test_a_deadline_that_passes_behind_a_quick_tool_turned_slow_counts(
    host: Host, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    for _ in range(10):
        host.call("until_released", "")
        host.call("count")
    slow, one = host.open_frames("until_released", str(gate))
    quick, two = host.open_frames("count", micros=20_000_000)
    late, three = host.open_frames("count", micros=20_000)
    host.send(one + two + three)
    # Opening the pipe waits for the worker, which has read all three by then.
    with gate.open("w"):
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            pass
    assert host.reply() == (slow, (_frames.KIND_LAST, str(gate)))
    assert host.reply() == (quick, (_frames.KIND_LAST, 11))
    answered, (kind, failure) = host.reply()
    assert (answered, kind, failure["code"]) == (late, _frames.KIND_ERROR, "deadline")
    assert host.call("calls") == 11


def test_what_a_tool_sets_in_its_context_ends_with_its_call(host: Host) -> None:
    frames = [host.open_frames("mark", n, micros=60_000_000, session=n) for n in range(1, 30)]
    host.send(b"".join(data for _, data in frames))
    for n, (stream, _) in enumerate(frames, 1):
        assert host.reply() == (stream, (_frames.KIND_LAST, ("imported", f"#{n}")))
    assert host.call("mark", 7, session=1) == ("imported", "#1")
    # In pieces, as a large body arrives.
    assert host.call("mark", "x" * (2 << 20), session=2) == ("imported", "#2")
    assert host.call("mark", 7) == ("imported", None)


@pytest.mark.parametrize("is_held", [False, True])
def test_an_equal_value_in_the_context_ends_with_its_call_too(host: Host, is_held: bool) -> None:
    left = {host.call("keep_equal", is_held) for _ in range(5)}
    assert len(left) == 1


def test_among_many_variables_a_change_shows_too(
    start_host: Callable[..., Host], tmp_path: Path
) -> None:
    """What a context holds is a tree then, of which a change makes a part anew."""
    module = tmp_path / "many.py"
    module.write_text(
        "from contextvars import ContextVar, copy_context\n"
        "import snakehouse\n"
        "many = [ContextVar(str(n)) for n in range(500)]\n"
        "for one in many: one.set([])\n"
        "held = []\n"
        "@snakehouse.tool\n"
        "def keep_equal():\n"
        "    before = [id(one.get()) for one in many]\n"
        "    held.append(copy_context())\n"
        "    many[len(held)].set([])\n"
        "    return before\n"
    )
    host = start_host(module).greet()
    first = host.call("keep_equal")
    assert [host.call("keep_equal") for _ in range(20)] == [first] * 20


def test_a_thread_in_a_copy_of_its_context_sees_its_own_call_for_ever(host: Host) -> None:
    host.call("watch_later", session=1, micros=1_000_000_000)
    for _ in range(3):
        host.call("echo", "x" * 100, session=2)
    here, there = host.call("what_was_watched", session=2, micros=2_000_000_000)
    assert (here[0], there[0]) == ("#2", "#1")
    assert there[1] < here[1]


def test_pings_are_answered(host: Host) -> None:
    host.send(_frames.frame(_frames.KIND_PING, 0, b"12345678"))
    assert host.frame() == (_frames.KIND_PONG, 0, b"12345678")


def test_without_a_page_it_says_what_it_cannot(start_host: Callable[..., Host]) -> None:
    host = start_host(TOOLS, page=False).greet()
    assert host.hello["capabilities"] == ["callbacks", "sessions", "streams", "telemetry"]
    assert host.call("plus", 1) == 2


def test_big_values_keep_their_place_among_small_ones(host: Host) -> None:
    chance = random.Random(5)
    expected: list[Any] = []
    frames: list[bytes] = []
    for _ in range(30):
        value = chance.randbytes(chance.choice([10, 100_000, 1_200_000]))
        expected.append(value)
        frames.append(host.open_frames("echo", value)[1])
    for data, value in zip(frames, expected, strict=True):
        host.send(data)
        assert host.reply()[1] == (_frames.KIND_LAST, value)


def test_a_variable_that_cannot_be_compared_does_no_harm(host: Host) -> None:
    assert host.call("set_what_cannot_be_compared") == "set"
    assert host.call("set_what_cannot_be_compared") == "set"
    assert host.call("mark", 1) == ("imported", None)
    assert host.call("echo", 2) == 2
