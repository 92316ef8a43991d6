"""The reaper: parent of every worker process, and the reason none of them outlives its host.

The host starts one reaper, as ``python -I -S _reaper.py HOST_PID``, with a sequenced-packet socket
as standard input. The reaper starts workers on request, reports how they ended, kills whatever a
dead worker leaves behind, and, when the host's end of the socket closes, kills and reaps everything
below itself before it exits. It imports the standard library only and runs no user code.

Owned here: the worker processes, the zygotes that fork some of them (``_nursery``) and every
process that is re-parented to this one. Failures travel to the host as messages; a reaper that
cannot do its work says so and exits. Waiting is one ``poll`` on the socket, on the pipe that the
signals write to, on zygotes and on starting workers; nothing is polled by time, and nothing else
blocks.

Why one round of kills after each death is enough: whatever is below this process and alive is
killed, or below a process that is killed. When that one dies, its children become this process's
(or a worker's, for which the same holds), and its death wakes the loop. A process that may not be
killed (it changed its user) is named on standard error, and its end is waited for.

A worker that a zygote forks becomes this process's child before it is known to be up. Its pid is
written to its report before that, so a look at all reports tells it from what must be ended.

Messages are JSON objects, one to a packet, descriptors beside them:

    host    {"op": "spawn", "id", "argv", "env", "cwd", "limits", "groups", "zygote"}
                + control, page, lifeline, stdout, stderr; more get the numbers from 5 on
            {"op": "give_up", "id"}         nobody waits for it: end what holds it up
    reaper  {"event": "ready", "version", "pid"}
            {"event": "failed", "code", "message"}          the reaper cannot work here
            {"event": "taken", "id"}                        a request is being worked on
            {"event": "spawned", "id", "pid", "start", "zygote", "why"}     + pidfd
            {"event": "refused", "id", "errno", "message"}
            {"event": "exited", "id", "pid", "code", "signal", "cpu_ms"}
            {"event": "ended", "pids"}                      left behind by dead workers, killed
            {"event": "zygote", "pid", "preload"}           has imported, and forks from now on
            {"event": "zygote_exited", "pid", "code", "signal"}
            {"event": "unfit", "preload", "why"}            no zygote can fork these

``zygote`` is null for a program that is executed; else ``argv`` and ``preload`` are the command of
the zygote, and ``args`` is for the worker. ``argv`` beside it is what to execute if it must be.
``why`` says why it had to be. ``limits`` are ``{"CPU": [soft, hard]}``, ``groups`` the files
through which the worker enters its control groups.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import sys

if "snakehouse" not in sys.modules:
    # As a program: the modules beside it are imported without what the package itself imports.
    _package = type(sys)("snakehouse")
    _package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules["snakehouse"] = _package

from snakehouse._birth import (
    PLACES,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_PDEATHSIG,
    STDERR,
    Birth,
    close_all_but,
    load_prctl,
    tie_down,
)
from snakehouse._nursery import Nursery, key_of
from snakehouse._packets import HangUp, receive, send
from snakehouse._processes import (
    children_of,
    children_of_all,
    kill_descendant,
    kill_group,
    stat_of,
)
from snakehouse._starts import Start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, NoReturn

    from snakehouse._birth import Prctl
    from snakehouse._nursery import Key
    from snakehouse._packets import Message

VERSION = 2
MAX_LISTED = 64
CLOEXEC_READ = os.O_RDONLY | os.O_CLOEXEC


class Worker:
    """A process that was reported as a worker."""

    def __init__(self, spawn_id: Any, key: Key | None) -> None:
        self.spawn_id = spawn_id
        # Which zygote could fork the next one like it.
        self.key = key


class Reaper:
    """One loop that owns all state; every method runs on the only thread."""

    def __init__(self, control: socket.socket, prctl: Prctl) -> None:
        self.control = control
        self.prctl = prctl
        self.pid = os.getpid()
        self.workers: dict[int, Worker] = {}
        # All that are asked for and not answered, and those of them whose report is open.
        self.starts: dict[Any, Start] = {}
        self.reports: dict[int, Start] = {}
        # Children that were sent SIGKILL and are not reaped yet, and those that cannot be sent it.
        self.killed: set[int] = set()
        self.refusing: set[int] = set()
        self.told_to_end = False
        self.poll = select.poll()
        self.wake = -1
        self.nursery = Nursery(self)
        # Kept open: it must be readable when no descriptor is left in the system.
        try:
            self.children_fd = os.open(f"/proc/self/task/{self.pid}/children", CLOEXEC_READ)
        except OSError:
            self.children_fd = -1

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
            self.tell({"event": "ready", "version": VERSION, "pid": self.pid})
            while not self.told_to_end:
                ready = {fd for fd, _ in self.poll.poll()}
                for fd in ready.intersection(self.reports):
                    if fd in self.reports:
                        self.follow(self.reports[fd])
                self.nursery.hear(ready)
                if self.wake in ready:
                    drain(self.wake)
                    self.reap()
                if self.control.fileno() in ready:
                    self.serve(*receive(self.control))
        except HangUp:
            pass
        finally:
            self.end_everything()

    def on_term(self, _signal: int, _frame: FrameType | None) -> None:
        """Asked to end."""
        self.told_to_end = True

    def tell(self, message: Message, *fds: int) -> None:
        """Says something to the host."""
        send(self.control, message, fds)

    def serve(self, message: Message, fds: list[int]) -> None:
        """One request."""
        op, spawn_id = message.get("op"), message.get("id")
        if op == "spawn" and len(fds) >= len(PLACES):
            start = self.starts[spawn_id] = Start(message, fds)
            self.tell({"event": "taken", "id": spawn_id})
            self.begin(start)
            return
        for fd in fds:
            os.close(fd)
        if op == "give_up":
            # It may have been answered meanwhile.
            if spawn_id in self.starts:
                self.give_up(self.starts[spawn_id])
        else:
            text = f"request {op!r} with {len(fds)} descriptors is not understood"
            answer = {"event": "refused", "id": spawn_id, "errno": errno.EINVAL, "message": text}
            self.tell(answer)

    # Starting.

    def begin(self, start: Start) -> None:
        """Has a worker forked by a zygote, or forks it to execute its program."""
        if not self.nursery.take(start):
            self.spawn(start)

    def open_report(self, start: Start) -> int:
        """Opens a start's report and watches it; the end to write to. Raises ``OSError``."""
        start.report, theirs = os.pipe()
        start.heard = b""
        os.set_blocking(start.report, False)
        self.reports[start.report] = start
        self.poll.register(start.report, select.POLLIN)
        return theirs

    def close_report(self, start: Start) -> None:
        """Stops watching it."""
        if start.report >= 0:
            self.poll.unregister(start.report)
            del self.reports[start.report]
            os.close(start.report)
            start.report = -1

    def spawn(self, start: Start) -> None:
        """Starts a worker's program. Whether that worked is known when its report ends."""
        try:
            report = self.open_report(start)
        except OSError as error:
            self.refuse(start, error.errno, f"pipe: {error.strerror}")
            return
        try:
            pid = os.fork()
        except OSError as error:
            os.close(report)
            self.refuse(start, error.errno, f"fork: {error.strerror}")
            return
        if pid == 0:
            self.become_worker(start, report)
        os.close(report)
        start.pid = pid
        start.close_descriptors()

    def become_worker(self, start: Start, report: int) -> NoReturn:
        """Between fork and exec. Never returns."""
        birth = Birth(self.prctl, report)
        message = start.message
        try:
            birth.own_group()
            birth.die_with(self.pid)
            birth.adopt()
            birth.place(start.fds)
            birth.tie_to_host()
            tie_down(birth, message)
            birth.become(message["argv"], message["env"])
        except BaseException as error:
            birth.fail(error)
        finally:
            os._exit(127)

    def follow(self, start: Start, *, is_dead: bool = False) -> None:
        """Reads what there is of a report, and says how the start went if that is known."""
        is_over = start.hear() or is_dead
        if start.zygote is None:
            if is_over:
                if start.heard:
                    # It is about to exit, or has.
                    os.waitpid(start.pid or 0, 0)
                    self.refuse_as_told(start, start.heard)
                else:
                    self.welcome(start)
            return
        is_up, failure = start.understand()
        if is_up or is_over or start.pid is not None:
            self.nursery.forked(start)
        if is_up:
            self.welcome(start)
        elif is_over and failure:
            self.refuse_as_told(start, failure)
        elif is_over:
            # Its zygote died, or it did before it was a worker.
            start.zygote = start.pid = None
            self.close_report(start)
            if start.is_given_up:
                self.refuse(start, errno.ETIMEDOUT, "it was given up")
            else:
                self.begin(start)

    def refuse_as_told(self, start: Start, failure: bytes) -> None:
        """A worker that said which step failed."""
        code, _, text = failure.decode(errors="replace").partition(" ")
        self.refuse(start, int(code), text)

    def refuse(self, start: Start, code: int | None, message: str) -> None:
        """A worker that could not be started."""
        self.forget(start)
        answer = {"event": "refused", "id": start.message["id"], "errno": code, "message": message}
        self.tell(answer)

    def forget(self, start: Start) -> None:
        """It is answered."""
        self.close_report(start)
        start.close_descriptors()
        self.starts.pop(start.message["id"], None)

    def welcome(self, start: Start) -> None:
        """A worker runs."""
        pid, spawn_id = start.pid or 0, start.message["id"]
        # Not reaped before this loop sees it, so neither call can name another process.
        try:
            stat = stat_of(pid)
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            # It is no worker, so it is killed with what is left behind.
            self.refuse(start, error.errno, f"pidfd: {error.strerror}")
            self.kill_children()
            return
        assert stat is not None
        asked, zygote = start.message.get("zygote"), start.zygote
        self.forget(start)
        self.workers[pid] = Worker(spawn_id, key_of(start.message) if asked else None)
        answer = {
            "event": "spawned",
            "id": spawn_id,
            "pid": pid,
            "start": stat[1],
            "zygote": zygote and zygote.pid,
            "why": start.why,
        }
        try:
            self.tell(answer, pidfd)
        finally:
            os.close(pidfd)

    def give_up(self, start: Start) -> None:
        """Ends what holds a start up. It is refused then, or was faster."""
        start.is_given_up = True
        if self.nursery.give_up(start):
            self.refuse(start, errno.ETIMEDOUT, "no zygote was ready in time")
        elif start.pid is not None and stat_of_child(start.pid, self.pid):
            # Not reaped yet, so the pid is its own.
            os.kill(start.pid, signal.SIGKILL)

    def keys_of_workers(self) -> set[Key | None]:
        """Which zygotes have workers that live."""
        return {worker.key for worker in self.workers.values()}

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
            self.bury(dead)
        if any_dead:
            ended = self.kill_children()
            if ended:
                self.tell({"event": "ended", "pids": ended[:MAX_LISTED]})

    def bury(self, dead: os.waitid_result) -> None:
        """Reports and reaps one child that is dead."""
        pid = dead.si_pid
        start = next((start for start in self.reports.values() if start.pid == pid), None)
        if start is not None:
            self.follow(start, is_dead=True)
            if start.zygote is None and start.heard:
                # Reaped with its failure.
                return
        worker = self.workers.pop(pid, None)
        is_zygote = pid in self.nursery.by_pid
        if worker is not None or is_zygote:
            # The leader is a zombie: its pid, which names the group, is still its own.
            kill_group(pid)
        _, _, usage = os.wait4(pid, 0)
        self.killed.discard(pid)
        self.refusing.discard(pid)
        exited = dead.si_code == os.CLD_EXITED
        status = {
            "pid": pid,
            "code": dead.si_status if exited else None,
            "signal": None if exited else dead.si_status,
        }
        if worker is not None:
            cpu_ms = int((usage.ru_utime + usage.ru_stime) * 1000)
            self.tell({"event": "exited", "id": worker.spawn_id, **status, "cpu_ms": cpu_ms})
        elif is_zygote:
            self.tell({"event": "zygote_exited", **status})
            self.nursery.died(pid)

    def kill_children(self, *, all_of_them: bool = False) -> list[int]:
        """SIGKILL to every child that is of no use and to all below it: those it was sent to.

        Children that have it already are left alone, with what is below them: it comes up here.
        """
        below = children_of_all() if self.children_fd < 0 else None
        children = below.get(self.pid, []) if below is not None else self.children()
        newborn: list[Start] = []
        keep: set[int] = set()
        if not all_of_them:
            # After the look: what a zygote forked was in its report before it was in the list.
            for start in self.reports.values():
                if start.zygote is not None:
                    start.hear()
                    start.understand()
                    newborn.append(start)
            keep.update(self.workers, self.nursery.by_pid)
            keep.update(start.pid for start in self.reports.values() if start.pid is not None)
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
        for start in newborn:
            # What was read here wakes nobody again.
            if start.report >= 0:
                self.follow(start)
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
            self.kill_children(all_of_them=True)
            poll.poll()


def stat_of_child(pid: int, parent: int) -> bool:
    """Whether a process is a child of this one."""
    stat = stat_of(pid)
    return stat is not None and stat[0] == parent


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
    close_all_but({0, 1, STDERR, control.fileno()})
    Reaper(control, prctl).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
