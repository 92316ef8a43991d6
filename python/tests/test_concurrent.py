"""Workers that run several calls at once: threads, and tasks of one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from test_cancel import overtaken, wait_until

from conftest import BOUND, TOOLS, Host
from snakehouse import _frames
from snakehouse._inbox import Inbox
from snakehouse._outgoing import Outgoing
from snakehouse._running import Running

ITEM, LAST, ERROR = _frames.KIND_ITEM, _frames.KIND_LAST, _frames.KIND_ERROR
ASYNC_TOOLS = Path(__file__).parent / "concurrent_tools.py"
Start = Callable[..., Host]


def start_mode(start_host: Start, mode: str, capacity: int = 8) -> Host:
    tools = TOOLS if mode == "threads" else ASYNC_TOOLS
    env = {"SNAKEHOUSE_CAPACITY": str(capacity), "SNAKEHOUSE_MODE": mode}
    return start_host(tools, env=env).greet()


@pytest.fixture(params=["threads", "asyncio"])
def host(request: pytest.FixtureRequest, start_host: Start) -> Host:
    return start_mode(start_host, request.param)


@pytest.fixture
def threads(start_host: Start) -> Host:
    return start_mode(start_host, "threads")


def test_the_hello_says_how_many(host: Host) -> None:
    assert host.hello["capacity"] == 8


def test_as_many_calls_as_the_capacity_run_at_once(host: Host) -> None:
    frames = [host.open_frames("meet", 8) for _ in range(8)]
    host.send(b"".join(data for _, data in frames))
    # None of them ends before all of them run.
    answers = dict(host.reply() for _ in frames)
    assert set(answers) == {stream for stream, _ in frames}
    assert sorted(answers.values()) == [(LAST, place) for place in range(8)]


def test_more_calls_wait_their_turn(host: Host) -> None:
    frames = [host.open_frames("nap", 0.02) for _ in range(40)]
    host.send(b"".join(data for _, data in frames))
    answers = dict(host.reply() for _ in frames)
    assert set(answers) == {stream for stream, _ in frames}
    assert all(kind == LAST and most <= 8 for kind, most in answers.values())
    assert host.started == frames[-1][0]


def test_a_quick_call_overtakes_a_slow_one(host: Host) -> None:
    slow = start_waiting(host)
    assert host.call("echo", "quick") == "quick"
    assert host.started == slow + 1


def start_waiting(host: Host) -> int:
    """A call that ends when it is cancelled; in a thread, not before it wakes up."""
    return host.start("wait", "sleep") if is_threads(host) else host.start("wait")


def flood(host: Host, data: bytes) -> None:
    """Send what a worker need not read to its end: it may hang up before."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        host.send(data)


def is_threads(host: Host) -> bool:
    return any(tool["kind"] == "function" for tool in host.hello["tools"])


def test_every_call_is_answered_with_its_own_value(host: Host) -> None:
    expected: dict[int, object] = {}
    frames: list[bytes] = []
    chance = random.Random(3)
    for number in range(500):
        value = (number, chance.randbytes(chance.choice([1, 1, 1, 100_000])))
        stream, data = host.open_frames("echo", value)
        expected[stream] = value
        frames.append(data)
    for at in range(0, 500, 10):
        host.send(b"".join(frames[at : at + 10]))
        for _ in range(10):
            # No answer here needs more than one frame.
            stream, (kind, value) = host.reply()
            assert (kind, value) == (LAST, expected.pop(stream))
    assert not expected


def test_deadline_and_session_are_each_calls_own(host: Host) -> None:
    frames: list[tuple[int, bytes, int]] = []
    for session in range(1, 60):
        args = () if is_threads(host) else (session % 7,)
        stream, data = host.open_frames("context", *args, micros=60_000_000, session=session)
        frames.append((stream, data, session))
    sessions = {stream: session for stream, _, session in frames}
    host.send(b"".join(data for _, data, _ in frames))
    for _ in frames:
        stream, (kind, value) = host.reply()
        assert kind == LAST
        assert 0 < value[0] <= 60
        assert value[1] == f"#{sessions[stream]}"


