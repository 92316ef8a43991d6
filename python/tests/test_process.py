"""The worker as a process: output, descriptors, forks, and all the ways it ends."""

from __future__ import annotations

import json
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import TOOLS, WORKER, Host
from golden import VECTORS
from snakehouse import _birth, _frames, _main, _msgpack

Start = Callable[..., Host]


def test_end_of_file_ends_it(host: Host) -> None:
    assert host.end() == (0, "", "")


def test_goaway_ends_it_after_what_it_has(host: Host) -> None:
    stream, data = host.open_frames("echo", 1)
    host.send(data + _frames.frame(_frames.KIND_GOAWAY, 0, b"recycle"))
    assert host.reply() == (stream, (_frames.KIND_LAST, 1))
    assert host.eof()
    assert host.outcome()[0] == 0


def test_output_goes_to_the_pipes(host: Host) -> None:
    host.call("say", "hello")
    assert host.end() == (0, "hello\nraw\n", "hello\n")


def test_standard_input_is_empty(host: Host) -> None:
    assert host.call("read_stdin") == ""
    assert host.call("echo", 1) == 1


@pytest.mark.parametrize(("status", "code"), [(3, 3), (None, 0), ("bye", 1)])
def test_sys_exit_ends_the_worker_after_earlier_answers(
    host: Host, status: object, code: int
) -> None:
    first, one = host.open_frames("echo", 1)
    last, two = host.open_frames("leave", status)
    host.send(one + two)
    assert host.reply() == (first, (_frames.KIND_LAST, 1))
    assert host.eof()
    assert host.outcome()[0] == code
    assert host.started == last


@pytest.mark.parametrize(("status", "code"), [(3, 3), (None, 0), ("bye", 1), (259, 3)])
def test_no_thread_of_a_tool_holds_up_its_exit(host: Host, status: object, code: int) -> None:
    host.start("leave_a_thread", status)
    assert host.eof()
    done, out, err = host.outcome()
    assert (done, out) == (code, "no newline at exit\n")
    assert err == ("bye\n" if status == "bye" else "")


def test_no_thread_of_a_tool_holds_up_the_end(host: Host) -> None:
    host.call("go_on_in_a_thread")
    assert host.end() == (0, "", "")


def test_an_exit_with_a_text_needs_no_standard_error(host: Host) -> None:
    # The way out that waits for threads would wait for this one.
    host.call("go_on_in_a_thread")
    host.start("leave_without_standard_error")
    assert host.eof()
    assert host.outcome() == (1, "", "")


def test_a_crash_is_seen_and_explained(host: Host) -> None:
    stream = host.start("crash")
    assert host.eof()
    code, _, err = host.outcome()
    assert code == -signal.SIGSEGV
    assert "Segmentation fault" in err
    assert "in crash" in err
    assert host.started == stream


def test_a_forked_child_never_speaks_for_the_worker(host: Host) -> None:
    assert host.call("fork_and_return") == 70
    assert host.call("echo", 1) == 1


def test_children_get_neither_socket_nor_page(host: Host) -> None:
    kinds = host.call("open_descriptors_of_a_child")
    assert not [kind for kind in kinds if kind.startswith("socket:") or "memfd" in kind]
    assert host.call("environment") == []


def test_children_do_not_get_the_lifeline(start_host: Start) -> None:
    assert _main.LIFELINE == _birth.LIFELINE
    package = str(WORKER.parents[1])
    code = "import os, sys; os.dup2(os.memfd_create('lifeline'), 4); os.set_inheritable(4, True); "
    code += f"sys.path.insert(0, {package!r}); import runpy; sys.argv = sys.argv[1:]; "
    code += "runpy.run_module('snakehouse.worker', run_name='__main__')"
    host = start_host(TOOLS, flags=("-c", code), page=False).greet()
    kinds = host.call("open_descriptors_of_a_child")
    assert not [kind for kind in kinds if "lifeline" in kind]


