"""Tools for a worker that runs several calls at once, each on a thread."""

import os
import threading
import time

from snakehouse import incoming, tool

meeting = threading.Barrier(4)
gates = {}
lock = threading.Lock()


def gate(name):
    with lock:
        return gates.setdefault(name, threading.Event())


@tool
def meet():
    """Comes back when four are here at once."""
    meeting.wait(30)
    return threading.get_ident()


@tool
def hold(name):
    """Comes back when it is released."""
    # A thread is interrupted between two steps of Python, not in the middle of a wait.
    while not gate(name).wait(0.01):
        pass
    return name


@tool
def release(name):
    gate(name).set()


@tool
def work(number, how, seconds):
    """Gives the number back, later."""
    until = time.monotonic() + seconds
    if how == "spin":
        while time.monotonic() < until:
            pass
    elif how == "sleep":
        time.sleep(seconds)
    elif how == "many":
        while time.monotonic() < until:
            time.sleep(0.0001)
    return number


@tool
def stubborn(path):
    """Does not end when it is cancelled, once it has left its trace."""
    while True:
        try:
            with open(path, "a") as file:
                file.write("running\n")
            time.sleep(600)
        except BaseException:
            pass


@tool
def count(most):
    for number in range(most):
        yield number


@tool
def echo():
    for item in incoming():
        yield item


@tool
def append(path, text):
    with open(path, "a") as file:
        file.write(text + "\n")
    time.sleep(600)


@tool
def leave_hard(status):
    os._exit(status)


@tool
def pid():
    return os.getpid()
