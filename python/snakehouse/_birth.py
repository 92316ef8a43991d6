"""What happens in a new process before the program or the code it is for.

Used between fork and exec by the reaper, and after the fork by a zygote: a worker is tied down in
the same way whoever forked it. Everything here holds for any program, since it survives exec.

How far it got is told through a pipe, the *report*. Whoever waits for it knows that no worker comes
of it when it ends without the words that say so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Any, NoReturn

    Prctl = Callable[[int, int], None]

# Where a worker finds its descriptors, in the order in which they travel. More have the numbers
# after these.
CONTROL, STDOUT, STDERR, PAGE, LIFELINE = 0, 1, 2, 3, 4
PLACES = (CONTROL, PAGE, LIFELINE, STDOUT, STDERR)
FIRST_FREE = 5
# Above every number that a worker is given, and so above what is about to be overwritten.
SCRATCH = 64

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def load_prctl() -> Prctl:
    """``prctl(2)``, or an ImportError where this Python was built without ctypes."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def prctl(option: int, value: int) -> None:
        if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    return prctl


class Birth:
    """The steps of one new process; ``stage`` names the one that is being tried."""

    def __init__(self, prctl: Prctl, report: int) -> None:
        self.prctl = prctl
        self.report = report
        self.stage = "start"

    def own_group(self) -> None:
        """A process group of its own."""
        self.stage = "process group"
        os.setpgid(0, 0)

    def die_with(self, parent: int) -> None:
        """SIGKILL when the parent ends; at once if it has."""
        self.stage = "death signal"
        self.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    def adopt(self) -> None:
        """Processes that this one double-forks stay below it."""
        self.stage = "subreaper"
        self.prctl(PR_SET_CHILD_SUBREAPER, 1)

    def place(
        self, fds: Sequence[int], places: Sequence[int] = PLACES, keep: Collection[int] = ()
    ) -> None:
        """Descriptors to their numbers; all others are closed, except the report and ``keep``.

        None of ``keep`` may be one of the places.
        """
        self.stage = "descriptors"
        lifted = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SCRATCH) for fd in fds]
        self.report = fcntl.fcntl(self.report, fcntl.F_DUPFD_CLOEXEC, SCRATCH)
        targets = [*places, *range(FIRST_FREE, FIRST_FREE + len(fds) - len(places))]
        for fd, target in zip(lifted, targets, strict=True):
            os.dup2(fd, target)
        close_all_but({*targets, self.report, *keep})

    def tie_to_host(self) -> None:
        """The kernel kills this process group when the host's end of the lifeline closes."""
        self.stage = "lifeline"
        fcntl.fcntl(LIFELINE, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(LIFELINE, fcntl.F_SETOWN, -os.getpid())
        flags = fcntl.fcntl(LIFELINE, fcntl.F_GETFL)
        fcntl.fcntl(LIFELINE, fcntl.F_SETFL, flags | os.O_ASYNC)
        poll = select.poll()
        poll.register(LIFELINE, select.POLLIN)
        if poll.poll(0):
            os._exit(1)

    def limit(self, message: Mapping[str, Any]) -> None:
        """Its control groups, then the limits of its own."""
        self.stage = "limits"
        doors: list[str] = message.get("groups") or []
        limits: dict[str, tuple[int, int]] = message.get("limits") or {}
        for door in doors:
            fd = os.open(door, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
        for name, (soft, hard) in limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, hard))

    def enter(self, directory: str | None) -> None:
        """The working directory."""
        if directory is not None:
            self.stage = f"working directory {directory}"
            os.chdir(directory)

    def become(self, argv: Sequence[str], env: Mapping[str, str]) -> NoReturn:
        """The program, with every signal as it is when nobody has touched it."""
        self.stage = "signals"
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        self.stage = f"program {argv[0]}"
        os.execve(argv[0], list(argv), dict(env))

    def fail(self, error: BaseException) -> None:
        """Tells the report which step failed, and why."""
        if isinstance(error, OSError):
            text = f"{error.errno} {self.stage}: {error.strerror}"
        else:
            text = f"{errno.EINVAL} {self.stage}: {error!r}"
        os.write(self.report, text.encode())


def close_all_but(keep: Collection[int]) -> None:
    """Closes every other descriptor of this process."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:
                # The one that the list was read through.
                pass


def tie_down(birth: Birth, message: Mapping[str, Any]) -> None:
    """The last steps before a worker's program or code: limits, then directory."""
    birth.limit(message)
    birth.enter(message.get("cwd"))
