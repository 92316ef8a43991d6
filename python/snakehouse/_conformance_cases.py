"""The checks of a worker, one function each, over a fresh worker each.

A check that the worker's own hello makes meaningless says so by ``NotApplicable``. The rules that
they hold a worker to are those of ``docs/worker-protocol.md``.
"""

from __future__ import annotations

import struct

from snakehouse import _msgpack
from snakehouse._frames import (
    HEAD,
    KIND_CALLBACK_CANCEL,
    KIND_CALLBACK_ERROR,
    KIND_CALLBACK_LAST,
    KIND_CANCEL,
    KIND_DATA,
    KIND_GOAWAY,
    KIND_LAST,
    KIND_OPEN,
    KIND_PING,
    KIND_PONG,
    KIND_SESSION,
    KIND_SETTINGS,
    MAX_CHUNK,
    MAX_PAYLOAD,
    PROTOCOL_VERSION,
    frame,
)
from snakehouse._peer import (
    CREDIT_STEP,
    KIND_END,
    KIND_ITEM,
    START_CREDIT,
    CheckFailed,
    Peer,
    expect,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CASES: list[Callable[[Peer], None]] = []

VALUES: list[Any] = [
    None,
    True,
    False,
    *(
        sign * (1 << bits) + near
        for bits in (0, 7, 8, 31, 32, 63, 64, 500)
        for sign in (1, -1)
        for near in (-1, 0, 1)
    ),
    0.0,
    1.5,
    float("inf"),
    "",
    "naïve 🐍 \0",
    b"",
    bytes(range(256)),
    [],
    [1, [2, [3, []]]],
    (),
    (1, ("two", [3.0, (4,)])),
    {},
    {"key": 1, 2: "two", None: [], (1, "a"): {b"bytes": True}},
]


class NotApplicable(Exception):
    """The check does not concern this worker."""


def _case(function: Callable[[Peer], None]) -> Callable[[Peer], None]:
    CASES.append(function)
    return function


def _needs(peer: Peer, *tools: str, capability: str | None = None) -> None:
    peer.greet()
    if capability is not None and not peer.can(capability):
        raise NotApplicable(f"the hello does not claim {capability!r}")
    for tool in tools:
        expect(tool in peer.tools(), f"it does not offer the tool {tool!r}")


def _needs_generator(peer: Peer, tool: str) -> None:
    peer.greet()
    _needs_optional(peer, tool)


def _needs_optional(peer: Peer, tool: str) -> None:
    if tool not in peer.tools():
        raise NotApplicable(f"it does not offer the tool {tool!r}")


def _lives(peer: Peer) -> None:
    expect(peer.value("echo", "alive") == "alive", "it does not answer properly any more")


@_case
def the_hello_is_complete(peer: Peer) -> None:
    peer.greet()
    hello = peer.hello
    expect(hello.get("protocol") == PROTOCOL_VERSION, f"protocol is {hello.get('protocol')!r}")
    for key in ("language", "version", "runtime", "codec"):
        expect(isinstance(hello.get(key), str), f"the hello has no text {key!r}")
    expect(hello.get("failure") is None, f"it cannot serve: {hello.get('failure')}")
    capacity = hello.get("capacity", 1)
    expect(type(capacity) is int and capacity >= 1, f"capacity is {capacity!r}")
    tools = hello["tools"]
    expect(len({tool["name"] for tool in tools}) == len(tools), "two tools have one name")
    expect(len({tool["number"] for tool in tools}) == len(tools), "two tools have one number")
    for tool in ("echo", "fail", "wait"):
        expect(tool in peer.tools(), f"it does not offer the tool {tool!r}")


@_case
def every_value_comes_back_equal(peer: Peer) -> None:
    _needs(peer, "echo")
    for value in VALUES:
        back = peer.value("echo", value)
        same = _msgpack.encode(back) == _msgpack.encode(value)
        expect(same, f"{value!r:.100} came back as {back!r:.100}")


@_case
def a_place_in_a_trace_changes_nothing(peer: Peer) -> None:
    _needs(peer, "echo")
    stream = peer.start("echo", "traced", place=bytes(range(16)) + b"\xff" * 12)
    expect(peer.answer(stream) == (KIND_LAST, "traced"), "a traced call was not answered properly")
    _lives(peer)


@_case
def calls_sent_together_are_answered_once_each(peer: Peer) -> None:
    _needs(peer, "echo")
    opened = [peer.open("echo", number) for number in range(200)]
    peer.send(b"".join(part for _, frames in opened for part in frames))
    missing = {stream: number for number, (stream, _) in enumerate(opened)}
    while missing:
        kind, stream, payload = peer.frame()
        expect(kind == KIND_LAST, f"kind {kind} instead of a result")
        expect(stream in missing, f"stream {stream} was answered twice or never opened")
        expect(_msgpack.decode(payload) == missing.pop(stream), "a call has another's result")


@_case
def long_bodies_travel_in_pieces(peer: Peer) -> None:
    _needs(peer, "echo")
    value = bytes(range(256)) * (12 * 1024)
    expect(peer.value("echo", value) == value, "3 MiB did not come back equal")


@_case
def pieces_of_two_bodies_may_interleave(peer: Peer) -> None:
    _needs(peer, "echo")
    (one, first), (two, second) = (
        peer.open("echo", bytes([number]) * (2 * MAX_CHUNK)) for number in (1, 2)
    )
    expect(len(first) == len(second), "bodies of one size have other numbers of frames")
    peer.send(b"".join(part for pair in zip(first, second, strict=True) for part in pair))
    answers: dict[int, bytes] = {}
    whole: dict[int, bytes] = {one: b"", two: b""}
    while len(answers) < 2:
        kind, stream, payload = peer.frame()
        expect(stream in whole and stream not in answers, f"a frame on stream {stream}")
        whole[stream] += payload
        if kind != KIND_DATA:
            expect(kind == KIND_LAST, f"kind {kind} instead of a result")
            answers[stream] = _msgpack.decode(whole[stream])
    expect(answers[one] == bytes([1]) * (2 * MAX_CHUNK), "the first body is wrong")
    expect(answers[two] == bytes([2]) * (2 * MAX_CHUNK), "the second body is wrong")


@_case
def an_unknown_tool_is_an_error_of_its_call(peer: Peer) -> None:
    _needs(peer, "echo")
    failure = peer.failure(peer.start(60_000))
    expect(failure["kind"] == "not_found", f"kind {failure['kind']!r}, not 'not_found'")
    _lives(peer)


@_case
def a_malformed_body_is_an_error_of_its_call(peer: Peer) -> None:
    _needs(peer, "echo")
    for body in (b"", b"\xc1", b"\x92\x90", _msgpack.encode("no list"), b"\xc7\x01\x7f\x00"):
        failure = peer.failure(peer.start("echo", body=body))
        expect(failure["kind"] == "invalid_input", f"{body!r} gave kind {failure['kind']!r}")
    _lives(peer)


@_case
def a_tool_that_fails_is_an_error_of_its_call(peer: Peer) -> None:
    _needs(peer, "fail", "echo")
    failure = peer.failure(peer.start("fail", "the reason"))
    expect(failure["kind"] == "tool", f"kind {failure['kind']!r}, not 'tool'")
    expect("the reason" in failure["message"], f"the message is {failure['message']!r}")
    _lives(peer)


@_case
def a_call_whose_deadline_has_passed_does_not_run(peer: Peer) -> None:
    _needs(peer, "echo")
    failure = peer.failure(peer.start("echo", 1, micros=0))
    expect(failure["kind"] == "deadline", f"kind {failure['kind']!r}, not 'deadline'")
    _lives(peer)


@_case
def a_ping_is_answered(peer: Peer) -> None:
    _needs(peer, "echo")
    token = struct.pack("<Q", 0x0123_4567_89AB_CDEF)
    peer.send(frame(KIND_PING, 0, token))
    expect(peer.frame() == (KIND_PONG, 0, token), "the pong does not carry the ping's token")


@_case
def a_session_is_told_of_and_ends(peer: Peer) -> None:
    _needs(peer, "echo", capability="sessions")
    limits = {"count": 10, "entries": 10, "bytes": 1 << 20, "hook_micros": 1_000_000}
    peer.send(frame(KIND_SETTINGS, 0, _msgpack.encode({"sessions": limits, "unknown": 1})))
    for event in (
        {"event": "started", "id": 1 << 40, "name": "user-42"},
        {"event": "unknown", "id": 7},
        {"event": "ended", "id": 1 << 40, "reason": "closed"},
        {"event": "ended", "id": 9, "reason": "expired"},
    ):
        peer.send(frame(KIND_SESSION, 0, _msgpack.encode(event)))
        expect(peer.value("echo", 1) == 1, "echo gave something else after a session frame")


@_case
def what_was_started_is_published(peer: Peer) -> None:
    _needs(peer, "echo", capability="started")
    expect(peer.started() == 0, "it says it started a call before it got one")
    stream = peer.start("echo", 1)
    peer.answer(stream)
    expect(peer.started() == stream, f"it says {peer.started()}, not {stream}")


@_case
def a_waiting_call_can_be_cancelled(peer: Peer) -> None:
    _needs(peer, "wait", "echo")
    stream, frames = peer.open("wait")
    peer.send(b"".join([frame(KIND_CANCEL, stream, b""), *frames]))
    expect(peer.failure(stream)["kind"] == "cancelled", "the error is not 'cancelled'")
    _lives(peer)


@_case
def a_call_that_is_taken_back_does_not_run(peer: Peer) -> None:
    _needs(peer, "echo", capability="recall")
    peer.recall(2)
    expect(peer.value("echo", 1) == 1, "a call before it does not run")
    for number in (2, 3):
        stream, frames = peer.open("echo", number)
        expect(stream == number, "calls are numbered otherwise than this case thinks")
        peer.send(b"".join(frames))
        failure = peer.failure(stream)
        told = (failure["kind"], failure["code"])
        expect(told == ("cancelled", "recalled"), f"call {number} was answered with {told}")
    peer.recall(0)
    expect(peer.value("echo", 4) == 4, "a call after it does not run")


@_case
def a_callback_is_a_call_the_other_way(peer: Peer) -> None:
    call, number = _asks(peer, {"a": (1, b"2")})
    peer.send(frame(KIND_CALLBACK_LAST, number, _msgpack.encode([3])))
    expect(peer.answer(call) == (KIND_LAST, [3]), "the call does not return the answer")
    _lives(peer)


@_case
def a_callback_that_fails_fails_its_call(peer: Peer) -> None:
    call, number = _asks(peer, None)
    failure = {"kind": "not_found", "code": "no_such_key", "message": "there is none"}
    peer.send(frame(KIND_CALLBACK_ERROR, number, _msgpack.encode(failure)))
    told = peer.failure(call)
    expect("there is none" in told["message"], f"the failure does not say why: {told}")
    _lives(peer)


@_case
def a_nested_call_runs_before_what_was_sent_ahead(peer: Peer) -> None:
    call, number = _asks(peer, None)
    ahead = [peer.start("echo", "ahead")] if peer.hello.get("capacity", 1) == 1 else []
    nested = peer.start("echo", "nested", nested=True)
    expect(peer.answer(nested) == (KIND_LAST, "nested"), "a nested call does not run")
    peer.send(frame(KIND_CALLBACK_LAST, number, _msgpack.encode(1)))
    expect(peer.answer(call) == (KIND_LAST, 1), "the call does not go on")
    for stream in ahead:
        expect(peer.answer(stream) == (KIND_LAST, "ahead"), "what was sent ahead is lost")
    _lives(peer)


@_case
def a_call_that_waits_for_a_callback_can_be_cancelled(peer: Peer) -> None:
    call, number = _asks(peer, None)
    peer.cancel(call)
    kind, at, _ = peer.frame()
    if kind == KIND_CALLBACK_CANCEL:
        expect(at == number, "it cancels another callback")
        told = peer.failure(call)["kind"]
    else:
        raise CheckFailed(f"a cancel of the callback was expected, not a frame of kind {kind}")
    expect(told == "cancelled", f"the error is {told!r}, not 'cancelled'")
    # It is answered all the same, for nobody.
    peer.send(frame(KIND_CALLBACK_LAST, number, _msgpack.encode(1)))
    _lives(peer)


@_case
def an_answer_to_no_callback_ends_the_connection(peer: Peer) -> None:
    _needs(peer, "echo", capability="callbacks")
    _breaks(peer, frame(KIND_CALLBACK_LAST, 77, b"\xc0"))


def _asks(peer: Peer, value: object) -> tuple[int, int]:
    """A call that waits for a callback: the numbers of both."""
    _needs(peer, "echo", capability="callbacks")
    _needs_optional(peer, "ask")
    peer.tell_host_tools("echo")
    call = peer.start("ask", value)
    number, arguments = peer.callback(call)
    expect(arguments == [[value], {}], f"the host is asked with {arguments!r}")
    return call, number


@_case
def a_running_call_can_be_cancelled(peer: Peer) -> None:
    _needs(peer, "wait", "echo", capability="cancel")
    if not peer.can("started"):
        raise NotApplicable("the hello does not claim 'started': nobody knows when a call runs")
    stream = peer.start("wait")
    peer.wait_started(stream)
    peer.cancel(stream)
    expect(peer.failure(stream)["kind"] == "cancelled", "the error is not 'cancelled'")
    _lives(peer)


@_case
def a_cancel_that_comes_late_hits_nothing(peer: Peer) -> None:
    _needs(peer, "echo")
    stream = peer.start("echo", 1)
    peer.answer(stream)
    peer.cancel(stream)
    for _ in range(100):
        _lives(peer)


@_case
def a_generator_must_be_opened_as_a_stream(peer: Peer) -> None:
    _needs_generator(peer, "count")
    failure = peer.failure(peer.start("count", 3))
    expect(failure["code"] == "is_stream", f"code {failure['code']!r}, not 'is_stream'")
    _lives(peer)


@_case
def a_stream_keeps_to_its_credit(peer: Peer) -> None:
    _needs_generator(peer, "count")
    stream = peer.start("count", 500, stream=True)
    for number in range(START_CREDIT):
        expect(peer.answer(stream) == (KIND_ITEM, number), f"item {number} is missing or wrong")
    # The pong overtakes nothing: what was over-sent would be in front of it.
    peer.send(frame(KIND_PING, 0, bytes(8)))
    peer.grant(stream, 1)
    seen = START_CREDIT
    ponged = False
    while seen < START_CREDIT + 1 or not ponged:
        kind, at, payload = peer.frame()
        if kind == KIND_PONG:
            ponged = True
            if seen == START_CREDIT:
                continue
        else:
            expect((kind, at) == (KIND_ITEM, stream), f"kind {kind} on stream {at}")
            expect(_msgpack.decode(payload) == seen, f"item {seen} is wrong")
            seen += 1
            expect(seen <= START_CREDIT + 1, "it sent more items than it had credit for")
        if seen == START_CREDIT + 1:
            break
    peer.grant(stream, 1000)
    while True:
        kind, value = peer.answer(stream)
        if kind == KIND_LAST:
            break
        expect((kind, value) == (KIND_ITEM, seen), f"item {seen} is missing or wrong")
        seen += 1
    expect(seen == 500, f"{seen} items, not 500")


@_case
def items_of_the_host_reach_the_tool_while_it_sends(peer: Peer) -> None:
    _needs_generator(peer, "forward")
    stream = peer.start("forward", stream=True)
    for value in ("one", [2], {"three": 3.0}, b"x" * (CREDIT_STEP - 100)):
        peer.item(stream, value)
        expect(peer.answer(stream) == (KIND_ITEM, value), f"{value!r:.50} did not come back")
    peer.finish(stream)
    kind, _ = peer.answer(stream)
    expect(kind == KIND_LAST, f"kind {kind} after the host's end, not the end of the stream")
    _lives(peer)


@_case
def a_stream_can_be_cancelled(peer: Peer) -> None:
    _needs_generator(peer, "count")
    stream = peer.start("count", 1_000_000, stream=True)
    for _ in range(START_CREDIT):
        peer.answer(stream)
    peer.cancel(stream)
    expect(peer.failure(stream)["kind"] == "cancelled", "the error is not 'cancelled'")
    _lives(peer)


@_case
def items_that_cross_with_the_answer_are_dropped(peer: Peer) -> None:
    _needs_generator(peer, "count")
    stream = peer.start("count", 1, stream=True)
    peer.answer(stream)
    expect(peer.answer(stream)[0] == KIND_LAST, "the stream did not end")
    peer.item(stream, "late")
    peer.send(frame(KIND_END, stream, b""))
    _lives(peer)


@_case
def items_beyond_the_credit_end_the_connection(peer: Peer) -> None:
    _needs_generator(peer, "forward")
    stream = peer.start("forward", stream=True)
    # It gives back as many as it has credit for, and takes no more than that and one.
    item = frame(KIND_ITEM, stream, _msgpack.encode(0))
    _breaks(peer, item * (4 * START_CREDIT))


@_case
def goaway_ends_it_with_status_0(peer: Peer) -> None:
    _needs(peer, "echo")
    stream, frames = peer.open("echo", "last words")
    peer.send(b"".join([*frames, frame(KIND_GOAWAY, 0, b"enough")]))
    expect(peer.answer(stream) == (KIND_LAST, "last words"), "it did not answer what it had")
    status = peer.wait_closed()
    expect(status == 0, f"exit status {status}, not 0")


@_case
def a_host_that_is_gone_ends_it(peer: Peer) -> None:
    _needs(peer, "echo")
    _lives(peer)
    peer.hang_up()


@_case
def half_a_frame_and_the_end_is_an_end(peer: Peer) -> None:
    _needs(peer, "echo")
    peer.send(HEAD.pack(100, KIND_OPEN, 1) + b"half")
    peer.hang_up()


@_case
def a_frame_over_the_cap_ends_the_connection(peer: Peer) -> None:
    _needs(peer, "echo")
    _breaks(peer, HEAD.pack(MAX_PAYLOAD + 1, KIND_OPEN, 1))


@_case
def an_unknown_kind_ends_the_connection(peer: Peer) -> None:
    _needs(peer, "echo")
    _breaks(peer, frame(200, 1, b""))


@_case
def a_call_on_stream_0_ends_the_connection(peer: Peer) -> None:
    _needs(peer, "echo")
    _, frames = peer.open("echo", 1)
    _breaks(peer, HEAD.pack(len(frames[0]) - HEAD.size, KIND_OPEN, 0) + frames[0][HEAD.size :])


@_case
def a_piece_of_no_body_ends_the_connection(peer: Peer) -> None:
    _needs(peer, "echo")
    _breaks(peer, frame(KIND_DATA, 77, b"?"))


@_case
def a_short_open_frame_ends_the_connection(peer: Peer) -> None:
    _needs(peer, "echo")
    _breaks(peer, frame(KIND_OPEN, 1, bytes(20)))


def _breaks(peer: Peer, data: bytes) -> None:
    """After these bytes the worker must end, and must not say that all was well."""
    peer.send(data)
    status = peer.wait_closed()
    expect(status != 0, "it ended with status 0 after a broken protocol")
