"""Tools that end their worker, each in a way of its own."""

import mmap
import os
import signal
import tempfile

from snakehouse import tool


@tool
def abort():
    os.abort()


@tool
def bus_error():
    """Touches a page of a file that is not there any more."""
    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        mapping = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        file.truncate(0)
        return mapping[0]


@tool
def raise_signal(number):
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


@tool
def burn(ignored=None):
    if ignored is not None:
        signal.signal(ignored, signal.SIG_IGN)
    while True:
        pass


@tool
def hold(mib):
    """Uses memory and gives back how much."""
    return len(bytearray(os.urandom(1024) * 1024 * mib))


@tool
def open_many(count):
    files = []
    try:
        for _ in range(count):
            files.append(open(os.devnull))
    finally:
        for file in files:
            file.close()
    return len(files)


@tool
def fork_many(count):
    """Starts processes that wait for its end, and gives back how many it could."""
    read, write = os.pipe()
    started = []
    try:
        for _ in range(count):
            if (pid := os.fork()) == 0:
                os.close(write)
                os.read(read, 1)
                os._exit(0)
            started.append(pid)
    finally:
        os.close(write)
        for pid in started:
            os.waitpid(pid, 0)
    return len(started)


@tool
def own_pid():
    return os.getpid()
