"""The reaper: parent of every worker process, and the reason none of them outlives its host.

The host starts one reaper, as ``python -I -S _reaper.py HOST_PID``, with a sequenced-packet socket
as standard input. The reaper starts workers on request, reports how they ended, kills whatever a
dead worker leaves behind, and, when the host's end of the socket closes, kills and reaps everything
below itself before it exits. It imports the standard library only and runs no user code.

Owned here: the worker processes and every process that is re-parented to this one. Failures travel
to the host as messages; a reaper that cannot do its work says so and exits. Waiting is one ``poll``
on the socket, on the pipe that the signals write to and on starting workers; nothing is polled by
time, and nothing else blocks.

Why one round of kills after each death is enough: whatever is below this process and alive is
killed, or below a process that is killed. When that one dies, its children become this process's
(or a worker's, for which the same holds), and its death wakes the loop. A process that may not be
killed (it changed its user) is named on standard error, and its end is waited for.

Messages are JSON objects, one to a packet, descriptors beside them:

    host    {"op": "spawn", "id", "argv", "env", "cwd"}    + control, page, lifeline, stdout, stderr
            ... "limits": {"CPU": [soft, hard]}, "groups": [file]    where the worker is limited
    reaper  {"event": "ready", "version", "pid"}
            {"event": "failed", "code", "message"}          the reaper cannot work here
            {"event": "spawned", "id", "pid", "start"}      + pidfd
            {"event": "refused", "id", "errno", "message"}
            {"event": "exited", "id", "pid", "code", "signal", "cpu_ms"}
            {"event": "ended", "pids"}                      left behind by dead workers, killed
"""

from __future__ import annotations

import array
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence
    from types import FrameType
    from typing import Any, NoReturn

    Prctl = Callable[[int, int], None]
    Message = dict[str, Any]

VERSION = 1
MAX_MESSAGE = 128 * 1024
MAX_LISTED = 64

# Where a worker finds its descriptors.
CONTROL, STDOUT, STDERR, PAGE, LIFELINE = 0, 1, 2, 3, 4
PLACES = (CONTROL, PAGE, LIFELINE, STDOUT, STDERR)
FIRST_FREE = 5
CLOEXEC_READ = os.O_RDONLY | os.O_CLOEXEC
SCRATCH = 64

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class HostGone(Exception):
    """The host's end of the socket is closed."""


