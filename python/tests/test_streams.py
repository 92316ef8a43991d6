"""Streams of a real worker: items both ways, credit, how they end. Sync and async tools alike."""

from __future__ import annotations

import asyncio
import os
import queue
import struct
import threading
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from test_cancel import wait_until

from conftest import TOOLS, Host
from snakehouse import _frames, _msgpack
from snakehouse._async import Runner, Turn
from snakehouse._errors import Cancelled

ITEM, LAST, ERROR, CREDIT = (
    _frames.KIND_ITEM,
    _frames.KIND_LAST,
    _frames.KIND_ERROR,
    _frames.KIND_CREDIT,
)
both = pytest.mark.parametrize("flavour", ["", "_async"])


def lines(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def ready(host: Host) -> None:
    assert host.process.stdout
    assert host.process.stdout.readline() == b"ready\n"


def test_the_hello_says_what_a_tool_is(host: Host) -> None:
    kinds = {tool["name"]: tool["kind"] for tool in host.hello["tools"]}
    assert (kinds["echo"], kinds["count_to"]) == ("function", "generator")
    assert (kinds["add_async"], kinds["count_to_async"]) == ("async_function", "async_generator")
    assert host.hello["capacity"] == 1
    assert "streams" in host.hello["capabilities"]


@both
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 5_000])
def test_every_item_arrives_in_order(host: Host, flavour: str, count: int) -> None:
    stream = host.open_stream("count_to" + flavour, count)
    result = None if flavour else "counted"
    assert host.items(stream) == (list(range(count)), LAST, result)
    assert host.call("echo", 1) == 1


def test_items_of_any_size_travel(host: Host) -> None:
    values = [b"", bytes(100_000), bytes((1 << 20) + 5), "x" * (3 << 20), [1, (2, None)]]
    stream = host.open_stream("gives", values)
    assert host.items(stream) == (values, LAST, None)


