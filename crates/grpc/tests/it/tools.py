"""Tools for programs elsewhere."""

import ctypes
import os
import time

from snakehouse import emit, host, incoming, session_state, tool


visits = 0


@tool
def echo(value):
    return value


@tool
def add(a: int, b: int = 1) -> int:
    """Adds two numbers."""
    return a + b


@tool
def pid():
    return os.getpid()


@tool
def fail(message):
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise ValueError(message) from error


@tool
def segfault():
    ctypes.string_at(0)


@tool
def visit():
    """How often this worker was visited."""
    global visits
    visits += 1
    return visits


@tool
def append(path, text, seconds=0.0, rest=None):
    """Leaves a trace that it ran, then takes its time."""
    with open(path, "a") as file:
        file.write(text + "\n")
    time.sleep(seconds)
    return text


@tool
def count(n: int):
    for number in range(n):
        yield number
    return "counted"


@tool
def double():
    total = 0
    for item in incoming():
        total += item
        yield 2 * item
    return total


@tool
def stuck(path):
    """Yields once, then leaves a trace when it is closed."""
    try:
        yield 1
        time.sleep(600)
    finally:
        with open(path, "a") as file:
            file.write("closed\n")


@tool
def zeros(count):
    return bytes(count)


@tool
def remember():
    """How often its session was here."""
    state = session_state()
    state["visits"] = state.get("visits", 0) + 1
    return state["visits"]


@tool
def ask(value):
    return host.echo(value)


@tool
def tell(step):
    emit("told", step)
    return step