def test_streams_run_beside_each_other(host: Host) -> None:
    tool = "doubled"
    streams = [host.open_stream(tool) for _ in range(8)]
    for number in range(100):
        for stream in streams:
            host.send(host.item_frames(stream, number))
        for _ in streams:
            while (event := host.event())[0] == _frames.KIND_CREDIT:
                pass
            assert (event[0], event[2]) == (ITEM, 2 * number)
            host.credit(event[1], 1)
    for stream in streams:
        host.end_items(stream)
        assert host.items(stream)[:2] == ([], LAST)
    assert host.call("echo", 1) == 1


def test_a_stream_waits_for_credit_and_holds_up_nobody(host: Host) -> None:
    stream = host.open_stream("count_to", 200)
    for number in range(64):
        assert host.event() == (ITEM, stream, number)
    assert host.call("echo", 1) == 1
    host.credit(stream, 1000)
    assert host.items(stream, grant=False)[0] == list(range(64, 200))


def test_over_sending_breaks_the_protocol(host: Host) -> None:
    stream = host.open_stream("count_to", 1000)
    host.send(b"".join(host.item_frames(stream, n) for n in range(65)))
    while host.frame()[0] != _frames.KIND_GOAWAY:
        pass
    assert host.eof()
    assert host.outcome()[0] == 76


@pytest.mark.parametrize("by_frame", [False, True])
def test_who_waits_in_a_stream_is_cancelled(host: Host, by_frame: bool) -> None:
    for tool, args in (("doubled", ()), ("count_to", (1000,))):
        stream = host.open_stream(tool, *args)
        for _ in range(64 if args else 0):
            assert host.event()[0] == ITEM
        wait_until(lambda stream=stream: host.started == stream)
        if by_frame:
            host.send(_frames.frame(_frames.KIND_CANCEL, stream, b""))
        else:
            host.ring(stream, frame=False)
        items, kind, failure = host.items(stream)
        assert (items, kind, failure["code"]) == ([], ERROR, "cancelled")
    assert host.call("echo", 1) == 1


def test_goaway_ends_it_after_what_it_has(host: Host) -> None:
    frames = [host.open_frames("nap", 0.01) for _ in range(20)]
    goaway = _frames.frame(_frames.KIND_GOAWAY, 0, b"recycle")
    host.send(b"".join(data for _, data in frames) + goaway)
    answers = {host.reply()[0] for _ in frames}
    assert answers == {stream for stream, _ in frames}
    assert host.eof()
    assert host.outcome()[0] == 0


def test_a_tool_that_has_tasks_run_at_once_confuses_nobody(start_host: Start) -> None:
    """A call that was over before it was entered would have been there for ever."""
    host = start_mode(start_host, "asyncio")
    host.call("hurry")
    for number in range(20):
        assert host.call("echo", number) == number
    host.send(_frames.frame(_frames.KIND_GOAWAY, 0, b"recycle"))
    assert host.eof()
    assert host.outcome()[0] == 0


def test_end_of_file_ends_it(host: Host) -> None:
    host.call("echo", 1)
    assert host.end() == (0, "", "")


def test_end_of_file_ends_it_while_calls_run(host: Host) -> None:
    stream = start_waiting(host)
    wait_until(lambda: host.started == stream)
    assert host.end()[0] == 0


def test_exit_ends_the_worker(host: Host) -> None:
    stream = start_waiting(host)
    wait_until(lambda: host.started == stream)
    host.start("leave", 3)
    assert host.eof()
    assert host.outcome()[0] == 3


def test_a_forked_child_never_speaks_for_the_worker(host: Host) -> None:
    assert host.call("fork_and_return") == 70
    assert host.call("echo", 1) == 1


def test_an_exception_that_breaks_when_looked_at_is_an_answer(host: Host) -> None:
    # As often as there are seats: none is lost.
    for _ in range(8):
        assert host.fail("raise_what_breaks")["code"] == "tool_error"


def test_a_late_call_does_not_run(host: Host) -> None:
    assert host.fail("echo", 1, micros=0)["code"] == "deadline"
    assert host.fail(999)["code"] == "unknown_tool"


