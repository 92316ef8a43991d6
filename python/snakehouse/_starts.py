"""A worker that was asked for and does not run yet, as the reaper keeps it."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from snakehouse._nursery import Zygote
    from snakehouse._packets import Message

# Zygotes that may die under a start before it goes without one.
MAX_TRIES = 3


class Start:
    """One request, with its descriptors, until it is answered."""

    def __init__(self, message: Message, fds: list[int]) -> None:
        self.message = message
        # Kept until the answer: a zygote that dies takes its copies with it.
        self.fds = fds
        # None until its process is known.
        self.pid: int | None = None
        # Ends when the worker's program runs (it is close-on-exec), when a forked one said that it
        # is up, or when the child gave up.
        self.report = -1
        self.heard = b""
        # Who forks it; None for a program that is executed.
        self.zygote: Zygote | None = None
        self.tries = 0
        # Why no zygote forks it, if one was asked for.
        self.why: str | None = None
        # The host does not wait for it any more.
        self.is_given_up = False

    def hear(self) -> bool:
        """Reads what there is of the report; whether that was its end."""
        try:
            while piece := os.read(self.report, 4096):
                self.heard += piece
        except BlockingIOError:
            return False
        return True

    def understand(self) -> tuple[bool, bytes]:
        """What a forked one said: whether it is up, and else why it cannot be. Learns its pid."""
        is_up, failure = False, b""
        *lines, rest = self.heard.split(b"\n")
        for line in lines:
            if line.startswith(b"pid "):
                self.pid = int(line[4:])
            elif line == b"up":
                is_up = True
            else:
                failure = failure or line
        return is_up, failure or rest

    def close_descriptors(self) -> None:
        """Those of the worker, once they are its own or nobody's."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []
