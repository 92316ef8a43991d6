"""Callbacks, by the frames: what a worker says to its host, and what it takes meanwhile."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import host_tools as host_tools_for_tests
import pytest

import snakehouse
from conftest import Host
from snakehouse import HostToolError, _frames, _msgpack
from snakehouse._frames import (
    KIND_CALLBACK_CANCEL,
    KIND_CALLBACK_DATA,
    KIND_CALLBACK_ERROR,
    KIND_CALLBACK_LAST,
    KIND_CALLBACK_OPEN,
    KIND_ERROR,
    KIND_LAST,
    KIND_SETTINGS,
    MAX_CHUNK,
)
from snakehouse.testing import host_tools
from values import equal, random_value

HERE = Path(__file__).parent
TOOLS = HERE / "host_tools.py"

Starter = Callable[..., Host]


class Answering:
    """A host with two tools, whose callbacks a test answers by hand."""

    def __init__(self, host: Host) -> None:
        self.host = host
        tools = [
            {"name": name, "doc": "Gives it back.", "parameters": None, "result": None}
            for name in ("echo", "named-echo")
        ]
        self.tell({"host_tools": tools, "of_a_later_version": 1})

    def tell(self, settings: Any) -> None:
        self.host.send(_frames.frame(KIND_SETTINGS, 0, _msgpack.encode(settings)))

    def callback(self) -> tuple[int, dict[str, Any], list[Any]]:
        """The next callback: its number, its head, ``[args, kwargs]``."""
        kind, number, payload = self.host.frame()
        assert kind == KIND_CALLBACK_OPEN, (kind, payload)
        tool, flags, micros, call = struct.unpack_from("<HHQQ", payload)
        head = {"tool": tool, "micros": micros, "call": call, "place": payload[20:48]}
        body = payload[48:]
        while flags & 1:
            kind, piece_of, piece = self.host.frame()
            assert piece_of == number
            body += piece
            flags = kind == KIND_CALLBACK_DATA
        return number, head, _msgpack.decode(body)

    def answer(self, number: int, value: Any) -> None:
        body = _msgpack.encode(value)
        for at in range(0, max(len(body), 1), MAX_CHUNK):
            is_last = at + MAX_CHUNK >= len(body)
            kind = KIND_CALLBACK_LAST if is_last else KIND_CALLBACK_DATA
            self.host.send(_frames.frame(kind, number, body[at : at + MAX_CHUNK]))

    def refuse(self, number: int, **failure: Any) -> None:
        self.host.send(_frames.frame(KIND_CALLBACK_ERROR, number, _msgpack.encode(failure)))

    def echo(self) -> int:
        """Answer the next callback with its argument; gives the call that it came from."""
        number, head, (args, kwargs) = self.callback()
        self.answer(number, args[0] if args else kwargs["value"])
        return head["call"]

    def nested(self, tool: str, *args: Any) -> int:
        stream, data = self.host.open_frames(tool, *args)
        flags_at = _frames.HEAD.size + 2
        self.host.send(data[:flags_at] + bytes([data[flags_at] | 4]) + data[flags_at + 1 :])
        return stream


MODES = {
    "alone": {},
    "threads": {"SNAKEHOUSE_CAPACITY": "2", "SNAKEHOUSE_MODE": "threads"},
}


@pytest.fixture(params=list(MODES))
def answering(request: pytest.FixtureRequest, start_host: Starter) -> Answering:
    """A worker in each mode that runs plain functions."""
    return Answering(start_host(TOOLS, env=MODES[request.param]).greet())


@pytest.fixture
def alone(start_host: Starter) -> Answering:
    return Answering(start_host(TOOLS).greet())


@pytest.fixture(params=["alone", "threads", "asyncio"])
def any_async(request: pytest.FixtureRequest, start_host: Starter) -> Answering:
    """A worker in each mode that runs async functions."""
    if request.param == "asyncio":
        env = {"SNAKEHOUSE_CAPACITY": "2", "SNAKEHOUSE_MODE": "asyncio"}
        return Answering(start_host(HERE / "async_host_tools.py", env=env).greet())
    return Answering(start_host(TOOLS, env=MODES[request.param]).greet())


def test_values_come_back_exactly(answering: Answering) -> None:
    host, chance = answering.host, random.Random(7)
    for _ in range(150):
        value = random_value(chance)
        call = host.start("ask", value)
        number, head, (args, kwargs) = answering.callback()
        assert (head["call"], kwargs, equal(args[0], value)) == (call, {}, True)
        answering.answer(number, value)
        answered, (kind, back) = host.reply()
        assert (answered, kind, equal(back, value)) == (call, KIND_LAST, True)


def test_names_numbers_and_arguments(answering: Answering) -> None:
    host = answering.host
    assert "callbacks" in host.hello["capabilities"]
    assert host.call("names") == ["echo", "named-echo"]
    host.start("ask_by_name", 7)
    number, head, body = answering.callback()
    assert (head["tool"], body) == (1, [[], {"value": 7}])
    answering.answer(number, 8)
    assert host.reply()[1] == (KIND_LAST, 8)
    # Said again, it replaces what was said before.
    answering.tell({"host_tools": []})
    assert host.call("names") == []
    failure = host.fail("ask", 1)
    assert (failure["kind"], failure["code"]) == ("not_found", "unknown_host_tool")
    answering.tell({"something": "else"})
    assert host.call("plain", 5) == 5


def test_deadline_trace_and_depth_go_along(answering: Answering) -> None:
    place = bytes(range(1, 17)) + bytes(range(1, 9)) + bytes([1, 4, 0, 0])
    answering.host.start("ask", 1, micros=20_000_000, place=place)
    number, head, _ = answering.callback()
    assert 0 < head["micros"] <= 20_000_000
    assert head["place"] == place[:25] + bytes([5, 0, 0])
    answering.answer(number, 1)
    assert answering.host.reply()[1] == (KIND_LAST, 1)


def test_large_values_travel_in_pieces(answering: Answering) -> None:
    for value in (b"x" * (MAX_CHUNK - 4), b"y" * MAX_CHUNK, b"z" * (3 * MAX_CHUNK + 5)):
        answering.host.start("ask", value)
        answering.echo()
        assert answering.host.reply()[1] == (KIND_LAST, value)


def test_an_error_of_the_host_is_an_exception_with_its_parts(answering: Answering) -> None:
    said = {"kind": "not_found", "code": "no_such_key", "message": "no key", "hint": "look"}
    answering.host.start("caught")
    answering.refuse(answering.callback()[0], **said)
    assert answering.host.reply()[1][1] == ["no key", "not_found", "no_such_key", "look"]


def test_an_error_that_is_not_caught_travels_on_with_its_cause(answering: Answering) -> None:
    cause = {"kind": "tool", "code": "tool_raised", "type": "KeyError", "message": "'k'"}
    said = {"kind": "not_found", "code": "no_such_key", "message": "no key", "hint": "look"}
    answering.host.start("ask", 1)
    answering.refuse(answering.callback()[0], **said, cause=cause)
    failure = answering.host.reply()[1][1]
    assert {key: failure[key] for key in said} == said
    assert failure["type"].endswith("HostToolError")
    assert failure["cause"] == cause
    assert failure["traceback"][-1][2] == "ask"
    # The end of a callback is not that of the call.
    answering.host.start("ask", 1)
    answering.refuse(answering.callback()[0], kind="deadline", code="deadline", message="late")
    failure = answering.host.reply()[1][1]
    assert (failure["kind"], failure["code"]) == ("deadline", "host_deadline")


def test_a_failure_that_is_none_is_still_a_failure(answering: Answering) -> None:
    answering.host.start("caught")
    answering.host.send(_frames.frame(KIND_CALLBACK_ERROR, answering.callback()[0], b"\xc0"))
    assert answering.host.reply()[1][1][2] == "failure_malformed"
    answering.host.start("caught")
    answering.host.send(_frames.frame(KIND_CALLBACK_LAST, answering.callback()[0], b"\xc1"))
    assert answering.host.reply()[1][1][2] == "bad_result"


def test_what_does_not_travel_is_refused_here(answering: Answering) -> None:
    # A lone surrogate is made in the tool: it cannot be sent to it either.
    failure = answering.host.fail("unknown")
    assert failure["code"] == "unknown_host_tool"
    assert "echo, named-echo" in failure["hint"]


def test_a_cancel_interrupts_the_wait(answering: Answering) -> None:
    host = answering.host
    call = host.start("ask", 1)
    number, _, _ = answering.callback()
    host.ring(call)
    kind, cancelled, payload = host.frame()
    assert (kind, cancelled, payload) == (KIND_CALLBACK_CANCEL, number, b"")
    answered, (kind, failure) = host.reply()
    assert (answered, kind, failure["kind"]) == (call, KIND_ERROR, "cancelled")
    # The host answers all the same, and that is for nobody.
    answering.answer(number, "late")
    assert host.call("plain", 1) == 1


def test_a_cancelled_call_may_ask_while_it_cleans_up(answering: Answering) -> None:
    host = answering.host
    call = host.start("tidy")
    first, _, _ = answering.callback()
    host.ring(call)
    assert host.frame()[:2] == (KIND_CALLBACK_CANCEL, first)
    host.rung_enough()
    second, head, body = answering.callback()
    assert (head["call"], body) == (call, [["cleanup"], {}])
    answering.refuse(first, kind="cancelled", code="cancelled", message="over")
    answering.refuse(second, kind="cancelled", code="cancelled", message="over")
    _, (kind, failure) = host.reply()
    assert (kind, failure["code"]) == (KIND_ERROR, "cancelled")


def test_without_a_page_a_cancel_frame_interrupts_the_wait(start_host: Starter) -> None:
    answering = Answering(start_host(TOOLS, page=False).greet())
    host = answering.host
    call, data = host.open_frames("ask", 1)
    # Read together with the call, and still seen.
    host.send(data + _frames.frame(_frames.KIND_CANCEL, call, b""))
    number, _, _ = answering.callback()
    answered, (kind, failure) = _answer_behind_cancel(host, number)
    assert (answered, kind, failure["kind"]) == (call, KIND_ERROR, "cancelled")


def _answer_behind_cancel(host: Host, number: int) -> tuple[int, Any]:
    kind, cancelled, _ = host.frame()
    assert (kind, cancelled) == (KIND_CALLBACK_CANCEL, number)
    return host.reply()


def test_calls_that_were_sent_ahead_do_not_start_meanwhile(alone: Answering) -> None:
    host = alone.host
    first, one = host.open_frames("ask", "a")
    second, two = host.open_frames("plain", "b")
    third, three = host.open_frames("ask", "c")
    host.send(one + two + three)
    number, head, _ = alone.callback()
    assert head["call"] == first
    late = host.start("plain", "d")
    # It answers a ping meanwhile, and nothing else.
    host.send(_frames.frame(_frames.KIND_PING, 0, b"12345678"))
    assert host.frame() == (_frames.KIND_PONG, 0, b"12345678")
    assert host.started == first
    alone.answer(number, "A")
    assert host.reply() == (first, (KIND_LAST, "A"))
    assert host.reply() == (second, (KIND_LAST, "b"))
    assert alone.echo() == third
    assert host.reply() == (third, (KIND_LAST, "c"))
    assert host.reply() == (late, (KIND_LAST, "d"))
    assert host.started == late


def test_a_cancel_of_a_call_that_was_sent_ahead_is_kept_meanwhile(alone: Answering) -> None:
    host = alone.host
    first = host.start("ask", "a")
    number, _, _ = alone.callback()
    second = host.start("plain", "b")
    host.ring(second)
    alone.answer(number, "A")
    assert host.reply() == (first, (KIND_LAST, "A"))
    answered, (kind, failure) = host.reply()
    assert (answered, kind, failure["code"]) == (second, KIND_ERROR, "cancelled")


def test_nested_calls_run_before_what_was_sent_ahead(alone: Answering) -> None:
    host = alone.host
    first = host.start("ask", "a")
    number, _, _ = alone.callback()
    ahead = host.start("ask", "ahead")
    nested = alone.nested("plain", "n")
    assert host.reply() == (nested, (KIND_LAST, "n"))
    assert host.started == first
    alone.answer(number, "A")
    assert host.reply() == (first, (KIND_LAST, "A"))
    assert alone.echo() == ahead
    assert host.reply() == (ahead, (KIND_LAST, "ahead"))


def test_nested_calls_have_threads_beside_those_that_wait(start_host: Starter) -> None:
    busy = Answering(start_host(TOOLS, env=MODES["threads"]).greet())
    host = busy.host
    waiting = [(host.start("ask", n), busy.callback()[0]) for n in range(2)]
    ahead = host.start("plain", "ahead")
    nested = [busy.nested("plain", n) for n in range(3)]
    assert {host.reply() for _ in range(3)} == {
        (stream, (KIND_LAST, n)) for n, stream in enumerate(nested)
    }
    for _, number in waiting:
        busy.answer(number, "done")
    assert {host.reply() for _ in range(3)} == {
        (ahead, (KIND_LAST, "ahead")),
        *((call, (KIND_LAST, "done")) for call, _ in waiting),
    }


def test_nested_async_calls_leave_no_descriptor(answering: Answering) -> None:
    seen: set[int] = set()
    for _ in range(20):
        outer = answering.host.start("ask", 1)
        number, _, _ = answering.callback()
        inner = answering.nested("descriptors")
        answered, (_, count) = answering.host.reply()
        assert answered == inner
        seen.add(count)
        answering.answer(number, count)
        assert answering.host.reply() == (outer, (KIND_LAST, count))
    assert len(seen) == 1, seen


def test_sixteen_calls_run_on_top_of_each_other(answering: Answering) -> None:
    host = answering.host
    stack = [(host.start("ask", 0), answering.callback()[0])]
    for level in range(1, 17):
        call = answering.nested("ask", level)
        number, head, body = answering.callback()
        assert (head["call"], body) == (call, [[level], {}])
        stack.append((call, number))
    if host.hello["capacity"] == 1:
        over = answering.nested("plain", "over")
        answered, (kind, failure) = host.reply()
        assert (answered, kind, failure["code"]) == (over, KIND_ERROR, "too_deep")
    # Each cancel and each answer finds its own.
    for level, (call, number) in reversed(list(enumerate(stack))):
        answering.answer(number, ["result", level])
        assert host.reply() == (call, (KIND_LAST, ["result", level]))
    assert host.started == stack[0][0]
    assert host.call("plain", 1) == 1


def test_an_answer_to_a_call_below_waits_for_those_above(alone: Answering) -> None:
    host = alone.host
    below = host.start("ask", "below")
    number, _, _ = alone.callback()
    above = alone.nested("ask", "above")
    inner, _, _ = alone.callback()
    alone.answer(number, "answered first")
    host.send(_frames.frame(_frames.KIND_PING, 0, b"12345678"))
    assert host.frame()[0] == _frames.KIND_PONG
    alone.answer(inner, "answered last")
    assert host.reply() == (above, (KIND_LAST, "answered last"))
    assert host.reply() == (below, (KIND_LAST, "answered first"))


def test_a_cancel_reaches_the_call_on_top_and_those_below(answering: Answering) -> None:
    host = answering.host
    calls = [host.start("ask", 0)]
    numbers = [answering.callback()[0]]
    for level in (1, 2):
        calls.append(answering.nested("ask", level))
        numbers.append(answering.callback()[0])
    for call in calls:
        host.ring(call)
    ended: dict[int, str] = {}
    given_up: set[int] = set()
    while len(ended) < 3:
        kind, stream, payload = host.frame()
        if kind == KIND_CALLBACK_CANCEL:
            given_up.add(stream)
            continue
        assert kind == KIND_ERROR
        ended[stream] = _msgpack.decode(payload)["code"]
    host.rung_enough()
    assert ended == dict.fromkeys(calls, "cancelled")
    assert given_up == set(numbers)
    for number in numbers:
        answering.refuse(number, kind="cancelled", code="cancelled", message="over")
    assert host.call("plain", 1) == 1


def test_a_nested_call_that_fails_or_is_refused_leaves_the_rest_alone(alone: Answering) -> None:
    host = alone.host
    first = host.start("ask", "a")
    number, _, _ = alone.callback()
    nested = alone.nested("unknown")
    assert host.reply()[1][1]["code"] == "unknown_host_tool"
    nobody = alone.nested("plain", 1, 2, 3)
    answered, (_, failure) = host.reply()
    assert (answered, failure["code"]) == (nobody, "bad_arguments")
    assert nobody != nested
    alone.answer(number, "A")
    assert host.reply() == (first, (KIND_LAST, "A"))


def test_a_nested_call_of_an_idle_worker_is_an_ordinary_one(answering: Answering) -> None:
    nested = answering.nested("plain", 3)
    assert answering.host.reply() == (nested, (KIND_LAST, 3))


def test_a_nested_stream_takes_credit_and_items(alone: Answering) -> None:
    host = alone.host
    host.start("ask", "a")
    number, _, _ = alone.callback()
    stream, data = host.open_frames("asked", 2)
    at = _frames.HEAD.size + 2
    host.send(data[:at] + bytes([data[at] | 2 | 4]) + data[at + 1 :])
    for item in (0, 1):
        assert alone.echo() == stream
        assert host.event() == (_frames.KIND_ITEM, stream, item)
    assert host.event() == (KIND_LAST, stream, None)
    alone.answer(number, "A")
    assert host.reply()[1] == (KIND_LAST, "A")


def test_generators_ask_between_their_items(answering: Answering) -> None:
    stream = answering.host.open_stream("asked", 3)
    for item in range(3):
        assert answering.echo() == stream
        assert answering.host.event() == (_frames.KIND_ITEM, stream, item)
    assert answering.host.event() == (KIND_LAST, stream, None)


def test_async_tools_ask(any_async: Answering) -> None:
    host = any_async.host
    call = host.start("ask_async", {"a": (1, 2)})
    assert any_async.echo() == call
    assert host.reply() == (call, (KIND_LAST, {"a": (1, 2)}))
    stream = host.open_stream("asked_async", 2)
    for item in range(2):
        any_async.echo()
        assert host.event() == (_frames.KIND_ITEM, stream, item)
    assert host.event() == (KIND_LAST, stream, None)
    assert "host_async.echo" in host.call("wrong_way_async")


def test_async_tools_ask_several_things_at_once(any_async: Answering) -> None:
    host = any_async.host
    call = host.start("gather", 5)
    callbacks = [any_async.callback() for _ in range(5)]
    for number, _, (args, _) in reversed(callbacks):
        any_async.answer(number, args[0] * 10)
    assert host.reply() == (call, (KIND_LAST, [0, 10, 20, 30, 40]))


def test_a_cancel_ends_the_wait_of_an_async_tool(any_async: Answering) -> None:
    host = any_async.host
    call = host.start("ask_async", 1)
    number, _, _ = any_async.callback()
    host.ring(call)
    assert host.frame()[:2] == (KIND_CALLBACK_CANCEL, number)
    answered, (kind, failure) = host.reply()
    assert (answered, kind, failure["code"]) == (call, KIND_ERROR, "cancelled")
    any_async.answer(number, 1)
    assert host.call("plain_async", 2) == 2


def test_async_calls_nest(any_async: Answering) -> None:
    host = any_async.host
    stack = [(host.start("ask_async", 0), any_async.callback()[0])]
    for level in (1, 2, 3):
        call = any_async.nested("ask_async", level)
        stack.append((call, any_async.callback()[0]))
    quick = any_async.nested("plain_async", "quick")
    assert host.reply() == (quick, (KIND_LAST, "quick"))
    for call, number in reversed(stack):
        any_async.answer(number, "done")
        assert host.reply() == (call, (KIND_LAST, "done"))


def test_plain_and_async_calls_nest_in_each_other(alone: Answering) -> None:
    host = alone.host
    stack = [(host.start("ask_async", 0), alone.callback()[0])]
    for tool in ("ask", "ask_async", "ask", "ask_async"):
        call = alone.nested(tool, tool)
        stack.append((call, alone.callback()[0]))
    for call, number in reversed(stack):
        alone.answer(number, "done")
        assert host.reply() == (call, (KIND_LAST, "done"))


def test_only_the_code_of_a_running_call_can_ask(answering: Answering) -> None:
    host = answering.host
    assert "running call" in host.call("from_a_thread")
    assert "snakehouse.host.echo" in host.call("wrong_way")


def test_what_a_call_leaves_running_has_no_host(alone: Answering) -> None:
    host = alone.host
    assert host.call("leave_behind") == "left"
    assert "running call" in host.call("left_behind")


def test_goaway_lets_a_waiting_call_finish(answering: Answering) -> None:
    host = answering.host
    host.start("ask", 1)
    number, _, _ = answering.callback()
    host.send(_frames.frame(_frames.KIND_GOAWAY, 0, b""))
    answering.answer(number, 2)
    assert host.reply()[1] == (KIND_LAST, 2)
    assert host.eof()
    assert host.outcome()[0] == 0


def test_the_end_of_the_host_ends_a_waiting_call(answering: Answering) -> None:
    answering.host.start("ask", 1)
    answering.callback()
    status, _, err = answering.host.end()
    assert (status, err) == (0, "")


@pytest.mark.parametrize(
    "data",
    [
        _frames.frame(KIND_CALLBACK_LAST, 7, b"\xc0"),
        _frames.frame(KIND_CALLBACK_ERROR, 7, b"\x80"),
        _frames.frame(KIND_CALLBACK_DATA, 7, b"\xc0"),
        _frames.frame(KIND_CALLBACK_OPEN, 7, bytes(48)),
        _frames.frame(KIND_CALLBACK_CANCEL, 7, b""),
        _frames.frame(KIND_SETTINGS, 0, b"\xc1"),
        _frames.frame(KIND_SETTINGS, 0, b"\x90"),
        _frames.frame(KIND_SETTINGS, 1, b"\x80"),
        _frames.frame(KIND_SETTINGS, 0, _msgpack.encode({"host_tools": [1]})),
    ],
)
def test_frames_out_of_place_end_the_worker(start_host: Starter, data: bytes) -> None:
    host = start_host(TOOLS).greet()
    host.send(data)
    kind, _, _ = host.frame()
    assert kind == _frames.KIND_GOAWAY
    assert host.outcome()[0] == 76


def test_a_context_variable_of_the_outer_call_is_not_the_nested_one_s(alone: Answering) -> None:
    host = alone.host
    call = host.start("ask", 1, micros=30_000_000)
    number, _, _ = alone.callback()
    nested = alone.nested("left")
    assert host.reply() == (nested, (KIND_LAST, None))
    alone.answer(number, 1)
    assert host.reply()[0] == call


def test_without_a_host_functions_stand_in() -> None:
    seen: list[object] = []

    def echo(value: object) -> object:
        """Gives it back."""
        seen.append(value)
        return value

    def fails() -> None:
        raise HostToolError("no", kind="not_found", code="none", hint="look")

    with pytest.raises(RuntimeError, match="running call"):
        snakehouse.host.echo(1)
    with pytest.raises(RuntimeError, match="running call"):
        snakehouse.host_tools()
    with host_tools({"echo": echo, "fails": fails}):
        assert host_tools_for_tests.ask((1, {2: b"x"})) == (1, {2: b"x"})
        assert [(tool.name, tool.doc) for tool in snakehouse.host_tools()] == [
            ("echo", "Gives it back."),
            ("fails", ""),
        ]
        with pytest.raises(HostToolError, match="no tool nothing") as caught:
            snakehouse.host.nothing()
        assert (caught.value.code, caught.value.hint) == (
            "unknown_host_tool",
            "there are: echo, fails",
        )
        with pytest.raises(HostToolError, match="no") as caught:
            snakehouse.host["fails"]()
        assert (caught.value.kind, caught.value.code) == ("not_found", "none")
        with pytest.raises(snakehouse.UnsupportedValue):
            snakehouse.host.echo(object())
    assert seen == [(1, {2: b"x"})]
    with pytest.raises(RuntimeError, match="running call"):
        snakehouse.host.echo(1)


def test_async_functions_stand_in_for_async_tools() -> None:
    async def echo(value: object) -> object:
        return value

    with host_tools({"echo": echo, "plain": lambda: 3}):
        assert asyncio.run(host_tools_for_tests.gather(3)) == [0, 1, 2]
        assert asyncio.run(_plain()) == 3
        with pytest.raises(RuntimeError, match="host_async"):
            snakehouse.host.echo(1)


async def _plain() -> Any:
    return await snakehouse.host_async["plain"]()
