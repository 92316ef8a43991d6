"""Calls of a real worker: results, arguments, failures, sizes, order."""

from __future__ import annotations

import random
import struct
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
    assert hello["capabilities"] == ["cancel", "started"]
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
        ("note", "tool", "tool_raised", "message\nand a note"),
        ("odd", "tool", "tool_raised", "<tools_for_tests.Odd whose message raised RuntimeError>"),
        ("surrogate", "tool", "tool_raised", "\\ud800"),
        ("type", "tool", "tool_raised", "from inside"),
        (
            "set",
            "tool",
            "unsupported_value",
            "the result of fail: a value of type set cannot travel at $['a'][1][2]",
        ),
    ],
)
def test_failures_have_codes(host: Host, how: str, kind: str, code: str, message: str) -> None:
    failure = host.fail("fail", how)
    assert (failure["kind"], failure["code"], failure["message"]) == (kind, code, message)
    assert (failure["hint"] == "try Bern") == (how == "coded")


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
    head = struct.pack("<HHQQ", host.number("echo"), 0, _frames.NEVER, 0) + bytes(16)
    host.send(_frames.frame(_frames.KIND_OPEN, 1000, head + body))
    stream, (kind, failure) = host.reply()
    assert (stream, kind) == (1000, _frames.KIND_ERROR)
    assert failure["kind"] == "invalid_input"
    assert host.call("echo", 1) == 1


def test_the_deadline_is_the_tools_to_see(host: Host) -> None:
    remaining, session = host.call("context", micros=60_000_000, session=7)
    assert 0 < remaining <= 60
    assert session == 7
    assert host.call("context") == (None, None)


def test_a_call_whose_deadline_has_passed_does_not_run(host: Host) -> None:
    failure = host.fail("count", micros=0)
    assert (failure["kind"], failure["code"]) == ("deadline", "deadline")
    assert host.call("calls") == 0


def test_pings_are_answered(host: Host) -> None:
    host.send(_frames.frame(_frames.KIND_PING, 0, b"12345678"))
    assert host.frame() == (_frames.KIND_PONG, 0, b"12345678")


def test_without_a_page_it_says_what_it_cannot(start_host: Callable[..., Host]) -> None:
    host = start_host(TOOLS, page=False).greet()
    assert host.hello["capabilities"] == []
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
