"""What goes wrong with calls."""

import os
import signal
import time

from snakehouse import Cancelled, ToolError, tool


@tool
def fails() -> None:
    raise ToolError("the disk is full", code="disk_full", hint="free some space")


@tool
def forever() -> None:
    """Stops where it is when the caller gives up."""
    try:
        while True:
            time.sleep(60)
    except Cancelled:
        print("nobody wants this any more")
        raise


@tool
def crashes() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@tool
def crashes_once(marker: str) -> str:
    """Takes its worker down the first time."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "done"
    os.abort()


@tool
def works() -> str:
    return "still here"
