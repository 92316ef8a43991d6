"""A zygote: imports once what its workers need, then forks them.

The reaper starts it as ``worker.py --zygote NAME...`` with a sequenced-packet socket as descriptor
3. It imports the worker's own modules and the named ones, looks whether a fork is safe
(``_fork_safety``), says what it found, and then does nothing but wait for requests and fork, always
from its one thread. It runs none of the tools.

A worker is forked twice, and in advance: the zygote forks a process between, and that forks a
worker that nobody has asked for yet, which reads the next request. Then the process between ends,
so the worker becomes the reaper's child, and this process can die without it. The worker arms its
death signal only when it is the reaper's child, since the signal is tied to the parent of that
moment. So nothing is forked, and little memory given back, while somebody waits.

    zygote  {"event": "ready"} | {"event": "failed"} | {"event": "unfit", "why"}
    reaper  {"args", "variables", "cwd", "limits", "groups"} + the worker's descriptors, the report
    report  "pid N", then "up", or an errno, a step and why it failed
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import os
import select
import signal
import socket
import sys

from snakehouse import _codec, _load, _main, _pages
from snakehouse._birth import (
    PR_SET_CHILD_SUBREAPER,
    SCRATCH,
    Birth,
    load_prctl,
    tie_down,
)
from snakehouse._fork_safety import Witness, reserve
from snakehouse._packets import HangUp, receive, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from snakehouse._birth import Prctl
    from snakehouse._packets import Message

SOCKET = 3
# What a worker's modules import when it is first needed, which is in every worker.
LATER = ("inspect", "traceback")
# How the process between ends if the worker has ended before it, and if there is none.
_HUNG_UP, _FAILED = 1, 2
# In which time (milliseconds) one is needed soon, and what it becomes if it is not.
_SOON = 5
_SHELL = "/bin/sh"
# By this its host finds it, whatever happens.
_RUN = "SNAKEHOUSE_RUN"


def run(names: list[str]) -> NoReturn:
    """Imports, forks, and serves in each worker; the zygote itself ends with its socket."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    environment = dict(os.environ)
    reserve(SOCKET + 1)
    talk = socket.socket(fileno=SOCKET)
    talk.set_inheritable(False)
    try:
        prctl = load_prctl()
    except (ImportError, OSError, AttributeError) as error:
        send(talk, {"event": "unfit", "why": f"this Python has no ctypes: {error}"})
        os._exit(0)
    witness = Witness()
    failure = _import_all(names, witness)
    why = None if failure else witness.why_not()
    _forget_signals(handlers)
    _forget_variables(environment)
    _fall_silent()
    if why is not None:
        send(talk, {"event": "unfit", "why": why})
        os._exit(0)
    _rehearse(prctl)
    _pages.settle()
    try:
        send(talk, {"event": "failed" if failure else "ready"})
        message = _serve(talk, prctl, witness)
    except HangUp:
        os._exit(0)
    _main.main(message["args"], variables=message["variables"], failure=failure)


def _import_all(names: list[str], witness: Witness) -> dict[str, Any] | None:
    """Imports everything; why that failed, as a worker's hello says it."""
    _pages.begin()
    _codec.choose()
    for name in LATER:
        importlib.import_module(name)
    witness.begin()
    for name in names:
        failure = _main.preload_all([name])
        if failure is not None:
            return failure
        witness.look(name)
    _describe_all(names)
    return None


def _describe_all(names: list[str]) -> None:
    """Finds out what each worker would say of the tools that are imported."""
    for name in names:
        # Whoever serves them hears of what is wrong.
        with contextlib.suppress(Exception):
            for tool in _load.tools_of(_load.import_module(name)):
                _main.describe(tool)


