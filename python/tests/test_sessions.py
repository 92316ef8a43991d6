"""Sessions as a worker keeps them: names, state with limits, and hooks at their end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import snakehouse
from conftest import BOUND, Host
from snakehouse import _frames, _msgpack, _sessions

HERE = Path(__file__).parent
MODES: dict[str, tuple[str, dict[str, str]]] = {
    "plain": ("session_tools.py", {}),
    "threads": ("session_tools.py", {"SNAKEHOUSE_CAPACITY": "4"}),
    "asyncio": (
        "async_session_tools.py",
        {"SNAKEHOUSE_CAPACITY": "4", "SNAKEHOUSE_MODE": "asyncio"},
    ),
}


@pytest.fixture(params=list(MODES))
def worker(request: pytest.FixtureRequest) -> Iterator[Host]:
    file, env = MODES[request.param]
    host = Host([str(HERE / file)], env=env)
    yield host.greet()
    host.close()


def tell(host: Host, **event: Any) -> None:
    host.send(_frames.frame(_frames.KIND_SESSION, 0, _msgpack.encode(event)))


def limit(host: Host, **limits: int) -> None:
    every = {"count": 100, "entries": 100, "bytes": 1 << 20, "hook_micros": 30_000_000}
    settings = _msgpack.encode({"sessions": every | limits})
    host.send(_frames.frame(_frames.KIND_SETTINGS, 0, settings))


def wait_for(host: Host, file: Path, lines: int) -> list[str]:
    """What the hooks wrote, as soon as it is so much. Calls go on meanwhile."""
    end = time.monotonic() + BOUND
    while not file.exists() or len(file.read_text().splitlines()) < lines:
        assert time.monotonic() < end, file.read_text() if file.exists() else "nothing"
        host.call("who")
    return file.read_text().splitlines()


def test_a_session_has_a_name_and_state_of_its_own(worker: Host) -> None:
    assert "sessions" in worker.hello["capabilities"]
    tell(worker, id=7, event="started", name="user-42")
    assert worker.call("who", session=7) == "user-42"
    assert worker.call("who", session=8) == "#8"
    assert worker.call("who") is None
    assert [worker.call("add", "n", 1, session=7) for _ in range(3)] == [1, 2, 3]
    assert worker.call("add", "n", 1, session=8) == 1
    failure = worker.fail("keys")
    assert (failure["type"], failure["code"]) == ("RuntimeError", "tool_raised")


def test_the_end_is_told_to_the_hooks_and_drops_the_state(worker: Host, tmp_path: Path) -> None:
    file = tmp_path / "ends"
    tell(worker, id=7, event="started", name="user-42")
    worker.call("keep", "file", str(file), session=7)
    worker.call("keep", "raise", "no", session=7)
    tell(worker, id=7, event="ended", reason="expired")
    lines = ["user-42 expired ['file', 'raise'] None", "again user-42 expired"]
    assert wait_for(worker, file, 2) == lines, "one that raises is no end of the others"
    assert worker.fail("keys", session=7)["message"] == "the session is over"
    worker.send(_frames.frame(_frames.KIND_GOAWAY, 0, b"enough"))
    said = worker.process.communicate(timeout=30)[1].decode()
    assert "hook note of session 'user-42', which is over (expired) failed" in said
    assert "ValueError: no" in said


def test_a_hook_that_takes_too_long_is_given_up(worker: Host, tmp_path: Path) -> None:
    limit(worker, hook_micros=500_000)
    file = tmp_path / "ends"
    worker.call("keep", "file", str(file), session=7)
    worker.call("keep", "hang", True, session=7)
    tell(worker, id=7, event="ended", reason="closed")
    assert wait_for(worker, file, 2)[1] == "again #7 closed"
    assert worker.call("add", "n", 1, session=8) == 1


def test_sessions_that_are_left_end_with_the_worker(worker: Host, tmp_path: Path) -> None:
    file = tmp_path / "ends"
    for number in (3, 4):
        worker.call("keep", "file", str(file), session=number)
    worker.send(_frames.frame(_frames.KIND_GOAWAY, 0, b"enough"))
    assert worker.process.wait(30) == 0
    ends = [line for line in file.read_text().splitlines() if not line.startswith("again")]
    assert ends == [f"#{number} worker_ended ['file'] None" for number in (3, 4)]


def test_the_state_has_limits(worker: Host) -> None:
    limit(worker, entries=2, bytes=10_000, count=2)
    worker.call("keep", "a", 1, session=7)
    worker.call("keep", "b", 2, session=7)
    for key, value in (("c", 3), ("a", "x" * 10_000), ("a", [b"y" * 200] * 3 + [b"z" * 10_000])):
        failure = worker.fail("keep", key, value, session=7)
        assert failure["code"] == "session_state_full"
        assert failure["type"].endswith("SessionStateFull")
    assert worker.call("keep", "a", "x" * 9_000, session=7) == ["a", "b"], "in place of the old"
    worker.call("keep", "a", 1, session=8)
    assert worker.fail("keep", "a", 1, session=9)["code"] == "session_state_full"
    tell(worker, id=8, event="ended", reason="closed")
    assert worker.call("keep", "a", 1, session=9) == ["a"]


@pytest.mark.parametrize("payload", [b"\xc1", b"\xc0", _msgpack.encode({"id": 7})])
def test_a_malformed_frame_ends_the_connection(worker: Host, payload: bytes) -> None:
    worker.send(_frames.frame(_frames.KIND_SESSION, 0, payload))
    assert worker.process.wait(30) == 76


def test_events_that_are_not_known_mean_nothing(worker: Host) -> None:
    tell(worker, id=7, event="promoted")
    assert worker.call("who", session=7) == "#7"


def test_what_is_measured() -> None:
    class Array:
        nbytes = 1 << 20

    assert _sessions.measure(Array(), 1 << 30) >= 1 << 20
    assert _sessions.measure({"k": ["x" * 1000]}, 1 << 30) > 1000
    shared = "x" * 1000
    assert _sessions.measure([shared] * 10, 1 << 30) < 2000, "once"
    endless: list[Any] = []
    endless.append(endless)
    assert _sessions.measure(endless, 1 << 30) > 0


def test_the_state_is_a_dict_with_text_keys() -> None:
    state = snakehouse.SessionState(_sessions.Limits())
    state["a"] = 1
    state.update(b=2)
    assert dict(state) == {"a": 1, "b": 2}
    assert state.pop("a") == 1
    assert (len(state), "a" in state, repr(state)) == (1, False, "<session state of 1 entries>")
    with pytest.raises(TypeError, match="a key of a session's state is a str, not int"):
        state[1] = 2  # pyright: ignore[reportArgumentType]


def test_a_hook_stays_a_function() -> None:
    with pytest.raises(TypeError, match="must be a plain function, not type"):
        snakehouse.on_session_end(dict)  # pyright: ignore[reportArgumentType, reportUnknownMemberType]
    with pytest.raises(RuntimeError, match="calls of a session"):
        snakehouse.session_state()
