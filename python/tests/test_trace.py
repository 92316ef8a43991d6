"""Where a call stands in a trace, as its tool sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import TOOLS, Host
from snakehouse import TraceContext, _frames, trace

TRACE, SPAN = bytes(range(16)), bytes(range(0x80, 0x88))
SAMPLED = _frames.TRACE.pack(TRACE, SPAN, 1, 0)
QUIET = _frames.TRACE.pack(TRACE, SPAN, 0xFE, 3)
HEADER = f"00-{TRACE.hex()}-{SPAN.hex()}-"
ASYNC_TOOLS = Path(__file__).parent / "concurrent_tools.py"


@pytest.fixture(params=["loop", "threads", "asyncio"])
def server(request: pytest.FixtureRequest, start_host: Callable[..., Host]) -> Host:
    if request.param == "loop":
        return start_host(TOOLS).greet()
    env = {"SNAKEHOUSE_CAPACITY": "4", "SNAKEHOUSE_MODE": request.param}
    tools = TOOLS if request.param == "threads" else ASYNC_TOOLS
    return start_host(tools, env=env).greet()


def test_each_call_has_its_own_place(server: Host) -> None:
    padding = bytes(3 << 20)
    calls = [
        (server.open_frames("where", place=SAMPLED), [HEADER + "01", 0]),
        (server.open_frames("where"), ["None", 0]),
        (server.open_frames("where", place=QUIET), [HEADER + "00", 0]),
        (server.open_frames("where", padding=padding, place=SAMPLED), [HEADER + "01", 3 << 20]),
    ]
    server.send(b"".join(data for (_, data), _ in calls))
    expected = {stream: (_frames.KIND_LAST, tuple(told)) for (stream, _), told in calls}
    assert dict(server.reply() for _ in calls) == expected


def test_a_stream_has_a_place(host: Host) -> None:
    stream = host.open_stream("where_of_a_stream", place=SAMPLED)
    assert host.reply() == (stream, (_frames.KIND_ITEM, HEADER + "01"))
    assert host.reply() == (stream, (_frames.KIND_LAST, None))


def test_a_place_is_a_value() -> None:
    one, other = TraceContext.read(SAMPLED), TraceContext.read(QUIET)
    assert one == TraceContext.read(SAMPLED) != other
    assert len({one, other, TraceContext.read(SAMPLED)}) == 2
    assert repr(one) == f"TraceContext('{HEADER}01')"
    assert TraceContext.read(bytes(28)) is None
    assert trace() is None