def _rehearse(prctl: Prctl) -> None:
    """Does once what each worker does first: what is found and kept on the way, all will share."""
    prctl(PR_SET_CHILD_SUBREAPER, 0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        send(ours, {"args": ["-"], "variables": {"-": "-"}, "cwd": None}, [ours.fileno()])
        for fd in receive(theirs)[1]:
            os.close(fd)


def _fall_silent() -> None:
    """What was printed while importing has been the first worker's; nothing more is."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            # There is none, or nobody reads it.
            pass
    os.dup2(0, 1)
    os.dup2(0, 2)


def _serve(talk: socket.socket, prctl: Prctl, witness: Witness) -> Message:
    """Keeps the next worker ready. Returns in workers only, with the request."""
    reaper = os.getppid()
    is_tidy = False
    while True:
        try:
            middle = os.fork()
        except OSError as error:
            _refuse(talk, prctl, error)
            continue
        if middle == 0:
            return _fork_and_wait(talk, prctl, reaper, witness)
        if not is_tidy:
            # Nobody waits for this: whoever is next has its process.
            is_tidy = True
            _pages.drop_files()
        _, status = os.waitpid(middle, 0)
        if status not in (0, _FAILED << 8):
            # The socket is closed, or somebody killed it: whoever decides is the reaper.
            os._exit(0)


def _refuse(talk: socket.socket, prctl: Prctl, error: OSError) -> None:
    """Says for one request that nobody can be forked."""
    _, fds = receive(talk)
    birth = Birth(prctl, fds[-1])
    birth.stage = "fork"
    birth.fail(error)
    for fd in fds:
        os.close(fd)


def _fork_and_wait(talk: socket.socket, prctl: Prctl, reaper: int, witness: Witness) -> Message:
    """In the process between. Returns in the worker only, which is then tied down."""
    middle = fcntl.fcntl(os.pidfd_open(os.getpid()), fcntl.F_DUPFD_CLOEXEC, SCRATCH)
    go, going = os.pipe()
    if _fork(talk, prctl):
        os.close(going)
        _let_go(go)
    # What can be done before anybody waits for it.
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    _reseed()
    gc.enable()
    poll = select.poll()
    poll.register(middle, select.POLLIN)
    try:
        message, (*fds, report) = receive(talk)
    except HangUp:
        os._exit(_HUNG_UP)
    # Written before it is the reaper's child, which it is when the process between is gone.
    os.write(report, b"pid %d\n" % os.getpid())
    os.write(going, b"\n")
    # Its number is about to be another descriptor's.
    talk.detach()
    birth = Birth(prctl, report)
    try:
        birth.own_group()
        birth.place(fds, keep={middle, *witness.files})
        birth.tie_to_host()
        birth.stage = "files"
        witness.reopen()
        tie_down(birth, message)
        sys.argv[1:] = message["args"]
        # Last, since the end of the process between takes as long as it has memory.
        birth.stage = "parent"
        poll.poll()
        os.close(middle)
        birth.die_with(reaper)
        os.write(birth.report, b"up\n")
        os.close(birth.report)
    except BaseException as error:
        birth.fail(error)
        os._exit(127)
    return message


def _fork(talk: socket.socket, prctl: Prctl) -> int:
    """As ``os.fork``; where that fails, when somebody asks, and then he hears why."""
    try:
        return os.fork()
    except OSError:
        poll = select.poll()
        poll.register(talk, select.POLLIN)
        poll.poll()
    try:
        return os.fork()
    except OSError as error:
        _refuse(talk, prctl, error)
        os._exit(_FAILED)


def _let_go(go: int) -> NoReturn:
    """Ends this process when the worker says so, or has ended: what it says is a line.

    The end of a process takes as long as it has memory, and the worker waits for it. So one that is
    not needed soon becomes a program that has none.
    """
    poll = select.poll()
    poll.register(go, select.POLLIN)
    if not poll.poll(_SOON):
        os.dup2(go, 0)
        with contextlib.suppress(OSError):
            run = {name: os.environ[name] for name in os.environ if name == _RUN}
            os.execve(_SHELL, [_SHELL, "-c", "read -r line"], run)  # noqa: S606
    os._exit(0 if os.read(go, 1) else _HUNG_UP)


def _forget_signals(handlers: dict[signal.Signals, Any]) -> None:
    """Every signal as it was before the imports; workers inherit that."""
    signal.set_wakeup_fd(-1)
    for number, handler in handlers.items():
        if handler is not None and number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _forget_variables(environment: dict[str, str]) -> None:
    """The environment as it was before the imports."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def _reseed() -> None:
    """Siblings must not draw the same numbers. ``random`` sees to that by itself."""
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.seed()