@pytest.mark.parametrize("bad", VECTORS["bad_frames"], ids=lambda v: v["name"])
def test_a_broken_frame_is_a_clean_end(start_host: Start, bad: dict[str, str]) -> None:
    host = start_host(TOOLS, flags=("-S",)).greet()
    host.send(bytes.fromhex(bad["bytes"]))
    kind, _, reason = host.frame()
    assert (kind, reason != b"") == (_frames.KIND_GOAWAY, True)
    assert host.eof()
    code, _, err = host.outcome()
    assert code == 76
    assert "host broke the protocol" in err
    assert "Traceback" not in err


def test_bodies_that_never_end_are_bounded_in_number(start_host: Start) -> None:
    host = start_host(TOOLS, flags=("-S",)).greet()
    head = struct.pack("<HHQQ", host.number("echo"), 1, _frames.NEVER, 0) + bytes(28)
    opens = [_frames.frame(_frames.KIND_OPEN, 1000 + n, head) for n in range(4096)]
    host.send(b"".join(opens))
    assert host.call("echo", "still here") == "still here"
    host.send(_frames.frame(_frames.KIND_OPEN, 999_999, head))
    kind, _, reason = host.frame()
    assert kind == _frames.KIND_GOAWAY
    assert b"unfinished bodies" in reason
    assert host.eof()
    assert host.outcome()[0] == 76


def test_a_body_over_the_cap_fails_one_call(start_host: Start, tmp_path: Path) -> None:
    low = tmp_path / "low.py"
    low.write_text(
        "import snakehouse\n"
        "from snakehouse import _frames\n"
        "_frames.MAX_BODY = 3 << 20\n"
        "@snakehouse.tool\n"
        "def size(x):\n    return len(x)\n"
    )
    host = start_host(low).greet()
    failure = host.fail("size", bytes(4 << 20))
    assert (failure["kind"], failure["code"]) == ("invalid_input", "body_too_large")
    assert host.call("size", bytes(2 << 20)) == 2 << 20


@pytest.mark.parametrize(
    ("source", "kind", "code", "message"),
    [
        ("import nowhere_at_all", "tool", "import_failed", "No module named 'nowhere_at_all'"),
        ("1 +", "tool", "import_failed", "invalid syntax (tools.py, line 1)"),
        ("raise SystemExit(3)", "tool", "import_failed", "3"),
        ("x = 1", "environment", "no_tools", "there is no tool in PATH"),
        (
            "import snakehouse\n@snakehouse.tool\ndef a(): ...\n"
            "@snakehouse.tool(name='a')\ndef b(): ...",
            "environment",
            "duplicate_tool",
            "two tools have the name 'a'",
        ),
        (
            "import functools, snakehouse\n@functools.cache\n@snakehouse.tool\ndef a(): ...",
            "environment",
            "decorated_tool",
            "a is a tool within another decorator, which calls would not go through",
        ),
        (
            "import snakehouse\n@snakehouse.tool\nclass A: ...",
            "tool",
            "import_failed",
            "a tool must be a plain function, not type",
        ),
    ],
)
def test_tools_that_cannot_be_loaded_are_reported_in_the_hello(
    start_host: Start, tmp_path: Path, source: str, kind: str, code: str, message: str
) -> None:
    file = tmp_path / "tools.py"
    file.write_text(source)
    host = start_host(file).greet()
    failure = host.hello["failure"]
    assert (failure["kind"], failure["code"]) == (kind, code)
    assert failure["message"] == message.replace("PATH", str(file))
    assert failure["hint"]
    assert host.eof()
    assert host.outcome()[0] == 69


@pytest.mark.parametrize("over", ["doc", "names"])
def test_a_hello_that_is_too_long_leaves_out_what_calls_do_not_need(
    start_host: Start, tmp_path: Path, over: str
) -> None:
    file = tmp_path / "tools.py"
    text = "'x' * (2 << 20)"
    options = f"doc={text}" if over == "doc" else f"name={text}"
    file.write_text(f"import snakehouse\n@snakehouse.tool({options})\ndef a(): return 1\n")
    host = start_host(file).greet()
    failure = host.hello["failure"]
    if over == "doc":
        assert (failure, host.call("a")) == (None, 1)
        assert host.hello["tools"][0]["doc"] == ""
        return
    assert (failure["kind"], failure["code"]) == ("environment", "hello_too_large")
    assert failure["hint"]
    assert host.eof()
    assert host.outcome()[0] == 69


