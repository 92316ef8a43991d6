"""The client, against a pool that the built program serves.

Needs ``grpcio`` and ``SNAKEHOUSE_BINARY``, the program; `.ci/run` has a step with both.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import MagicMock

import pytest

from snakehouse import _protobuf
from snakehouse import client as client_module
from snakehouse.client import CallFailed, Client

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

TOOLS = Path(__file__).parent / "tools_for_client.py"
TOKEN = "a-token-of-the-tests"
BINARY = os.environ.get("SNAKEHOUSE_BINARY")

served = pytest.mark.skipif(
    BINARY is None or importlib.util.find_spec("grpc") is None,
    reason="needs grpcio and SNAKEHOUSE_BINARY: a step of its own in .ci/run",
)


@contextmanager
def serving(home: Path) -> Generator[tuple[subprocess.Popen[str], str]]:
    """A server of its own, and where it is."""
    token = home / "token"
    token.write_text(TOKEN + "\n")
    command = [str(BINARY), "pool", "serve", "--json", "--home", str(home)]
    command += ["--python", sys.executable, "--tools", str(TOOLS), "--token-file", str(token)]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            ready = json.loads(server.stdout.readline())
            assert "add" in ready["tools"]
            yield server, ready["url"].removeprefix("http://")
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("home")) as (server, target):
        yield target
    assert server.returncode == 0


@pytest.fixture(scope="module")
def client(target: str) -> Iterator[Client]:
    with Client(target, token=TOKEN) as client:
        yield client


@pytest.mark.parametrize(
    "target",
    ["10.0.0.1:8401", "[2001:db8::1]:8401", "pool.example:8401", "localhost.example:1", "8401", ""],
)
def test_a_token_goes_over_a_plain_connection_to_this_machine_only(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_grpc", MagicMock)
    with pytest.raises(ValueError, match="or plaintext=True") as caught:
        Client(target, token=TOKEN)
    assert TOKEN not in str(caught.value)
    Client(target)
    Client(target, token=TOKEN, ca=b"PEM")
    Client(target, token=TOKEN, plaintext=True)
    for here in ("127.0.0.1:8401", "127.1.2.3:8401", "[::1]:8401", "localhost:8401"):
        Client(here, token=TOKEN)


@served
def test_values_come_back_equal(client: Client) -> None:
    for value in (None, (1, ("a", [2.5])), 1 << 500, {"k": {1, 2}}, b"\0" * (3 << 20), "naïve"):
        back = client.call("echo", value)
        assert back == value
        assert type(back) is type(value)
    assert client.call("add", 2, b=40) == 42


@served
def test_a_failure_says_what_the_tool_said(client: Client) -> None:
    with pytest.raises(CallFailed, match="too sour") as caught:
        client.call("fail", "too sour")
    error = caught.value
    assert (error.kind, error.code, error.hint) == ("tool", "sour", "sweeten it")
    assert error.type.endswith("ToolError")
    assert error.traceback[-1].function == "fail"
    assert not error.without_effect
    assert isinstance(error.__cause__, CallFailed)
    assert error.__cause__.type == "KeyError"


@served
def test_what_does_not_run_is_named(client: Client) -> None:
    with pytest.raises(CallFailed) as caught:
        client.call("nothing")
    assert (caught.value.kind, caught.value.code) == ("not_found", "unknown_tool")
    assert caught.value.without_effect
    with pytest.raises(CallFailed) as caught:
        client.with_options(timeout=0.2).call("sleep", 600)
    assert caught.value.kind == "deadline"
    assert client.with_options(idempotent=True).call("add", 1) == 2


@served
def test_a_stream_gives_items_and_a_result(client: Client) -> None:
    with client.stream("count", 500) as stream:
        assert list(stream) == list(range(500))
        assert stream.result is None
    with client.stream("double", items=range(200)) as stream:
        assert list(stream) == [2 * n for n in range(200)]
    with pytest.raises(CallFailed, match="sour"):
        list(client.stream("fail", "sour"))
    with pytest.raises(CallFailed) as caught:
        list(client.with_options(idempotent=True).stream("count", 1))
    assert (caught.value.kind, caught.value.code) == ("invalid_input", "stream_not_repeatable")
    with client.stream("double", items=iter(lambda: 1, 2)) as stream:
        assert next(stream) == 2


@served
def test_a_session_keeps_its_worker(client: Client) -> None:
    session = client.session("visitor")
    first = session.call("visit")
    assert session.call("visit") == first + 1
    assert client.close_session("visitor")
    assert not client.close_session("visitor")
    with pytest.raises(CallFailed) as caught:
        client.session("#")
    assert caught.value.kind == "invalid_input"


@served
def test_tools_and_numbers_can_be_read(client: Client) -> None:
    add = next(tool for tool in client.tools() if tool.name == "add")
    assert (add.kind, add.doc) == ("function", "Add two numbers.")
    assert add.parameters["required"] == ["a"]
    assert client.call("add", 1, 2) == 3
    stats = client.stats()
    assert (stats.pool, stats.workers) == ("tools", 1)
    assert stats.outcomes["ok"] > 0


@served
def test_a_wrong_token_none_and_nobody_are_told_apart(target: str) -> None:
    for token, code in (("another-token-of-tests", "wrong_token"), (None, "no_token")):
        with Client(target, token=token) as stranger:
            with pytest.raises(CallFailed) as caught:
                stranger.call("add", 1)
            error = caught.value
            assert (error.kind, error.code) == ("unauthenticated", code)
            assert error.without_effect
            assert error.hint is not None
            with pytest.raises(CallFailed) as caught, stranger.stream("count", 1) as stream:
                list(stream)
            assert caught.value.code == code
        assert TOKEN not in f"{caught.value!r} {caught.value}"
    with Client("127.0.0.1:1") as nobody, pytest.raises(CallFailed) as caught:
        nobody.with_options(timeout=5).call("add", 1)
    assert caught.value.kind in ("unavailable", "deadline")


@served
def test_a_deadline_ends_what_runs_and_the_worker_goes_on(client: Client) -> None:
    hasty = client.with_options(timeout=0.3)
    with pytest.raises(CallFailed) as caught:
        hasty.call("sleep", 600)
    assert caught.value.kind == "deadline"
    with pytest.raises(CallFailed) as caught, hasty.stream("sleep", 600) as stream:
        next(stream)
    assert caught.value.kind == "deadline"
    before = client.stats()
    assert client.call("add", 1) == 2
    assert before.deaths == {}, "it was interrupted, not killed"


@served
def test_a_server_that_goes_away_is_named(tmp_path: Path) -> None:
    with serving(tmp_path) as (server, target), Client(target, token=TOKEN) as client:
        assert client.call("add", 1) == 2
        with client.stream("double", items=iter(lambda: 1, 2)) as stream:
            assert next(stream) == 2
            server.kill()
            with pytest.raises(CallFailed) as caught:
                for _ in stream:
                    pass
        assert caught.value.kind == "unavailable"
        with pytest.raises(CallFailed) as caught:
            client.with_options(timeout=5).call("add", 1)
        assert caught.value.kind in ("unavailable", "deadline")


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ImportError, match="pip install grpcio"):
        Client("127.0.0.1:1")


def test_messages_are_read_as_they_were_written() -> None:
    long = b"x" * 300
    data = _protobuf.field(1, long) + _protobuf.flag(2, True) + _protobuf.flag(3, False)
    assert list(_protobuf.fields(data)) == [(1, long), (2, 1)]
    assert list(_protobuf.fields(b"\x09" + bytes(8) + b"\x15" + bytes(4)))[1][0] == 2


@pytest.mark.parametrize("data", [b"\x0a\x05ab", b"\x80", b"\x0b", b"\xff" * 11, b"\x09\0"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(_protobuf.Malformed):
        list(_protobuf.fields(data))
