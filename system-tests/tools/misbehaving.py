"""Tools that do what tools should not do, for the whole-system tests."""

import ctypes
import os
import subprocess
import sys
import threading

from snakehouse import session_state, tool


@tool
def echo(value: object) -> object:
    """Return the value."""
    return value


@tool
def remember(value: object) -> object:
    """Return what the session's calls have given, this one's value included."""
    values = session_state().setdefault("values", [])
    values.append(value)
    return values


@tool
def escape() -> int:
    """Start a process in a session of its own that outlives this call, and return its pid."""
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    child = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)
    return child.pid


@tool
def churn(rounds: int) -> int:
    """Work for a while: compute, and start short processes."""
    total = 0
    for number in range(rounds):
        total += sum(range(20_000))
        if number % 8 == 0:
            subprocess.run(["true"], check=True)
    return total


@tool
def raises() -> None:
    """Raise."""
    raise ValueError("this tool always raises")


@tool
def exits() -> None:
    """End the worker."""
    os._exit(3)


@tool
def segfaults() -> None:
    """Crash the worker."""
    ctypes.string_at(0)


@tool
def prints() -> str:
    """Write to stdout, which must not disturb the frames."""
    print("x" * 10_000)
    sys.stdout.flush()
    return "printed"


@tool
def for_ever() -> None:
    """Never return."""
    threading.Event().wait()


@tool
def unspeakable() -> object:
    """Return what no wire type stands for."""
    return object()