def test_an_import_that_fails_at_length_is_told(start_host: Start, tmp_path: Path) -> None:
    file = tmp_path / "tools.py"
    file.write_text("raise ExceptionGroup('many', [ValueError('x' * 100_000)] * 60)")
    assert start_host(file).greet().hello["failure"]["code"] == "import_failed"


def test_globals_that_raise_when_asked_are_no_tools(start_host: Start, tmp_path: Path) -> None:
    file = tmp_path / "tools.py"
    file.write_text(
        "import functools, snakehouse\n"
        "class StandIn:\n"
        "    def __call__(self): ...\n"
        "    def __getattr__(self, name): raise RuntimeError\n"
        "    def __eq__(self, other): raise RuntimeError\n"
        "request = StandIn()\n"
        "@snakehouse.tool\ndef a(): return 1\n"
        "cached = functools.cache(a)\n"
    )
    host = start_host(file).greet()
    assert host.call("a") == 1
    assert [tool["name"] for tool in host.hello["tools"]] == ["a"]


def test_the_place_of_a_failed_import_is_named(start_host: Start, tmp_path: Path) -> None:
    file = tmp_path / "tools.py"
    file.write_text("\nimport nowhere_at_all")
    failure = start_host(file).greet().hello["failure"]
    assert failure["traceback"] == [[str(file), 2, "<module>", "import nowhere_at_all"]]


def test_a_missing_file_is_named(start_host: Start, tmp_path: Path) -> None:
    failure = start_host(tmp_path / "none.py").greet().hello["failure"]
    assert failure["code"] == "tool_file_missing"
    (tmp_path / "json.py").write_text("")
    failure = start_host(tmp_path / "linecache.py", tmp_path / "os.py").greet().hello["failure"]
    assert failure["code"] == "tool_file_missing"
    (tmp_path / "os.py").write_text("")
    failure = start_host(tmp_path / "os.py").greet().hello["failure"]
    assert failure["code"] == "module_name_taken"


def test_modules_by_name_and_neighbours_of_files(start_host: Start, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("answer = 42")
    (tmp_path / "by_name.py").write_text(
        "import snakehouse, neighbour\n@snakehouse.tool\ndef ask():\n    return neighbour.answer\n"
    )
    by_name = start_host("by_name", cwd=tmp_path).greet()
    assert by_name.call("ask") == 42
    by_path = start_host(tmp_path / "by_name.py", tmp_path / "by_name.py").greet()
    assert by_path.call("ask") == 42


def test_as_a_module_it_works_too(start_host: Start) -> None:
    package = str(Path(__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {package!r}); import runpy; sys.argv = sys.argv[1:]; "
    code += "runpy.run_module('snakehouse.worker', run_name='__main__')"
    host = start_host(TOOLS, flags=("-c", code)).greet()
    assert host.call("plus", 1) == 2


def test_started_by_hand_it_explains_itself() -> None:
    import subprocess
    import sys

    from conftest import WORKER

    done = subprocess.run([sys.executable, str(WORKER)], capture_output=True, check=False)
    assert done.returncode == 78
    assert b"started by a Snakehouse host" in done.stderr
    assert done.stdout == b""


def test_a_host_that_dies_mid_answer_is_no_error(host: Host) -> None:
    host.start("echo", bytes(8 << 20))
    assert host.frame()[0] == _frames.KIND_DATA
    assert host.end()[0::2] == (0, "")


def test_the_golden_file_is_readable_by_both_sides() -> None:
    assert json.dumps(VECTORS)
    assert _msgpack.MAX_BYTES == _frames.MAX_BODY
