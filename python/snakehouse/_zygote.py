"""A zygote: imports once what its workers need, then forks them.

The reaper starts it as ``worker.py --zygote NAME...`` with a sequenced-packet socket as descriptor
3. It imports the worker's own modules and the named ones, looks whether a fork is safe
(``_fork_safety``), says what it found, and then does nothing but wait for requests and fork, always
from its one thread. It runs none of the tools.

A worker is forked twice: the process between ends when it has forked, so the worker becomes the
reaper's child, and this process can die without it. The worker arms its death signal only when it
is the reaper's child, since the signal is tied to the parent of that moment. Processes between are
forked in advance, and they are the ones that read the requests.

    zygote  {"event": "ready"} | {"event": "failed"} | {"event": "unfit", "why"}
    reaper  {"args", "variables", "cwd", "limits", "groups"} + the worker's descriptors, the report
    report  "pid N", by the process between; then "up", or an errno, a step and why it failed
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
from snakehouse._birth import SCRATCH, Birth, load_prctl, tie_down
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
# How the process between a zygote and a worker ends if it has not forked.
_FAILED, _HUNG_UP = 1, 2
# How many of them wait at once: while one ends and is replaced, the other one is there.
_READY = 2


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
    """Keeps processes ready that fork the next workers. Returns in workers only, with the request.

    They are forked before they are needed, so a worker costs one fork while somebody waits.
    """
    reaper = os.getppid()
    waiting = 0
    is_tidy = False
    while True:
        while waiting < _READY:
            try:
                middle = os.fork()
            except OSError as error:
                if not waiting:
                    _refuse(talk, prctl, error)
                break
            if middle == 0:
                return _wait_and_fork(talk, prctl, reaper, witness)
            waiting += 1
        if not is_tidy:
            # Nobody waits for this: whoever does has its process.
            is_tidy = True
            _pages.drop_files()
        if waiting:
            _, status = os.waitpid(-1, 0)
            waiting -= 1
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


def _wait_and_fork(talk: socket.socket, prctl: Prctl, reaper: int, witness: Witness) -> Message:
    """In the process between. Returns in the worker only, which is then tied down."""
    middle = fcntl.fcntl(os.pidfd_open(os.getpid()), fcntl.F_DUPFD_CLOEXEC, SCRATCH)
    try:
        message, (*fds, report) = receive(talk)
    except HangUp:
        os._exit(_HUNG_UP)
    birth = Birth(prctl, report)
    birth.stage = "fork"
    try:
        worker = os.fork()
    except OSError as error:
        birth.fail(error)
        os._exit(_FAILED)
    if worker:
        # Written before the worker is the reaper's child, which it is when this process is gone.
        os.write(birth.report, b"pid %d\n" % worker)
        os._exit(0)
    # Its number is about to be another descriptor's.
    talk.detach()
    try:
        birth.own_group()
        birth.place(fds, keep={middle, *witness.files})
        birth.tie_to_host()
        birth.adopt()
        birth.stage = "files"
        witness.reopen()
        tie_down(birth, message)
        birth.stage = "environment"
        _awake(message)
        # Last, since the end of the process between takes as long as it has memory.
        birth.stage = "parent"
        poll = select.poll()
        poll.register(middle, select.POLLIN)
        poll.poll()
        os.close(middle)
        birth.die_with(reaper)
        os.write(birth.report, b"up\n")
        os.close(birth.report)
    except BaseException as error:
        birth.fail(error)
        os._exit(127)
    return message


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


def _awake(message: Message) -> None:
    """Makes a forked process what a started one would be."""
    sys.argv[1:] = message["args"]
    _reseed()
    gc.enable()


def _reseed() -> None:
    """Siblings must not draw the same numbers. ``random`` sees to that by itself."""
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.seed()