@both
def test_without_credit_nothing_is_sent(host: Host, flavour: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    stream = host.open_stream("count_to" + flavour, 200, str(log))
    for number in range(64):
        assert host.event() == (ITEM, stream, number)
    assert lines(log) == []
    # One more after the balance reached zero, and only one.
    host.credit(stream, 1)
    assert host.event() == (ITEM, stream, 64)
    host.send(_frames.frame(_frames.KIND_PING, 0, b"12345678"))
    assert host.frame() == (_frames.KIND_PONG, 0, b"12345678")
    host.credit(stream, 1000)
    assert host.items(stream, grant=False)[0] == list(range(65, 200))
    assert lines(log) == ["done", "finally"]


def test_a_large_item_costs_more(host: Host) -> None:
    stream = host.open_stream("gives", [bytes(16384 * 70), 1, 2])
    assert host.event()[0] == ITEM
    host.send(_frames.frame(_frames.KIND_PING, 0, b"12345678"))
    assert host.frame()[0] == _frames.KIND_PONG
    host.credit(stream, 7)
    host.send(_frames.frame(_frames.KIND_PING, 0, b"12345678"))
    assert host.frame()[0] == _frames.KIND_PONG
    host.credit(stream, 1)
    assert host.event() == (ITEM, stream, 1)


@both
def test_what_a_generator_raises_ends_the_stream(host: Host, flavour: str) -> None:
    stream = host.open_stream("breaks" + flavour, 3)
    items, kind, failure = host.items(stream)
    assert (items, kind, failure["type"]) == ([0, 1, 2], ERROR, "KeyError")
    (frame,) = failure["traceback"]
    assert frame[2:] == ["breaks" + flavour, 'raise KeyError("broken")']


@both
def test_a_bad_item_is_an_error_and_closes_the_generator(
    host: Host, flavour: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    stream = host.open_stream("bad_item" + flavour, str(log))
    items, kind, failure = host.items(stream)
    assert (items, kind, failure["code"]) == ([1], ERROR, "unsupported_value")
    assert failure["message"] == (
        f"an item of bad_item{flavour}: a value of type object cannot travel at $['x']"
    )
    assert lines(log) == ["finally"]
    assert host.call("echo", 1) == 1


@both
def test_a_generator_is_no_plain_call(host: Host, flavour: str) -> None:
    failure = host.fail("count_to" + flavour, 3)
    assert (failure["kind"], failure["code"]) == ("invalid_input", "is_stream")
    assert failure["hint"] == "open it as a stream"


def test_wrong_arguments_are_the_callers_mistake(host: Host) -> None:
    for tool in ("count_to", "count_to_async", "total", "total_async"):
        stream = host.open_stream(tool, 1, 2, 3)
        items, kind, failure = host.items(stream)
        assert (items, kind, failure["code"]) == ([], ERROR, "bad_arguments"), tool
        assert failure["hint"].startswith(f"the tool is {tool}(")
    assert host.fail("add_async", 1, 2, 3)["code"] == "bad_arguments"


@both
def test_items_from_the_host_reach_the_tool(host: Host, flavour: str) -> None:
    stream = host.open_stream("total" + flavour)
    for number in range(10):
        host.send(host.item_frames(stream, number))
    host.end_items(stream)
    assert host.items(stream) == ([], LAST, 45)


@both
def test_both_directions_at_once(host: Host, flavour: str) -> None:
    stream = host.open_stream("doubled" + flavour)
    values = [n if n % 50 else "x" * 200_000 for n in range(300)]
    orders: queue.SimpleQueue[int | bytes] = queue.SimpleQueue()
    # As in a real host, what writes never waits for what reads.
    writer = threading.Thread(target=write_items, args=(host, stream, values, orders))
    writer.start()
    for value in values:
        while (event := host.event())[0] == CREDIT:
            orders.put(event[2])
        assert event == (ITEM, stream, value * 2)
        grant = _frames.CREDIT.pack(_frames.cost(len(_msgpack.encode(value * 2))))
        orders.put(_frames.frame(CREDIT, stream, grant))
    result = None if flavour else "all"
    assert host.items(stream, grant=False) == ([], LAST, result)
    orders.put(b"")
    writer.join()


def write_items(
    host: Host, stream: int, values: list[Any], orders: queue.SimpleQueue[int | bytes]
) -> None:
    """Send the values as credit allows, an end, and what is to be sent between."""
    balance = 64
    waiting = [*values]
    while True:
        while waiting and balance > 0:
            data = host.item_frames(stream, waiting.pop(0))
            balance -= _frames.cost(len(data) - _frames.HEAD.size)
            host.send(data)
            if not waiting:
                host.end_items(stream)
        order = orders.get(timeout=30)
        if isinstance(order, int):
            balance += order
        elif order:
            host.send(order)
        else:
            return


def test_items_may_arrive_before_the_call_starts(host: Host, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    host.start("until_released", str(gate))
    stream = host.open_stream("total")
    host.send(b"".join(host.item_frames(stream, n) for n in range(64)))
    host.end_items(stream)
    gate.write_text("")
    assert host.reply()[1][0] == LAST
    assert host.items(stream) == ([], LAST, sum(range(64)))


def test_a_plain_call_has_no_items(host: Host) -> None:
    assert host.call("total") == 0
    assert host.call("total_async") == 0


def test_items_that_nobody_took_are_dropped(host: Host) -> None:
    stream = host.open_stream("takes", 2)
    host.send(b"".join(host.item_frames(stream, n) for n in range(64)))
    assert host.items(stream) == ([], LAST, [0, 1])
    # Late ones, before the host has seen the end.
    host.send(host.item_frames(stream, bytes(2 << 20)))
    host.end_items(stream)
    host.credit(stream, 5)
    assert host.call("echo", 1) == 1


@both
def test_over_sending_breaks_the_protocol(
    start_host: Callable[..., Host], tmp_path: Path, flavour: str
) -> None:
    host = start_host(TOOLS).greet()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    host.start("until_released", str(gate))
    stream = host.open_stream("total" + flavour)
    host.send(b"".join(host.item_frames(stream, n) for n in range(65)))
    gate.write_text("")
    while host.frame()[0] != _frames.KIND_GOAWAY:
        pass
    assert host.eof()
    assert host.outcome()[0] == 76


@pytest.mark.parametrize("kind", [_frames.KIND_ITEM, _frames.KIND_END, _frames.KIND_DATA])
@both
def test_a_broken_frame_within_a_stream_is_a_clean_end(
    start_host: Callable[..., Host], kind: int, flavour: str
) -> None:
    host = start_host(TOOLS).greet()
    stream = host.open_stream("count_to" + flavour, 1000)
    host.send(_frames.frame(kind, stream + 7, b""))
    while host.frame()[0] != _frames.KIND_GOAWAY:
        pass
    assert host.eof()
    assert host.outcome()[0] == 76


@both
def test_calls_behind_a_stream_wait_for_it(host: Host, flavour: str) -> None:
    stream = host.open_stream("total" + flavour)
    late, data = host.open_frames("echo", "late")
    last, more = host.open_frames("echo", b"x" * (2 << 20))
    host.send(host.item_frames(stream, 1) + data + more)
    # The pong shows that the worker has read that far.
    host.send(_frames.frame(_frames.KIND_PING, 0, b"12345678"))
    assert host.frame() == (_frames.KIND_PONG, 0, b"12345678")
    host.end_items(stream)
    assert host.items(stream) == ([], LAST, 1)
    assert host.reply() == (late, (LAST, "late"))
    assert host.reply() == (last, (LAST, b"x" * (2 << 20)))


@pytest.mark.parametrize("how", ["sleep", "loop", "read"])
def test_a_running_generator_is_cancelled(host: Host, how: str) -> None:
    stream = host.open_stream("waits_in_a_stream", how)
    assert host.event() == (ITEM, stream, 0)
    ready(host)
    host.ring(stream)
    items, kind, failure = host.items(stream)
    assert (items, kind, failure["code"]) == ([], ERROR, "cancelled")
    assert host.call("echo", "next") == "next"


@both
@pytest.mark.parametrize("by_frame", [False, True])
def test_a_generator_that_waits_for_credit_is_closed(
    host: Host, flavour: str, by_frame: bool, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    stream = host.open_stream("count_to" + flavour, 1000, str(log))
    for _ in range(64):
        assert host.event()[0] == ITEM
    if by_frame:
        host.send(_frames.frame(_frames.KIND_CANCEL, stream, b""))
    else:
        host.ring(stream, frame=False)
    items, kind, failure = host.items(stream)
    assert (items, kind, failure["code"]) == ([], ERROR, "cancelled")
    ended, last = lines(log)
    # It may still be on its way to the item that has no credit; then it is cancelled there.
    assert ended in ("closed", "Cancelled", "CancelledError")
    assert last == "finally"
    assert host.call("echo", "next") == "next"


@both
def test_who_waits_for_items_is_cancelled(host: Host, flavour: str) -> None:
    stream = host.open_stream("total" + flavour)
    host.send(host.item_frames(stream, 1))
    wait_until(lambda: host.started == stream)
    host.ring(stream)
    items, kind, failure = host.items(stream)
    assert (items, kind, failure["code"]) == ([], ERROR, "cancelled")
    assert host.call("echo", "next") == "next"


def test_a_generator_that_swallows_a_cancel_is_closed(host: Host) -> None:
    stream = host.open_stream("stubborn")
    ready(host)
    assert host.event() == (ITEM, stream, 0)
    host.ring(stream)
    items, kind, failure = host.items(stream)
    assert (items, kind, failure["code"]) == ([], ERROR, "cancelled")


@pytest.mark.parametrize("tool", ["count_to", "count_to_async", "total", "total_async"])
def test_a_stream_given_up_before_it_starts_never_runs(
    host: Host, tmp_path: Path, tool: str
) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    os.mkfifo(gate)
    host.start("until_released", str(gate))
    args = (3, str(log)) if tool.startswith("count") else ()
    stream = host.open_stream(tool, *args)
    host.ring(stream)
    gate.write_text("")
    assert host.reply()[1][0] == LAST
    items, kind, failure = host.items(stream)
    assert (items, kind, failure["code"]) == ([], ERROR, "cancelled")
    assert lines(log) == []


@pytest.mark.parametrize("tool", ["count_to", "count_to_async", "total", "total_async"])
def test_a_host_that_dies_ends_the_worker_and_closes_the_generator(
    host: Host, tmp_path: Path, tool: str
) -> None:
    log = tmp_path / "log"
    args = (1000, str(log)) if tool.startswith("count") else ()
    stream = host.open_stream(tool, *args)
    if args:
        for _ in range(64):
            assert host.event()[0] == ITEM
    else:
        wait_until(lambda: host.started == stream)
    assert host.end() == (0, "", "")
    if args:
        assert lines(log) == ["closed", "finally"]


def test_goaway_within_a_stream_lets_it_end(host: Host) -> None:
    stream = host.open_stream("count_to", 200)
    host.credit(stream, 1000)
    host.send(_frames.frame(_frames.KIND_GOAWAY, 0, b"recycle"))
    assert host.items(stream, grant=False) == (list(range(200)), LAST, "counted")
    assert host.eof()
    assert host.outcome()[0] == 0


def test_the_context_of_a_stream_is_its_own(host: Host) -> None:
    stream = host.open_stream("context_of_a_stream", micros=60_000_000, session=7)
    items, kind, _ = host.items(stream)
    assert (len(items), kind) == (2, LAST)
    for remaining, session in items:
        assert 0 < remaining <= 60
        assert session == "#7"
    assert host.call("context") == (None, None)


def test_a_late_stream_does_not_run(host: Host) -> None:
    stream = host.open_stream("count_to", 3, micros=0)
    items, kind, failure = host.items(stream)
    assert (items, kind, failure["code"]) == ([], ERROR, "deadline")


def test_a_child_forked_in_a_stream_never_speaks(host: Host) -> None:
    stream = host.open_stream("fork_in_a_stream")
    assert host.items(stream) == ([70], LAST, None)
    assert host.call("fork_async") == 70
    assert host.call("echo", 1) == 1


class TestAsyncCalls:
    def test_results_and_failures(self, host: Host) -> None:
        assert host.call("add_async", 2) == 3
        assert host.call("add_async", 2, b=5) == 7
        remaining, session = host.call("context_async", micros=60_000_000, session=7)
        assert 0 < remaining <= 60
        assert session == "#7"
        failure = host.fail("fail_async", "chain")
        assert failure["type"] == "KeyError"
        assert [frame[2] for frame in failure["traceback"]] == ["fail_async", "fail"]
        failure = host.fail("fail_async", "cancelled")
        assert failure["type"].endswith("CancelledError")
        assert failure["kind"] == "tool"

    def test_exit_ends_the_worker(self, host: Host) -> None:
        host.start("fail_async", "exit")
        assert host.eof()
        assert host.outcome()[0] == 3

    @pytest.mark.parametrize("how", ["page", "frame"])
    def test_a_cancel_reaches_the_coroutine(self, host: Host, how: str) -> None:
        stream = host.start("wait_async")
        ready(host)
        if how == "page":
            host.ring(stream, frame=False)
        else:
            host.send(_frames.frame(_frames.KIND_CANCEL, stream, b""))
        answered, (kind, failure) = host.reply()
        assert (answered, kind, failure["code"]) == (stream, ERROR, "cancelled")
        assert host.call("add_async", 2) == 3

    def test_a_cancel_may_be_swallowed(self, host: Host) -> None:
        stream = host.start("swallow_async")
        ready(host)
        host.ring(stream)
        assert host.reply() == (stream, (LAST, "swallowed"))

    def test_a_running_async_generator_is_cancelled(self, host: Host) -> None:
        stream = host.open_stream("waits_in_a_stream_async")
        assert host.event() == (ITEM, stream, 0)
        host.ring(stream)
        items, kind, failure = host.items(stream)
        assert (items, kind, failure["code"]) == ([], ERROR, "cancelled")


def test_the_flags_of_an_open_are_checked(start_host: Callable[..., Host]) -> None:
    host = start_host(TOOLS).greet()
    _, data = host.open_frames("echo", 1)
    host.send(data[:11] + struct.pack("<H", 8) + data[13:])
    assert host.frame()[0] == _frames.KIND_GOAWAY


def test_late_items_of_streams_long_over_are_dropped(host: Host) -> None:
    streams = [host.open_stream("gives", []) for _ in range(300)]
    for stream in streams:
        assert host.items(stream) == ([], LAST, None)
    late = [host.item_frames(stream, 1) for stream in streams]
    late += [_frames.frame(_frames.KIND_END, stream, b"") for stream in streams]
    host.send(b"".join(late))
    assert host.call("echo", 1) == 1


def test_an_item_of_a_stream_that_was_never_opened_breaks_the_protocol(host: Host) -> None:
    stream = host.open_stream("gives", [])
    assert host.items(stream) == ([], LAST, None)
    host.send(host.item_frames(stream + 1, 1))
    assert host.frame()[0] == _frames.KIND_GOAWAY
    assert host.outcome()[0] == 76


def test_a_task_takes_items_while_the_generator_waits_for_credit(host: Host) -> None:
    stream = host.open_stream("both_ways_by_a_task", 70)
    for number in range(64):
        assert host.event() == (ITEM, stream, number)
    host.send(host.item_frames(stream, "one"))
    host.end_items(stream)
    host.credit(stream, 100)
    items, kind, result = host.items(stream, grant=False)
    assert (items, kind, result) == ([*range(64, 70), ["one"]], LAST, None)


@pytest.mark.parametrize("tool", ["interrupt_the_loop", "stop_the_loop"])
def test_an_event_loop_that_was_left_early_serves_the_next_calls(host: Host, tool: str) -> None:
    host.start(tool)
    kind, value = host.reply()[1]
    if tool == "stop_the_loop":
        assert (kind, value) == (LAST, "stopped")
    else:
        assert (kind, value["type"]) == (ERROR, "KeyboardInterrupt")
    for number in range(3):
        assert host.call("later", number) == number


def test_a_cancel_that_comes_late_does_not_hit_the_next_turn() -> None:
    async def wait(turn: Turn | None) -> str:
        if turn is not None:
            turn.cancel()
        await asyncio.sleep(0.001)
        return "done"

    runner = Runner()
    first = runner.begin(copy_context())
    assert runner.complete(first, wait(None), copy_context()) == "done"
    second = runner.begin(copy_context())
    assert runner.complete(second, wait(first), copy_context()) == "done"
    third = runner.begin(copy_context())
    with pytest.raises(Cancelled):
        runner.complete(third, wait(third), copy_context())
    runner.loop.close()
