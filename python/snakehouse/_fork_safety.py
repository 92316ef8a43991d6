"""Whether a process that has imported something may be forked, and who is to blame if not.

A fork copies one thread. Locks that others hold stay locked in the child for ever, device contexts
do not survive it, and a socket or an event queue would be one for all children. So threads, child
processes, open devices and descriptors that cannot be shared are looked for after each import, and
the import after which one appeared first is named.

A file that is open for reading is no reason: each child opens it anew, at the same position.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading

# Descriptors below this number are a worker's own; what an import opens gets others.
FIRST = 16
# Devices without a state.
HARMLESS = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}
MAX_NAMED = 4


def reserve(first: int) -> None:
    """Occupies the numbers from ``first`` on that workers are given."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in range(first, FIRST):
        if fd != null:
            os.dup2(null, fd, inheritable=False)
    if null >= FIRST:
        os.close(null)


class Witness:
    """What one process had at first, and which import each later thing came with."""

    def __init__(self) -> None:
        self.blame: dict[str, str] = {}
        # Files that each child opens anew.
        self.files: list[int] = []
        self.before: set[str] = set()

    def begin(self) -> None:
        """What is there now is nobody's fault."""
        self.before = set(self._found())

    def look(self, name: str) -> None:
        """Notes what an import has brought."""
        for what in self._found():
            self.blame.setdefault(what, name)

    def why_not(self) -> str | None:
        """Why this process may not be forked: who brought what, in a sentence."""
        found = [what for what in self._found() if what not in self.before]
        if not found:
            return None
        named: dict[str, list[str]] = {}
        for what in found:
            named.setdefault(self.blame.get(what, "the worker package"), []).append(what)
        parts: list[str] = []
        for name, things in named.items():
            shown = things[:MAX_NAMED]
            if len(things) > len(shown):
                shown.append(f"{len(things) - len(shown)} more")
            parts.append(f"{name} brought {', '.join(shown)}")
        return "; ".join(parts)

    def reopen(self) -> None:
        """In a child: gives each file a position of its own. Raises ``OSError``."""
        for fd in self.files:
            access = fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_NONBLOCK | os.O_NOATIME)
            own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | access)
            os.lseek(own, os.lseek(fd, 0, os.SEEK_CUR), os.SEEK_SET)
            os.dup2(own, fd, inheritable=os.get_inheritable(fd))
            os.close(own)

    def _found(self) -> list[str]:
        """Everything that forbids a fork, in words that are the same as long as it is there."""
        return [*self._threads(), *self._children(), *self._descriptors(), *self._mappings()]

    def _threads(self) -> list[str]:
        own = os.getpid()
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        found: list[str] = []
        for task in map(int, os.listdir("/proc/self/task")):
            if task == own:
                continue
            name = names.get(task)
            if name is None:
                try:
                    with open(f"/proc/self/task/{task}/comm") as file:
                        name = file.read().strip()
                except OSError:
                    # It ended meanwhile.
                    continue
            found.append(f"the thread {name!r} ({task})")
        return found

    def _children(self) -> list[str]:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                return [f"the process {pid}" for pid in file.read().split()]
        except OSError:
            # The kernel keeps no such list.
            return []

    def _descriptors(self) -> list[str]:
        found: list[str] = []
        self.files = []
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd < FIRST:
                continue
            try:
                target = os.readlink(f"/proc/self/fd/{fd}")
                mode = os.fstat(fd).st_mode
                access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
            except OSError:
                # The one that the list was read through.
                continue
            if stat.S_ISREG(mode) and access == os.O_RDONLY and _opens(fd):
                self.files.append(fd)
            elif target not in HARMLESS:
                kind = "the device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "the open"
                found.append(f"{kind} {target} (descriptor {fd})")
        return found

    def _mappings(self) -> list[str]:
        with open("/proc/self/maps") as file:
            paths = {line.split(maxsplit=5)[5].rstrip() for line in file if " /dev/" in line}
        kept = {path for path in paths if not path.startswith("/dev/shm/")} - HARMLESS  # noqa: S108
        return [f"the mapped device {path}" for path in sorted(kept)]


def _opens(fd: int) -> bool:
    """Whether it can be opened anew."""
    try:
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
