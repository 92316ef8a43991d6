"""Processes by the kernel's own lists, and ending those that are below one.

A pid names a process only while somebody holds it: a child that is not reaped, or one with a
descriptor. Nothing here sends a signal to a pid that is not held.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container


def stat_of(pid: int | str) -> tuple[int, int] | None:
    """``(parent, start time)`` of a process, or None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The command may contain anything; what follows its last parenthesis does not.
    fields = text[text.rfind(b")") + 2 :].split()
    return int(fields[1]), int(fields[19])


def children_of(pid: int) -> list[int]:
    """The children of a process, by the kernel's own list."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(map(int, file.read().split()))
    except OSError:
        # It is gone, and its children are somebody else's now.
        pass
    return found


def children_of_all() -> dict[int, list[int]]:
    """Every process's children, for kernels without that list: a look at every process."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = stat_of(name)
            if stat is not None:
                found.setdefault(stat[0], []).append(int(name))
    return found


def kill_descendant(pid: int, ancestors: Container[int]) -> bool:
    """SIGKILL to the process with this pid if one of these is its parent; whether it was sent.

    A later owner of the pid is never hit: the descriptor is taken before the parent is looked at.
    Where no descriptor can be had the process is left for the round after its parent's death.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        stat = stat_of(pid)
        if stat is None or stat[0] not in ancestors:
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)


def kill_group(pid: int) -> None:
    """SIGKILL to a process group whose leader is not reaped yet."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass
