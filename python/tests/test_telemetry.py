"""What a worker tells beside its answers: only if it is asked, with the right parents, bounded."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import snakehouse
from conftest import TOOLS, Host
from snakehouse import _frames, _msgpack
from snakehouse._frames import ProtocolError
from snakehouse._telemetry import Telemetry

TRACE, SPAN = bytes(range(16)), bytes(range(0x80, 0x88))
SAMPLED = _frames.TRACE.pack(TRACE, SPAN, 1, 0)
QUIET = _frames.TRACE.pack(TRACE, SPAN, 0, 0)
ASYNC_TOOLS = Path(__file__).parent / "concurrent_tools.py"
MODES = ["loop", "threads", "asyncio"]
Told = list[dict[str, Any]]


@pytest.fixture(params=MODES)
def server(request: pytest.FixtureRequest, start_host: Callable[..., Host]) -> Host:
    if request.param == "loop":
        return start_host(TOOLS).greet()
    env = {"SNAKEHOUSE_CAPACITY": "4", "SNAKEHOUSE_MODE": request.param}
    tools = TOOLS if request.param == "threads" else ASYNC_TOOLS
    return start_host(tools, env=env).greet()


def ask(host: Host, **settings: Any) -> None:
    body = _msgpack.encode({"telemetry": {"on": True, **settings}, "unknown": 1})
    host.send(_frames.frame(_frames.KIND_SETTINGS, 0, body))


def gather(host: Host, told: Told, is_enough: Callable[[Told], bool]) -> list[tuple[int, Any]]:
    """Read until enough was told; the other frames."""
    others: list[tuple[int, Any]] = []
    while not is_enough(told):
        kind, stream, payload = host.frame()
        if kind == _frames.KIND_TELEMETRY:
            assert stream == 0
            told += _msgpack.decode(payload)
        else:
            others.append((kind, _msgpack.decode(payload)))
    return others


def spans(told: Told) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in told if "name" in item}


def events(told: Told) -> list[str]:
    return [item["event"] for item in told if "event" in item]


def traced(host: Host, tool: str, *args: Any, place: bytes = SAMPLED) -> None:
    host.send(host.open_frames(tool, *args, place=place)[1])


def test_parents_are_right(server: Host) -> None:
    ask(server)
    before = time.time_ns()
    traced(server, "work", 5)
    told: Told = []
    ((kind, places),) = gather(server, told, lambda told: len(told) == 4)
    assert kind == _frames.KIND_LAST
    tool, load, parse = (spans(told)[name] for name in ("work", "load", "parse"))
    assert [one["parent"] for one in (tool, load, parse)] == [SPAN, tool["span"], load["span"]]
    assert {one["trace"] for one in (tool, load, parse)} == {TRACE}
    assert [one["kind"] for one in (tool, load, parse)] == ["tool", "inner", "inner"]
    header = f"00-{TRACE.hex()}-{{}}-01"
    below = [one["span"].hex() for one in (tool, load, parse, tool)]
    assert places == [header.format(span) for span in below]
    assert (load["attributes"], parse["attributes"]) == ({"rows": 5}, {"fast": True})
    assert before <= tool["start"] <= load["start"] <= parse["start"] <= parse["end"]
    assert parse["end"] <= load["end"] <= tool["end"] <= time.time_ns()
    (event,) = (item for item in told if "event" in item)
    assert (event["event"], event["values"], event["attributes"]) == (
        "loaded",
        [5],
        {"kind": "rows"},
    )
    assert (event["trace"], event["span"]) == (TRACE, load["span"])


def test_a_failure_is_told_by_its_type_alone(server: Host) -> None:
    ask(server)
    traced(server, "work", 1, True)
    told: Told = []
    ((kind, failure),) = gather(server, told, lambda told: len(told) == 4)
    assert (kind, failure["type"]) == (_frames.KIND_ERROR, "LookupError")
    assert [one["error"] for one in spans(told).values()] == ["LookupError"] * 3
    assert "sk-live" not in repr(told)


def test_arguments_that_do_not_fit_are_still_that(server: Host) -> None:
    ask(server)
    failure = server.fail("work", 1, 2, 3, 4, place=QUIET)
    assert failure["code"] == "bad_arguments"


def test_a_stream_is_one_span(server: Host) -> None:
    ask(server)
    place = server.open_frames("work_stream", 2, place=SAMPLED)[1]
    flags_at = _frames.HEAD.size + 2
    server.send(place[:flags_at] + bytes([_frames.FLAG_STREAM]) + place[flags_at + 1 :])
    told: Told = []
    others = gather(server, told, lambda told: len(told) == 2)
    stream = spans(told)["stream"]
    assert spans(told)["work_stream"]["span"] == stream["parent"]
    assert {item for _, item in others[:2]} == {f"00-{TRACE.hex()}-{stream['span'].hex()}-01"}


def test_nothing_is_told_unasked(server: Host) -> None:
    for place in (SAMPLED, QUIET):
        assert server.call("work", 1, place=place)[0] == f"00-{TRACE.hex()}-{SPAN.hex()}-0" + str(
            int(place == SAMPLED)
        )
    ask(server, on=False)
    assert len(server.call("work", 1, place=SAMPLED)) == 4


def test_a_trace_that_nobody_records_has_no_spans(server: Host) -> None:
    ask(server)
    traced(server, "work", 1, place=QUIET)
    told: Told = []
    # Before the answer or after it.
    answers = [places for _, places in gather(server, told, lambda told: len(told) == 1)]
    assert events(told) == ["loaded"]
    (places,) = answers or [_msgpack.decode(server.frame()[2])]
    assert set(places) == {f"00-{TRACE.hex()}-{SPAN.hex()}-00"}


def test_filters_change_while_it_runs(host: Host) -> None:
    told: Told = []
    ask(host, allow=["lo*", "wor?"], deny=["loaded"])
    traced(host, "work", 1)
    gather(host, told, lambda told: len(told) == 2)
    assert spans(told).keys() == {"work", "load"}
    told.clear()
    ask(host, deny=["work", "load*"])
    traced(host, "work", 1)
    gather(host, told, lambda told: len(told) == 1)
    assert spans(told)["parse"]["parent"] == SPAN
    told.clear()
    ask(host, on=False)
    assert len(host.call("work", 1, place=SAMPLED)) == 4
    ask(host)
    traced(host, "work", 1)
    gather(host, told, lambda told: len(told) == 4)


def test_a_part_of_the_events_is_told(host: Host) -> None:
    ask(host, events=0.25)
    told: Told = []
    host.start("emit_many", "tick", 99)
    gather(host, told, lambda told: len(told) >= 25)
    assert len(events(told)) == 25


def test_what_does_not_fit_is_counted(host: Host) -> None:
    ask(host)
    told: Told = []
    # Too large to be kept.
    assert host.start("emit_what", "x" * 5000) is not None
    gather(host, told, lambda told: len(told) == 1)
    assert len(told[0]["values"][0]) == 1024
    # A flood in one call is sent on the way: nothing is lost that is told by the call's own thread.
    told.clear()
    host.start("emit_many", "flood", 5000)
    gather(host, told, lambda told: "over" in events(told)[-1:])
    assert len(told) == 5001


def test_a_call_that_takes_long_is_heard_meanwhile(host: Host) -> None:
    ask(host)
    told: Told = []
    # The first at once, and the others once enough of them wait.
    stream = host.start("emit_many", "progress", 65, 600.0)
    assert gather(host, told, lambda told: len(told) == 65) == []
    host.ring(stream)
    kind, _, _ = host.frame()
    assert kind == _frames.KIND_ERROR


def test_what_a_thread_tells_travels_with_its_call(host: Host) -> None:
    ask(host)
    told: Told = []
    host.start("emit_in_a_thread")
    gather(host, told, lambda told: events(told) == ["threaded"])
    assert "trace" not in told[0]


@pytest.mark.parametrize("is_answered", [False, True])
def test_a_goodbye_takes_along_what_waits(server: Host, is_answered: bool) -> None:
    ask(server)
    told: Told = []
    if is_answered:
        # One piece, which is not due when the call is answered; on a slow machine it may be.
        traced(server, "where")
        while (frame := server.frame())[0] != _frames.KIND_LAST:
            assert frame[0] == _frames.KIND_TELEMETRY
            told += _msgpack.decode(frame[2])
    else:
        traced(server, "work", 1)
    server.send(_frames.frame(_frames.KIND_GOAWAY, 0, b"enough"))
    gather(server, told, lambda told: len(told) == (1 if is_answered else 4))
    assert server.eof()


@pytest.mark.parametrize(
    "settings", [b"\xc0", b"\xc1", _msgpack.encode({"telemetry": {"allow": ["x"]}})]
)
def test_malformed_settings_end_the_connection(host: Host, settings: bytes) -> None:
    host.send(_frames.frame(_frames.KIND_SETTINGS, 0, settings))
    assert host.outcome()[0] == 76


@pytest.mark.parametrize("name", ["", "x" * 129, "naïve", "a\nb"])
def test_names_are_checked_also_when_nobody_listens(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 128 printable"):
        snakehouse.span(name)
    with pytest.raises(ValueError, match="1 to 128 printable"):
        snakehouse.emit("fine", **{name: 1})


def test_values_are_checked_also_when_nobody_listens() -> None:
    for bad in ([1], None, {"a": 1}, b"bytes"):
        what: Any = bad
        with pytest.raises(TypeError, match="not a bool, int, float or str"):
            snakehouse.emit("fine", what)
        with pytest.raises(TypeError, match="not a bool, int, float or str"):
            snakehouse.span("fine", value=what)
    with pytest.raises(ValueError, match="64 bits"):
        snakehouse.emit("fine", 1 << 63)
    with pytest.raises(ValueError, match="more than 32"):
        snakehouse.emit("fine", *range(33))
    with pytest.raises(ValueError, match="more than 32"):
        snakehouse.span("fine", **{f"a{n}": n for n in range(33)})


def test_the_buffer_is_bounded_and_says_what_it_lost() -> None:
    telemetry = Telemetry()
    telemetry.configure({"on": True})
    for _ in range(1500):
        telemetry.add(b"\x01")
    telemetry.add(bytes(9 << 10))
    frame = telemetry.take()
    told = _msgpack.decode(frame[_frames.HEAD.size :])
    assert told[0] == {"dropped": 477}
    assert told[1:] == [1] * 1024
    assert telemetry.take() == b""
    ids = {telemetry.new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(one) == 8 for one in ids)
    with pytest.raises(ProtocolError):
        telemetry.configure({"on": True, "allow": 5})
