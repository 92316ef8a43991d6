"""The zygotes of a reaper: processes that have imported what workers need, and fork them.

One zygote for each command, environment and directory. It is a child of the reaper; the workers it
forks become children of the reaper before they run, so its death costs none of them. What it was
asked for and did not begin is asked of the next one, and of none after three deaths: then the
worker's program is executed as if there were no zygotes.

A zygote says ``ready`` when it has imported, ``failed`` when it could not (it then forks the
workers that wait, which say why in their hello, and is dismissed) or ``unfit`` when a fork would
not be safe; that is remembered, and its workers are executed. It is asked for one worker at a time,
so that nothing here waits for room in a socket.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections import deque

from snakehouse._birth import Birth
from snakehouse._packets import HangUp, receive, send
from snakehouse._starts import MAX_TRIES, Start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any, NoReturn

    from snakehouse._packets import Message
    from snakehouse._reaper import Reaper

    Key = tuple[Any, ...]

# Zygotes without a worker, over all keys. The one that was used least recently goes first.
MAX_IDLE = 4
MAX_REMEMBERED = 64
# What differs between workers of one zygote, beside the run's own mark.
OURS, RUN = "SNAKEHOUSE_", "SNAKEHOUSE_RUN"
# Where a zygote finds its socket.
SOCKET = 3


class Zygote:
    """One process, from its fork to its end."""

    def __init__(self, key: Key, message: Message, pid: int, talk: socket.socket) -> None:
        self.key = key
        # The request that it was started for; the next one is started for the same.
        self.message = message
        self.pid = pid
        self.talk = talk
        self.is_ready = False
        self.has_failed = False
        # Its end of the socket is closed.
        self.is_deaf = False
        # Whether this process ended it.
        self.is_dismissed = False
        self.forks = 0
        self.used = 0
        self.queue: deque[Start] = deque()
        # What it was asked for and has not forked yet.
        self.current: Start | None = None


class Nursery:
    """All zygotes, and which starts wait for them."""

    def __init__(self, reaper: Reaper) -> None:
        self.reaper = reaper
        self.by_pid: dict[int, Zygote] = {}
        self.by_key: dict[Key, Zygote] = {}
        self.unfit: dict[Key, str] = {}
        # What zygotes print that were started for nobody in particular: read and dropped.
        self.outputs: set[int] = set()
        self.uses = 0

    def take(self, start: Start) -> bool:
        """Leaves a start to a zygote; false if it is to be executed."""
        if not start.message.get("zygote"):
            return False
        key = key_of(start.message)
        if key in self.unfit:
            start.why = self.unfit[key]
            return False
        if start.tries >= MAX_TRIES:
            start.why = f"{start.tries} zygotes died before they forked it"
            return False
        zygote = self.by_key.get(key)
        if zygote is None:
            try:
                zygote = self.open(key, start.message, start.fds[3:5])
            except OSError as error:
                start.why = f"a zygote could not be started: {error.strerror}"
                return False
        self.uses += 1
        zygote.used = self.uses
        zygote.queue.append(start)
        start.zygote = zygote
        start.tries += 1
        self.advance(zygote)
        return True

    def open(self, key: Key, message: Message, output: list[int]) -> Zygote:
        """Starts a zygote that prints to these two. Raises ``OSError``."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            try:
                pid = os.fork()
                if pid == 0:
                    self.become_zygote(message, [null, *output, theirs.fileno()])
            finally:
                os.close(null)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        zygote = Zygote(key, message, pid, ours)
        self.by_pid[pid] = self.by_key[key] = zygote
        self.reaper.poll.register(ours, select.POLLIN)
        return zygote

    def become_zygote(self, message: Message, fds: list[int]) -> NoReturn:
        """Between fork and exec. A failure shows as a death, and in the end by the plain way."""
        birth = Birth(self.reaper.prctl, fds[0])
        try:
            birth.own_group()
            birth.die_with(self.reaper.pid)
            birth.place(fds, (0, 1, 2, SOCKET))
            birth.enter(message.get("cwd"))
            asked = message["zygote"]
            birth.become([*asked["argv"], *asked["preload"]], shared_environment(message))
        finally:
            os._exit(127)

    def advance(self, zygote: Zygote) -> None:
        """Asks it for the next worker, if it can be asked."""
        while zygote.queue and not zygote.current and (zygote.is_ready or zygote.has_failed):
            start = zygote.queue.popleft()
            try:
                theirs = self.reaper.open_report(start)
            except OSError as error:
                start.zygote = None
                self.reaper.refuse(start, error.errno, f"pipe: {error.strerror}")
                continue
            zygote.current = start
            asked = {
                "args": start.message["zygote"]["args"],
                "variables": own_variables(start.message),
                "cwd": start.message.get("cwd"),
                "limits": start.message.get("limits"),
                "groups": start.message.get("groups"),
            }
            try:
                send(zygote.talk, asked, [*start.fds, theirs])
            except (HangUp, BlockingIOError):
                # It is dead, or as good as that, and so is the report.
                self.give_to_nobody(zygote)
            finally:
                os.close(theirs)
        if zygote.has_failed and not zygote.current:
            self.dismiss(zygote)

    def forked(self, start: Start) -> None:
        """Its process is known, or it is over: the zygote has nothing to do with it any more."""
        zygote = start.zygote
        if zygote is not None and zygote.current is start:
            zygote.current = None
            if start.pid is not None:
                zygote.forks += 1
            self.advance(zygote)

    def hear(self, ready: Collection[int]) -> None:
        """Reads what zygotes say."""
        for fd in self.outputs.intersection(ready):
            if not os.read(fd, 1 << 16):
                self.drop_output(fd)
        for zygote in list(self.by_pid.values()):
            if not zygote.is_deaf and zygote.talk.fileno() in ready:
                self.listen(zygote)

    def listen(self, zygote: Zygote) -> None:
        """One message of one zygote."""
        try:
            message, _ = receive(zygote.talk)
        except BlockingIOError:
            return
        except HangUp:
            # It is dead or about to be; the kernel tells which.
            zygote.is_deaf = True
            self.reaper.poll.unregister(zygote.talk)
            self.give_to_nobody(zygote)
            return
        event, preload = message.get("event"), zygote.message["zygote"]["preload"]
        if event == "unfit":
            why = str(message.get("why"))
            while len(self.unfit) >= MAX_REMEMBERED:
                del self.unfit[next(iter(self.unfit))]
            self.unfit[zygote.key] = why
            self.reaper.tell({"event": "unfit", "preload": preload, "why": why})
            self.dismiss(zygote)
            self.return_queue(zygote)
            return
        zygote.is_ready = event == "ready"
        zygote.has_failed = not zygote.is_ready
        if zygote.is_ready:
            self.reaper.tell({"event": "zygote", "pid": zygote.pid, "preload": preload})
            self.dismiss_idle()
        self.advance(zygote)

    def died(self, pid: int) -> None:
        """A zygote is dead and reaped.

        If it had been of use and workers of its kind live, the next one is started at once.
        """
        zygote = self.by_pid.pop(pid)
        if not zygote.is_deaf:
            self.reaper.poll.unregister(zygote.talk)
        zygote.talk.close()
        self.give_to_nobody(zygote)
        self.return_queue(zygote)
        is_of_use = zygote.forks > 0 and not zygote.is_dismissed
        is_missed = zygote.key in self.reaper.keys_of_workers() and zygote.key not in self.by_key
        if is_of_use and is_missed:
            self.replace(zygote)

    def replace(self, zygote: Zygote) -> None:
        """Starts the next one before anybody asks for it."""
        try:
            read, write = os.pipe()
        except OSError:
            # It is started when it is asked for.
            return
        os.set_blocking(read, False)
        try:
            self.open(zygote.key, zygote.message, [write, write])
        except OSError:
            os.close(read)
            return
        finally:
            os.close(write)
        self.outputs.add(read)
        self.reaper.poll.register(read, select.POLLIN)

    def drop_output(self, fd: int) -> None:
        """The end of what a zygote prints."""
        self.outputs.discard(fd)
        self.reaper.poll.unregister(fd)
        os.close(fd)

    def return_queue(self, zygote: Zygote) -> None:
        """Has what waits for it begun anew. What it was asked for is followed by its report."""
        left = list(zygote.queue)
        zygote.queue.clear()
        for start in left:
            start.zygote = None
            self.reaper.begin(start)

    def give_up(self, start: Start) -> bool:
        """The host does not wait any more; whether the start was not begun and is over."""
        zygote = start.zygote
        if zygote is None:
            return False
        if start in zygote.queue:
            zygote.queue.remove(start)
            start.zygote = None
            if not zygote.is_ready and not zygote.queue:
                # Whatever it imports does not end.
                self.dismiss(zygote)
            return True
        if zygote.current is start:
            self.dismiss(zygote)
        return False

    def dismiss(self, zygote: Zygote) -> None:
        """Ends a zygote that is of no more use. What it has forked goes on."""
        zygote.is_dismissed = True
        self.give_to_nobody(zygote)

    def give_to_nobody(self, zygote: Zygote) -> None:
        """Takes it out of use, and makes sure of its end."""
        if self.by_key.get(zygote.key) is zygote:
            del self.by_key[zygote.key]
        if zygote.pid in self.by_pid:
            # Not reaped yet, so the pid is its own.
            os.kill(zygote.pid, signal.SIGKILL)

    def dismiss_idle(self) -> None:
        """Keeps the number of those bounded that have no worker."""
        of_use = self.reaper.keys_of_workers()
        idle = [
            zygote
            for zygote in self.by_key.values()
            if zygote.is_ready and not zygote.queue and zygote.key not in of_use
        ]
        idle.sort(key=lambda zygote: zygote.used)
        for zygote in idle[: max(0, len(idle) - MAX_IDLE)]:
            self.dismiss(zygote)


def key_of(message: Message) -> Key:
    """What two workers must have in common to be forked by one zygote."""
    asked = message["zygote"]
    env = shared_environment(message)
    return (*asked["argv"], *asked["preload"], message.get("cwd"), *sorted(env.items()))


def shared_environment(message: Message) -> dict[str, str]:
    """The environment of the zygote: what is not about one worker."""
    env: dict[str, str] = message["env"]
    return {name: env[name] for name in env if not is_own(name)}


def own_variables(message: Message) -> dict[str, str]:
    """The rest of the environment: what one worker is told."""
    env: dict[str, str] = message["env"]
    return {name: env[name] for name in env if is_own(name)}


def is_own(name: str) -> bool:
    """Whether a variable is about one worker."""
    return name.startswith(OURS) and name != RUN
