"""The checks of workers: good workers pass them, and workers with one fault each do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import BOUND, WORKER
from snakehouse import conformance

HERE = Path(__file__).parent
TOOLS = conformance.TOOLS
OTHER = HERE / "faulty_worker.py"


@pytest.mark.parametrize("flags", [(), ("-S",)], ids=["site", "bare"])
def test_our_worker_passes_every_check(flags: tuple[str, ...]) -> None:
    command = [sys.executable, *flags, str(WORKER), TOOLS]
    outcomes = list(conformance.check(command, bound=BOUND))
    assert len(outcomes) > 25
    assert [(one.name, one.detail) for one in outcomes if one.result != "passed"] == []


def test_a_worker_written_from_the_page_alone_passes() -> None:
    outcomes = conformance.check([sys.executable, str(OTHER), "none"], bound=BOUND)
    results = {one.name: (one.result, one.detail) for one in outcomes}
    assert {name: why for name, why in results.items() if why[0] == "failed"} == {}
    assert results["a_stream_keeps_to_its_credit"][0] == "not applicable"


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("answers-twice", "calls_sent_together_are_answered_once_each"),
        ("loses-tuples", "every_value_comes_back_equal"),
        ("deaf", "a_running_call_can_be_cancelled"),
        ("lenient", "an_unknown_kind_ends_the_connection"),
        ("silent", "what_was_started_is_published"),
        ("untyped", "an_unknown_tool_is_an_error_of_its_call"),
    ],
)
def test_a_fault_is_found(fault: str, name: str) -> None:
    command = [sys.executable, str(OTHER), fault]
    (outcome,) = conformance.check(command, bound=2.0, only={name})
    assert outcome.result == "failed"
    assert outcome.detail


def test_the_command_says_it_with_its_exit_status() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "snakehouse.conformance", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=HERE.parent,
            timeout=BOUND,
        )

    name = "the_hello_is_complete"
    broken = run("--only", name, "--", "/bin/false")
    assert broken.returncode == 1
    assert broken.stdout.startswith(f"failed         {name}: it closed the connection")
    sound = run("--json", "--only", name, "--", sys.executable, str(WORKER), str(TOOLS))
    assert sound.returncode == 0
    assert sound.stdout == f'{{"check": "{name}", "result": "passed", "detail": ""}}\n'
    assert run("--only", "no_such_check", "--", "/bin/true").returncode == 2
    assert run().returncode == 2
