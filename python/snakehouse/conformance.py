"""Check that a program is a worker: ``python -m snakehouse.conformance -- PROGRAM [ARGS...]``.

``--tools FILE`` instead of a program checks the Python worker of this interpreter with these tools.
The program is started anew for each check, as a host starts it, and must offer the tools of
``docs/worker-protocol.md`` (chapter "Conformance"). One line per check on standard output; with
``--json`` one JSON document per line. Exit status 0 if every check passed or did not apply, 1 if
one failed, 2 if the command line is wrong. ``--bound SECONDS`` says how long a step may take
(default 10); ``--only NAME``, which may be repeated, runs these checks alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from snakehouse._conformance_cases import CASES, NotApplicable
from snakehouse._peer import CheckFailed, Peer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

__all__ = ["TOOLS", "Outcome", "check", "main"]

#: The module with the tools that the checks need, for Python workers.
TOOLS = "snakehouse._conformance_tools"


class Outcome:
    """What came of one check.

    ``name`` is stable; ``result`` is ``passed``, ``failed`` or ``not applicable``; ``detail`` says
    what was wrong, or why the check does not apply.
    """

    __slots__ = ("detail", "name", "result")

    def __init__(self, name: str, result: str, detail: str) -> None:
        self.name = name
        self.result = result
        self.detail = detail


def check(
    command: Sequence[str], *, bound: float = 10.0, only: Container[str] | None = None
) -> Iterator[Outcome]:
    """Run every check, or those named by ``only``, against a worker that this command starts.

    ``bound`` is the most seconds a single step may take.
    """
    for case in CASES:
        if only is None or case.__name__ in only:
            yield _run(case, command, bound)


def _run(case: Callable[[Peer], None], command: Sequence[str], bound: float) -> Outcome:
    name = case.__name__
    try:
        with Peer(command, bound) as peer:
            case(peer)
    except NotApplicable as reason:
        return Outcome(name, "not applicable", str(reason))
    except CheckFailed as failure:
        return Outcome(name, "failed", str(failure))
    except Exception as error:
        # What the worker sent did not even have the shape that the check looks into.
        return Outcome(name, "failed", f"{type(error).__name__}: {error}")
    return Outcome(name, "passed", "")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    parser = argparse.ArgumentParser(
        prog="snakehouse.conformance", description="Check that a program is a Snakehouse worker."
    )
    parser.add_argument("--json", action="store_true", help="one JSON document per line")
    parser.add_argument("--bound", type=float, default=10.0, help="seconds a step may take")
    names = [case.__name__ for case in CASES]
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help="run this check alone"
    )
    parser.add_argument("--tools", metavar="FILE", help="check the Python worker with these tools")
    parser.add_argument("command", nargs="*", help="the program and its arguments, behind --")
    options = parser.parse_args(arguments)
    if bool(options.tools) == bool(options.command):
        parser.error("name a program behind --, or Python tools with --tools")
    command = options.command
    if options.tools:
        worker = Path(__file__).with_name("worker.py")
        command = [sys.executable, str(worker), os.path.abspath(options.tools), TOOLS]
    counts = {"passed": 0, "failed": 0, "not applicable": 0}
    for outcome in check(command, bound=options.bound, only=options.only):
        counts[outcome.result] += 1
        if options.json:
            line = {"check": outcome.name, "result": outcome.result, "detail": outcome.detail}
            print(json.dumps(line), flush=True)
        else:
            colon = f": {outcome.detail}" if outcome.detail else ""
            print(f"{outcome.result:15}{outcome.name}{colon}", flush=True)
    if not options.json:
        print(", ".join(f"{count} {result}" for result, count in counts.items()), file=sys.stderr)
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