def load_prctl() -> Prctl:
    """``prctl(2)``, or an ImportError where this Python was built without ctypes."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def prctl(option: int, value: int) -> None:
        if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    return prctl


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


class Starting:
    """A worker between its fork and its exec."""

    def __init__(self, spawn_id: Any, pid: int, report: int) -> None:
        self.spawn_id = spawn_id
        self.pid = pid
        # Ends when the worker's program runs (it is close-on-exec) or the child gave up.
        self.report = report
        self.failure = b""


class Reaper:
    """One loop that owns all state; every method runs on the only thread."""

    def __init__(self, control: socket.socket, prctl: Prctl) -> None:
        self.control = control
        self.prctl = prctl
        self.pid = os.getpid()
        # What the host calls each worker, by pid.
        self.workers: dict[int, Any] = {}
        self.starting: dict[int, Starting] = {}
        # Children that were sent SIGKILL and are not reaped yet, and those that cannot be sent it.
        self.killed: set[int] = set()
        self.refusing: set[int] = set()
        self.told_to_end = False
        self.poll = select.poll()
        self.wake = -1
        # Kept open: it must be readable when no descriptor is left in the system.
        try:
            self.children_fd = os.open(f"/proc/self/task/{self.pid}/children", CLOEXEC_READ)
        except OSError:
            self.children_fd = -1

    # Talking with the host.

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """One packet, with copies of these descriptors."""
        data = json.dumps(message, separators=(",", ":")).encode()
        ancillary: list[tuple[int, int, array.array[int]]] = []
        if fds:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        try:
            self.control.sendmsg([data], ancillary)
        except OSError as error:
            raise HostGone from error

    def receive(self) -> tuple[Message, list[int]]:
        """The next message and its descriptors, all of them close-on-exec."""
        space = socket.CMSG_SPACE(SCRATCH * array.array("i").itemsize)
        try:
            data, ancillary, flags, _ = self.control.recvmsg(
                MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise HostGone from error
        fds: array.array[int] = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        if not data:
            raise HostGone
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            data = b'{"op":"truncated"}'
        return json.loads(data), list(fds)

    # The loop.

    def run(self) -> None:
        """Serves the host until it is gone or asks for the end; leaves nothing behind."""
        self.wake, wake_write = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, ignore)
        signal.signal(signal.SIGTERM, self.on_term)
        self.poll.register(self.control, select.POLLIN)
        self.poll.register(self.wake, select.POLLIN)
        try:
            self.send({"event": "ready", "version": VERSION, "pid": self.pid})
            while not self.told_to_end:
                ready = {fd for fd, _ in self.poll.poll()}
                for start in [start for start in self.starting.values() if start.report in ready]:
                    self.follow(start)
                if self.wake in ready:
                    drain(self.wake)
                    self.reap()
                if self.control.fileno() in ready:
                    self.serve(*self.receive())
        except HostGone:
            pass
        finally:
            self.end_everything()

    def on_term(self, _signal: int, _frame: FrameType | None) -> None:
        """Asked to end."""
        self.told_to_end = True

    def serve(self, message: Message, fds: list[int]) -> None:
        """One request. Its descriptors are closed here in any case."""
        try:
            if message.get("op") == "spawn" and len(fds) == len(PLACES):
                self.spawn(message, fds)
            else:
                asked = f"request {message.get('op')!r} with {len(fds)} descriptors"
                text = f"{asked} is not understood"
                self.refuse(message.get("id"), errno.EINVAL, text)
        finally:
            for fd in fds:
                os.close(fd)

    def refuse(self, spawn_id: Any, code: int | None, message: str) -> None:
        """A worker that could not be started."""
        self.send({"event": "refused", "id": spawn_id, "errno": code, "message": message})

    # Starting.

    def spawn(self, message: Message, fds: list[int]) -> None:
        """Starts a worker. Whether that worked is known when its report ends."""
        try:
            report_read, report_write = os.pipe()
        except OSError as error:
            self.refuse(message["id"], error.errno, f"pipe: {error.strerror}")
            return
        try:
            pid = os.fork()
        except OSError as error:
            os.close(report_read)
            os.close(report_write)
            self.refuse(message["id"], error.errno, f"fork: {error.strerror}")
            return
        if pid == 0:
            self.become_worker(message, fds, report_write)
        os.close(report_write)
        os.set_blocking(report_read, False)
        self.starting[pid] = Starting(message["id"], pid, report_read)
        self.poll.register(report_read, select.POLLIN)

    def follow(self, start: Starting, *, is_dead: bool = False) -> None:
        """Reads what there is of a report; at its end says how the start went."""
        try:
            while piece := os.read(start.report, 4096):
                start.failure += piece
        except BlockingIOError:
            if not is_dead:
                return
        self.poll.unregister(start.report)
        os.close(start.report)
        del self.starting[start.pid]
        if start.failure:
            # It is about to exit, or has.
            os.waitpid(start.pid, 0)
            code, _, text = start.failure.decode(errors="replace").partition(" ")
            self.refuse(start.spawn_id, int(code), text)
            return
        # Not reaped before this loop sees it, so neither call can name another process.
        try:
            stat = stat_of(start.pid)
            pidfd = os.pidfd_open(start.pid)
        except OSError as error:
            # It is no worker, so it is killed with what is left behind.
            self.refuse(start.spawn_id, error.errno, f"pidfd: {error.strerror}")
            self.kill_children(keep=self.workers.keys() | self.starting.keys())
            return
        assert stat is not None
        self.workers[start.pid] = start.spawn_id
        try:
            answer = {
                "event": "spawned",
                "id": start.spawn_id,
                "pid": start.pid,
                "start": stat[1],
            }
            self.send(answer, [pidfd])
        finally:
            os.close(pidfd)

    def become_worker(self, message: Message, fds: list[int], report: int) -> NoReturn:
        """Between fork and exec. Never returns."""
        stage = "start"
        try:
            stage = "process group"
            os.setpgid(0, 0)
            stage = "death signal"
            self.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self.pid:
                os._exit(1)
            # Processes that the worker double-forks stay below it.
            self.prctl(PR_SET_CHILD_SUBREAPER, 1)
            stage = "descriptors"
            report = self.place(fds, report)
            stage = "lifeline"
            arm_lifeline()
            stage = "signals"
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            stage = "limits"
            set_limits(message)
            if message.get("cwd") is not None:
                stage = f"working directory {message['cwd']}"
                os.chdir(message["cwd"])
            stage = f"program {message['argv'][0]}"
            os.execve(message["argv"][0], message["argv"], message["env"])
        except OSError as error:
            os.write(report, f"{error.errno} {stage}: {error.strerror}".encode())
        except BaseException as error:
            os.write(report, f"{errno.EINVAL} {stage}: {error!r}".encode())
        finally:
            os._exit(127)

    def place(self, fds: list[int], report: int) -> int:
        """The worker's descriptors to their numbers, everything else closed."""
        lifted = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SCRATCH) for fd in fds]
        report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, SCRATCH)
        for fd, target in zip(lifted, PLACES, strict=True):
            os.dup2(fd, target)
        for name in os.listdir("/proc/self/fd"):
            fd = int(name)
            if fd >= FIRST_FREE and fd != report:
                try:
                    os.close(fd)
                except OSError:
                    pass
        return report

    # Ending.

    def reap(self) -> None:
        """Reports and reaps the dead; kills what they left below this process."""
        any_dead = False
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if dead is None:
                break
            any_dead = True
            pid = dead.si_pid
            start = self.starting.get(pid)
            if start is not None:
                self.follow(start, is_dead=True)
                if pid not in self.workers and start.failure:
                    continue
            spawn_id = self.workers.pop(pid, None)
            if spawn_id is not None:
                # The leader is a zombie: its pid, which names the group, is still its own.
                kill_group(pid)
            _, _, usage = os.wait4(pid, 0)
            self.killed.discard(pid)
            self.refusing.discard(pid)
            if spawn_id is not None:
                exited = dead.si_code == os.CLD_EXITED
                self.send(
                    {
                        "event": "exited",
                        "id": spawn_id,
                        "pid": pid,
                        "code": dead.si_status if exited else None,
                        "signal": None if exited else dead.si_status,
                        "cpu_ms": int((usage.ru_utime + usage.ru_stime) * 1000),
                    }
                )
        if any_dead:
            ended = self.kill_children(keep=self.workers.keys() | self.starting.keys())
            if ended:
                self.send({"event": "ended", "pids": ended[:MAX_LISTED]})

    def kill_children(self, keep: Container[int] = ()) -> list[int]:
        """SIGKILL to every child that is not kept and to all below it: those it was sent to.

        Children that have it already are left alone, with what is below them: it comes up here.
        """
        below = children_of_all() if self.children_fd < 0 else None
        children = below.get(self.pid, []) if below is not None else self.children()
        mine = {pid for pid in children if pid not in keep and pid not in self.killed}
        doomed = list(mine)
        ancestors = {self.pid, *mine}
        for pid in doomed:
            for child in children_of(pid) if below is None else below.get(pid, ()):
                if child not in ancestors:
                    ancestors.add(child)
                    doomed.append(child)
        sent: list[int] = []
        for pid in doomed:
            try:
                if pid in mine:
                    # Not reaped yet, so the pid is still the child's.
                    os.kill(pid, signal.SIGKILL)
                    self.killed.add(pid)
                elif not kill_descendant(pid, ancestors):
                    continue
            except OSError as error:
                self.say_refused(pid, error)
            else:
                sent.append(pid)
        return sent

    def children(self) -> list[int]:
        """This process's own children. The list cannot change but grow: nobody else reaps them."""
        os.lseek(self.children_fd, 0, os.SEEK_SET)
        data = b""
        while piece := os.read(self.children_fd, 1 << 16):
            data += piece
        return [int(word) for word in data.split()]

    def say_refused(self, pid: int, error: OSError) -> None:
        """Names a process that cannot be ended, once, where the host's standard error is."""
        if pid not in self.refusing:
            self.refusing.add(pid)
            print(
                f"snakehouse reaper: cannot end process {pid}: {error.strerror}",
                file=sys.stderr,
                flush=True,
            )

    def end_everything(self) -> None:
        """Kills and reaps until no child is left. Sleeps as long as there is nothing to kill."""
        for pid in self.workers:
            kill_group(pid)
        poll = select.poll()
        poll.register(self.wake, select.POLLIN)
        while True:
            drain(self.wake)
            try:
                while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                    self.killed.discard(pid)
                    self.refusing.discard(pid)
            except ChildProcessError:
                return
            self.kill_children()
            poll.poll()


