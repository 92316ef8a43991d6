"""What `snakehouse bench startup` and `snakehouse bench recovery` call."""

import gc
import os
import subprocess
import time

from snakehouse import tool


@tool
def collect() -> int:
    """A full collection, so that memory is compared without garbage; gives the pid."""
    gc.collect()
    return os.getpid()


@tool
def echo(value: object) -> object:
    """Gives the argument back."""
    return value


@tool
def hold(path: str) -> None:
    """Starts a process that leaves its session, says its pid in a file, and does not end."""
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)  # noqa: S607
    with open(path + ".new", "w") as file:
        file.write(str(child.pid))
    os.rename(path + ".new", path)
    while True:
        time.sleep(600)
