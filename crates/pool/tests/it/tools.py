"""Tools that behave in every way a tool can."""

import ctypes
import gc
import os
import random
import resource
import signal
import subprocess
import sys
import time

from snakehouse import DeviceFault, emit, span, tool, trace

state = {"count": 0}
held = []


@tool
def echo(value):
    return value


@tool
def add(a, b):
    return a + b


@tool
def pid():
    return os.getpid()


@tool
def count():
    state["count"] += 1
    return state["count"]


@tool
def fail(message):
    raise ValueError(message)


@tool
def leave(status):
    sys.exit(status)


@tool
def leave_hard(status):
    os._exit(status)


@tool
def segfault():
    ctypes.string_at(0)


@tool
def say(text, times=1):
    for _ in range(times):
        print(text)
    print(text.upper(), file=sys.stderr)
    return None


@tool
def raw_stdout(data):
    os.write(1, data)


@tool
def sleep(seconds):
    time.sleep(seconds)
    return "slept"


@tool
def spin():
    while True:
        pass


@tool
def stubborn(path=None):
    """Does not end when it is cancelled; leaves a trace once that is so."""
    while True:
        try:
            if path:
                append(path, "running")
            time.sleep(600)
        except BaseException:
            pass


@tool
def shrug(path, text):
    """Hears that it is cancelled, and gives its result nonetheless."""
    try:
        append(path, text, 600)
    except BaseException:
        pass
    return "here it is"


@tool
def hoard(mib):
    """Keeps so much memory for good; says what the process holds, its part of shared pages included."""
    held.append(bytearray(mib << 20))
    with open("/proc/self/smaps_rollup") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


@tool
def append(path, text, seconds=0.0):
    """Leaves a trace that it ran, then takes its time."""
    with open(path, "a") as file:
        file.write(text + "\n")
    time.sleep(seconds)
    return text


@tool
def append_and_wait(path, text, gate):
    """Leaves a trace that it ran, then waits until the gate has something in it."""
    with open(path, "a") as file:
        file.write(text + "\n")
    while not os.path.getsize(gate):
        time.sleep(0.001)
    return text


@tool
def where():
    """Where the call stands in a trace."""
    return str(trace())


@tool
def environment():
    return dict(os.environ)


@tool
def draw():
    return random.random()


@tool
def portrait():
    """What must not depend on who forked this process."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    return {
        "environment": dict(os.environ),
        "argv": sys.argv,
        "path": sys.path,
        "flags": str(sys.flags),
        "directory": os.getcwd(),
        "handlers": [str(signal.getsignal(n)).split(" object")[0] for n in range(1, 32)],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "streams": [f"{s.encoding} {s.errors} {s.line_buffering} {s.isatty()}" for s in streams],
        "main": sys.modules["__main__"].__file__,
        "descriptors": sorted(target.split(":")[0] for target in descriptors().values()),
        "collects": gc.isenabled(),
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
    }


@tool
def standard_input():
    return sys.stdin.read()


@tool
def descriptors():
    """Open descriptors, without the one that looks."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass
    return found


@tool
def standing():
    """What the kernel thinks of this process."""
    libc = ctypes.CDLL(None)
    signal_number, subreaper = ctypes.c_int(), ctypes.c_int()
    libc.prctl(2, ctypes.byref(signal_number), 0, 0, 0)
    libc.prctl(37, ctypes.byref(subreaper), 0, 0, 0)
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgid(0),
        "session": os.getsid(0),
        "death_signal": signal_number.value,
        "subreaper": subreaper.value,
    }


@tool
def litter():
    """Starts a child, one in a session of its own, and one that is forked twice; gives their pids."""
    plain = subprocess.Popen(["sleep", "600"])
    session = subprocess.Popen(["sleep", "600"], start_new_session=True)
    read, write = os.pipe()
    if (middle := os.fork()) == 0:
        os.setsid()
        if (last := os.fork()) == 0:
            os.execvp("sleep", ["sleep", "600"])
        os.write(write, str(last).encode())
        os._exit(0)
    os.waitpid(middle, 0)
    twice = int(os.read(read, 32))
    os.close(read)
    os.close(write)
    return [plain.pid, session.pid, twice]


@tool
def litter_and_spin():
    litter_pids = litter.__wrapped__() if hasattr(litter, "__wrapped__") else litter()
    del litter_pids
    while True:
        pass


@tool
def garbage():
    """Writes to every socket it can find what is no frame."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.write(fd, b"\xff" * 64)
        except OSError:
            pass
    time.sleep(600)


@tool
def hang_up():
    """Closes every socket it can find and lives on."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.close(int(name))
        except OSError:
            pass
    time.sleep(600)


@tool
def stop_self():
    os.kill(os.getpid(), signal.SIGSTOP)


@tool
def die_at_first(path, text, deaths, hang=False):
    """Leaves a trace, then ends its worker in the first so many runs; later gives which run it is.

    Or, with ``hang``, never ends in those.
    """
    with open(path, "a") as file:
        file.write(text + "\n")
    with open(path) as file:
        runs = len(file.readlines())
    if runs <= deaths:
        os._exit(1)
    while hang:
        time.sleep(1)
    return runs


@tool
def device_fault():
    raise DeviceFault("it fell off the bus")


@tool
def work(rows):
    """Two spans, one in the other, and an event; where each stands."""
    places = [str(trace())]
    with span("load", rows=rows, url="https://me:hunter2@host/x"):
        places.append(str(trace()))
        emit("loaded", rows, 0.5, api_key="sk-live-0123456789")
        with span("parse"):
            places.append(str(trace()))
    return places


@tool
def work_stream(rows):
    for row in range(rows):
        yield row


@tool
def fail_in_a_span(secret):
    with span("inner"):
        raise PermissionError(f"not with {secret}")