def set_limits(message: Message) -> None:
    """Puts this process into its control groups, then under the limits of its own."""
    for door in message.get("groups", ()):
        fd = os.open(door, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)
    for name, (soft, hard) in message.get("limits", {}).items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, hard))


def arm_lifeline() -> None:
    """The kernel kills this process group when the host's end of the pipe closes."""
    fcntl.fcntl(LIFELINE, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(LIFELINE, fcntl.F_SETOWN, -os.getpid())
    flags = fcntl.fcntl(LIFELINE, fcntl.F_GETFL)
    fcntl.fcntl(LIFELINE, fcntl.F_SETFL, flags | os.O_ASYNC)
    poll = select.poll()
    poll.register(LIFELINE, select.POLLIN)
    if poll.poll(0):
        os._exit(1)


def ignore(_signal: int, _frame: FrameType | None) -> None:
    """The wakeup descriptor has heard it."""


def drain(fd: int) -> None:
    """Empties a pipe that does not block."""
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        pass


def main() -> int:
    """Takes the host's socket from standard input and serves it."""
    control = socket.socket(fileno=os.dup(0))
    host = int(sys.argv[1])
    try:
        prctl = load_prctl()
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    except (ImportError, OSError, AttributeError) as error:
        code = "ctypes_missing" if isinstance(error, ImportError) else "prctl_refused"
        message = {"event": "failed", "code": code, "message": str(error)}
        control.send(json.dumps(message).encode())
        return 1
    if os.getppid() != host:
        return 0
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.dup2(os.open("/dev/null", os.O_RDWR), 0)
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > STDERR and fd != control.fileno():
            try:
                os.close(fd)
            except OSError:
                pass
    Reaper(control, prctl).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
