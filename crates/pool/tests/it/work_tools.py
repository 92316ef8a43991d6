"""Tools whose calls take a while in every way a call can, and tools that stream."""

import ctypes
import os
import time

from snakehouse import tool

# Calls into it do not let go of the interpreter.
held = ctypes.PyDLL(None)
read_end, write_end = os.pipe()


@tool
def work(number, how, seconds):
    """Gives the number back, later."""
    if how == "spin":
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
    elif how == "sleep":
        time.sleep(seconds)
    elif how == "many":
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.00005)
    return number


def leave_a_trace(path):
    if path:
        with open(path, "a") as file:
            file.write("running\n")


@tool
def spin(path=""):
    leave_a_trace(path)
    while True:
        pass


@tool
def sleep(path=""):
    leave_a_trace(path)
    time.sleep(600)


@tool
def read(path=""):
    """Nobody ever writes."""
    leave_a_trace(path)
    os.read(read_end, 1)


@tool
def hold(seconds):
    """Native code that keeps the interpreter to itself."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        held.usleep(int(min(left, 0.5) * 1e6))
    return "held"


@tool
def hold_at_once(seconds):
    """The same in one call, which a signal does not shorten."""
    began = time.monotonic()
    sum(range(1_000_000))
    sum(range(int(seconds / (time.monotonic() - began) * 1_000_000)))
    return "held"


@tool
def pid():
    return os.getpid()