def test_a_waiting_call_is_cancelled_and_never_runs(start_host: Start) -> None:
    host = start_mode(start_host, "threads", 2)
    running = [host.start("wait", "loop") for _ in range(2)]
    waiting = host.start("count")
    wait_until(lambda: host.started == running[1])
    host.ring(waiting)
    for stream in running:
        host.ring(stream)
    answers = dict(host.reply() for _ in range(3))
    assert set(answers) == {*running, waiting}
    for kind, failure in answers.values():
        assert (kind, failure["code"]) == (ERROR, "cancelled")
    assert host.call("calls") == 0


@pytest.mark.parametrize("by_frame", [False, True])
def test_a_running_loop_is_cancelled_and_no_other(threads: Host, by_frame: bool) -> None:
    streams = [threads.start("wait", "loop") for _ in range(3)]
    wait_until(lambda: threads.started == streams[-1])
    for stream in (streams[1], streams[0], streams[2]):
        if by_frame:
            threads.send(_frames.frame(_frames.KIND_CANCEL, stream, b""))
        else:
            threads.ring(stream, frame=False)
        answered, (kind, failure) = threads.reply()
        assert (answered, kind, failure["code"]) == (stream, ERROR, "cancelled")
    assert threads.call("echo", "next") == "next"


def test_a_coroutine_is_cancelled_and_no_other(host: Host) -> None:
    tool = "wait_async" if is_threads(host) else "wait"
    streams = [host.start(tool) for _ in range(3)]
    wait_until(lambda: host.started == streams[-1])
    for stream in (streams[1], streams[0], streams[2]):
        host.ring(stream)
        answered, (kind, failure) = host.reply()
        assert (answered, kind, failure["code"]) == (stream, ERROR, "cancelled")
    assert host.call("echo", "next") == "next"


def test_a_late_cancel_hits_nothing(host: Host) -> None:
    for _ in range(200):
        stream = host.start("echo", 1)
        assert host.reply()[0] == stream
        host.ring(stream)
        assert host.call("spin", 100) is not None


def test_what_a_tool_sets_in_its_context_ends_with_its_call(threads: Host) -> None:
    for n in range(1, 40):
        assert threads.call("mark", n, session=n) == ("imported", f"#{n}")


def test_hammered_with_cancels_every_call_has_exactly_one_answer(host: Host) -> None:
    """Calls in batches, cancels at random moments, some twice, some for calls that are over."""
    chance = random.Random(42)
    total, cancelled, stray, answered = 4_000, 0, 0, 0
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
        open_streams = {stream for stream, _ in batch}
        while open_streams:
            got, (kind, value) = host.reply()
            open_streams.remove(got)
            answered += 1
            if kind == ERROR:
                assert value["code"] == "cancelled", value
                cancelled += 1
                stray += got not in wanted
    assert stray == 0
    assert total / 100 < cancelled < total / 2
    assert host.call("echo", "whole") == "whole"
    assert host.end() == (0, "", "")


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"SNAKEHOUSE_CAPACITY": "0"}, "SNAKEHOUSE_CAPACITY"),
        ({"SNAKEHOUSE_CAPACITY": "many"}, "many"),
        ({"SNAKEHOUSE_MODE": "fibers"}, "SNAKEHOUSE_MODE"),
    ],
)
def test_what_there_is_not_is_refused(start_host: Start, env: dict[str, str], said: str) -> None:
    host = start_host(TOOLS, env=env)
    assert host.eof()
    code, _, err = host.outcome()
    assert code == 78
    assert said in err


def test_plain_functions_are_refused_beside_an_event_loop(start_host: Start) -> None:
    env = {"SNAKEHOUSE_CAPACITY": "2", "SNAKEHOUSE_MODE": "asyncio"}
    failure = start_host(TOOLS, env=env).greet().hello["failure"]
    assert (failure["kind"], failure["code"]) == ("environment", "not_async")
    assert failure["message"].startswith("echo is not async")
    alone = {"SNAKEHOUSE_CAPACITY": "1", "SNAKEHOUSE_MODE": "asyncio"}
    assert start_host(TOOLS, env=alone).greet().call("echo", 1) == 1


