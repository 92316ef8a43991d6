"""``breakpoint()`` in a worker: with somebody to ask, and with nobody."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from conftest import Host

TOOL = """
import snakehouse

@snakehouse.tool
def ask(value: int) -> int:
    for _ in range(2):
        breakpoint()
    return value
"""


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    path = tmp_path / "asking.py"
    path.write_text(TOOL)
    return path


def test_without_a_debugger_it_says_what_to_do(start_host: Callable[..., Host], tool: Path) -> None:
    host = start_host(tool).greet()
    failure = host.fail("ask", 1)
    assert (failure["kind"], failure["code"]) == ("tool", "no_debugger")
    assert "--debug" in failure["hint"]
    assert failure["traceback"]


def test_what_cannot_be_opened_is_an_error(start_host: Callable[..., Host], tool: Path) -> None:
    host = start_host(tool, env={"SNAKEHOUSE_DEBUG": "0"}).greet()
    assert host.fail("ask", 1)["code"] == "no_debugger"


def test_another_hook_is_left_alone(start_host: Callable[..., Host], tool: Path) -> None:
    host = start_host(tool, env={"PYTHONBREAKPOINT": "0"}).greet()
    assert host.call("ask", 5) == 5


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_a_tool_is_debugged_through_its_host(
    start_host: Callable[..., Host], tool: Path, kind: str
) -> None:
    if kind == "terminal":
        ours, theirs = pty.openpty()
        lender = subprocess.Popen(["sleep", "1000"], stdin=theirs, stderr=theirs)
        os.close(theirs)
        typed: IO[bytes] = os.fdopen(os.dup(ours), "wb", 0)
        shown: IO[bytes] = os.fdopen(ours, "rb", 0)
    else:
        lender = subprocess.Popen(["sleep", "1000"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert lender.stdin
        assert lender.stderr
        typed, shown = lender.stdin, lender.stderr
    try:
        host = start_host(tool, env={"SNAKEHOUSE_DEBUG": str(lender.pid)}).greet()
        stream = host.start("ask", 1)
        typed.write(b"p value + 1000\nvalue = 41\ncontinue\nvalue += 1\ncontinue\n")
        typed.flush()
        assert host.reply() == (stream, (4, 42))
        said = b""
        while b"1001" not in said:
            said += os.read(shown.fileno(), 4096)
        assert host.end()[:2] == (0, "")
    finally:
        lender.kill()
        typed.close()
        lender.wait()
        shown.close()


def test_nobody_at_the_terminal_ends_the_call(start_host: Callable[..., Host], tool: Path) -> None:
    with subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL) as lender:
        host = start_host(tool, env={"SNAKEHOUSE_DEBUG": str(lender.pid)}).greet()
        assert host.fail("ask", 1)["type"] == "bdb.BdbQuit"
        lender.kill()
