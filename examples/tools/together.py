"""Many calls at once on one worker: each waits until all of them are here."""

import threading

from snakehouse import tool

everybody = threading.Barrier(8)


@tool
def meet() -> int:
    """The place in which this call arrived."""
    return everybody.wait()