def test_threads_without_ctypes_are_refused(start_host: Start, tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text(
        "import sys\nsys.modules['ctypes'] = None\nimport snakehouse\n"
        "@snakehouse.tool\ndef one():\n    return 1\n"
    )
    env = {"SNAKEHOUSE_CAPACITY": "2", "SNAKEHOUSE_MODE": "threads"}
    host = start_host(tmp_path / "tool.py", env=env).greet()
    assert host.hello["failure"]["code"] == "no_ctypes"
    assert host.eof()
    assert host.outcome()[0] == 69
    assert start_host(tmp_path / "tool.py").greet().call("one") == 1


def test_a_call_that_was_overtaken_is_cancelled_before_it_starts(host: Host) -> None:
    overtaken(host)


def test_what_was_read_and_not_yet_handed_out_counts_as_a_call() -> None:
    running = Running()
    inbox = Inbox(running.cancel, lambda _data: None)
    running.listen(inbox)
    assert running.is_idle()
    head = memoryview(struct.pack("<HHQQ", 0, 0, _frames.NEVER, 0) + bytes(28))
    inbox.take(_frames.KIND_OPEN, 1, head, 0.0)
    inbox.take(_frames.KIND_GOAWAY, 0, memoryview(b""), 0.0)
    assert inbox.is_over
    assert not running.is_idle()


def test_a_tool_that_cancels_all_tasks_leaves_no_call_unanswered(start_host: Start) -> None:
    host = start_mode(start_host, "asyncio", 4)
    for _ in range(5):
        first, one = host.open_frames("cancel_all_others")
        frames = [host.open_frames("echo", 1) for _ in range(3)]
        host.send(one + b"".join(data for _, data in frames))
        answers = dict(host.reply() for _ in range(4))
        assert answers.pop(first) == (LAST, 3)
        assert set(answers) == {stream for stream, _ in frames}
        for kind, failure in answers.values():
            assert (kind, failure["code"]) == (ERROR, "cancelled")
    assert host.call("echo", 1) == 1


def test_a_tool_that_stops_the_event_loop_does_not_end_the_worker(start_host: Start) -> None:
    host = start_mode(start_host, "asyncio")
    assert host.call("stop_the_loop") == "stopped"
    assert host.call("echo", 1) == 1


@pytest.mark.parametrize("how", ["loop", "sleep", "task"])
def test_a_coroutine_that_never_awaits_is_interrupted_and_no_other(
    start_host: Start, how: str, tmp_path: Path
) -> None:
    host = start_mode(start_host, "asyncio", 4)
    other = host.start("nap", 0.05)
    mark = tmp_path / "mark"
    stream = host.start("never_await", how, str(mark))
    wait_until(mark.exists)
    host.ring(stream)
    answers = dict(host.reply() for _ in range(2))
    assert answers[other][0] == LAST
    kind, failure = answers[stream]
    assert (kind, failure["code"]) == (ERROR, "cancelled")
    assert host.call("echo", 1) == 1
    assert host.end() == (0, f"interrupted {how}\n", "")


def test_a_slow_reader_does_not_hold_up_what_runs(start_host: Start, tmp_path: Path) -> None:
    host = start_mode(start_host, "asyncio", 4)
    beats = tmp_path / "beats"
    beating = host.start("beat", str(beats))
    wait_until(beats.exists)
    large = host.start("echo", "x" * (8 << 20))
    # The answer is on its way, and more of it than any socket keeps.
    select.select([host.socket], [], [])
    size = beats.stat().st_size
    wait_until(lambda: beats.stat().st_size > size + 20)
    assert host.reply() == (large, (LAST, "x" * (8 << 20)))
    host.ring(beating)
    assert host.reply()[0] == beating
    assert host.call("echo", 1) == 1


def test_an_answer_that_nobody_read_yet_leaves_before_a_goaway_ends_it(start_host: Start) -> None:
    host = start_mode(start_host, "asyncio", 2)
    stream = host.start("echo", "x" * (8 << 20))
    host.send(_frames.frame(_frames.KIND_GOAWAY, 0, b""))
    select.select([host.socket], [], [])
    assert host.reply() == (stream, (LAST, "x" * (8 << 20)))
    assert host.eof()
    assert host.outcome()[0] == 0


def test_what_is_not_read_leaves_no_room(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    loop = asyncio.new_event_loop()
    told: list[OSError | None] = []
    out = Outgoing(loop, ours, told.append)
    content = os.urandom(4 << 20)
    out.send(b"head", memoryview(content))
    assert not out.has_room
    room = loop.create_task(out.room())
    loop.run_until_complete(asyncio.sleep(0))
    assert not room.done()
    got = b""
    while len(got) < len(content) + 4:
        with contextlib.suppress(BlockingIOError):
            got += theirs.recv(1 << 20, socket.MSG_DONTWAIT)
        loop.run_until_complete(asyncio.sleep(0))
    assert got == b"head" + content
    loop.run_until_complete(room)
    assert out.has_room
    assert told
    assert set(told) == {None}
    out.send(memoryview(content))
    theirs.close()
    while told[-1] is None:
        loop.run_until_complete(asyncio.sleep(0))
    assert isinstance(told[-1], OSError)
    loop.close()
    ours.close()


def test_a_host_that_asks_and_does_not_read_is_left(start_host: Start) -> None:
    host = start_mode(start_host, "asyncio", 2)
    host.start("echo", "x" * (8 << 20))
    select.select([host.socket], [], [])
    flood(host, _frames.frame(_frames.KIND_PING, 0, b"12345678") * 5000)
    assert host.process.wait(BOUND) == 76


def test_garbage_ends_it_while_an_answer_is_not_read(host: Host) -> None:
    host.start("echo", "x" * (8 << 20))
    select.select([host.socket], [], [])
    host.send(_frames.frame(99, 0, b""))
    assert host.process.wait(BOUND) == 76


def test_bodies_that_wait_are_bounded_in_bytes(start_host: Start, tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text(
        "import threading\nimport snakehouse\nfrom snakehouse import _frames\n"
        "_frames.MAX_BODY = 3 << 20\n"
        "gate = threading.Event()\n"
        "@snakehouse.tool\ndef wait():\n    while not gate.wait(0.01): pass\n"
        "@snakehouse.tool\ndef size(text):\n    gate.set()\n    return len(text)\n"
    )
    env = {"SNAKEHOUSE_CAPACITY": "2", "SNAKEHOUSE_MODE": "threads"}
    host = start_host(tmp_path / "tool.py", env=env).greet()
    for _ in range(2):
        host.start("wait")
    large = [host.start("size", "x" * (1 << 20)) for _ in range(4)]
    small = host.start("size", "x")
    # Nothing is started before the last one is there: only now is one of the two let go.
    host.send(_frames.frame(_frames.KIND_PING, 0, bytes(8)))
    assert host.frame()[0] == _frames.KIND_PONG
    host.ring(1)
    answers = dict(host.reply() for _ in range(7))
    for stream in large[:2]:
        assert answers[stream] == (LAST, 1 << 20)
    for stream in large[2:]:
        kind, failure = answers[stream]
        assert (kind, failure["code"]) == (ERROR, "body_too_large")
    assert answers[small] == (LAST, 1)


def test_items_that_arrive_are_bounded_together() -> None:
    broken: list[int] = []
    inbox = Inbox(broken.append, lambda _data: None)
    for stream in (1, 2):
        head = struct.pack("<HHQQ", 0, _frames.FLAG_STREAM, _frames.NEVER, 0)
        head += bytes(_frames.OPEN_LENGTH - len(head))
        inbox.take(_frames.KIND_OPEN, stream, memoryview(head), 0.0)
    piece = memoryview(bytes(_frames.MAX_CHUNK))
    most = _frames.MAX_BODY // len(piece)
    for number in range(most):
        inbox.take(_frames.KIND_DATA, 1 + number % 2, piece, 0.0)
    with pytest.raises(_frames.ProtocolError):
        inbox.take(_frames.KIND_DATA, 1, piece[:1], 0.0)
    inbox.end(inbox.channels[1])
    inbox.take(_frames.KIND_DATA, 2, piece, 0.0)


def test_calls_that_wait_for_a_thread_are_bounded_in_number(threads: Host) -> None:
    streams = [threads.open_frames("wait", "sleep") for _ in range(8)]
    streams += [threads.open_frames("echo", 1) for _ in range(4097)]
    flood(threads, b"".join(data for _, data in streams))
    assert threads.process.wait(BOUND) == 76
