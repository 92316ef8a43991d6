"""What ``breakpoint()`` does in a worker, which has no terminal of its own.

A host that lends its standard input and standard error is named by its process id: they are opened
anew, so a terminal, a pipe and a file all do. Without one, ``breakpoint()`` fails the call and says
what to do; it never waits for input that cannot come.
"""

from __future__ import annotations

import os
import sys
from functools import partial

from snakehouse._errors import ToolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from pdb import Pdb

_VARIABLE = "SNAKEHOUSE_DEBUG"
# Whoever sets it wants something else.
_STANDARD = "PYTHONBREAKPOINT"

# One for all breakpoints: what was read ahead is in it.
_debugger: Pdb | None = None


def install(variables: MutableMapping[str, str]) -> None:
    """Have ``breakpoint()`` do that, and take the host's name out of the environment."""
    host = variables.pop(_VARIABLE, None)
    if _STANDARD not in variables:
        sys.breakpointhook = partial(_break, host)


def _break(host: str | None, *_args: object, **_keywords: object) -> None:
    """Raises ``ToolError`` if nobody can be asked."""
    global _debugger
    if _debugger is None:
        _debugger = _open(host)
    _debugger.set_trace(sys._getframe(1))  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _open(host: str | None) -> Pdb:
    if host is None:
        raise ToolError(
            "breakpoint() in a worker that nobody debugs",
            code="no_debugger",
            hint="use `snakehouse pool call --debug --tools FILE`, or call the function in a test",
        )
    try:
        # A terminal must not become that of this process.
        ends = [
            os.open(f"/proc/{host}/fd/{number}", flags | os.O_NOCTTY)
            for number, flags in ((0, os.O_RDONLY), (2, os.O_WRONLY | os.O_APPEND))
        ]
    except OSError as error:
        raise ToolError(
            f"breakpoint() cannot open the terminal of process {host}: {error.strerror}",
            code="no_debugger",
            hint="run `snakehouse pool call --debug` in a terminal",
        ) from error
    import pdb  # noqa: T100

    # Keyboard interrupts go to the host, which ends the call.
    return pdb.Pdb(stdin=os.fdopen(ends[0]), stdout=os.fdopen(ends[1], "w", 1), nosigint=True)
