"""Tools that the tests call in a real worker."""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import Context, ContextVar, copy_context
from typing import Any

import snakehouse

state = {"calls": 0}


@snakehouse.tool
def echo(value: Any) -> Any:
    return value


@snakehouse.tool(name="plus", doc="Adds.")
def add(a: int, b: int = 1) -> int:
    return a + b


@snakehouse.tool
def calls() -> int:
    return state["calls"]


@snakehouse.tool
def count() -> int:
    state["calls"] += 1
    return state["calls"]


@snakehouse.tool
def context() -> tuple[float | None, str | None]:
    return snakehouse.remaining(), snakehouse.session()


@snakehouse.tool
def where(padding: bytes = b"") -> tuple[str, int]:
    return str(snakehouse.trace()), len(padding)


@snakehouse.tool
def where_of_a_stream() -> Iterator[str]:
    yield str(snakehouse.trace())


@snakehouse.tool
def work(rows: int, fail: bool = False) -> list[str]:
    """Two spans, one in the other, and an event in each; where each stands."""
    places = [str(snakehouse.trace())]
    with snakehouse.span("load", rows=rows):
        places.append(str(snakehouse.trace()))
        snakehouse.emit("loaded", rows, kind="rows")
        with snakehouse.span("parse") as parse:
            parse.set(fast=True)
            places.append(str(snakehouse.trace()))
            if fail:
                raise LookupError("the key is sk-live-0123456789")
    places.append(str(snakehouse.trace()))
    return places


@snakehouse.tool
def work_stream(rows: int) -> Iterator[str]:
    with snakehouse.span("stream"):
        for _ in range(rows):
            yield str(snakehouse.trace())


@snakehouse.tool
def emit_many(name: str, count: int, seconds: float = 0.0) -> None:
    for number in range(count):
        snakehouse.emit(name, number)
    time.sleep(seconds)
    snakehouse.emit("over")


@snakehouse.tool
def emit_what(what: Any) -> None:
    snakehouse.emit("what", what)


@snakehouse.tool
def emit_in_a_thread() -> None:
    thread = threading.Thread(target=snakehouse.emit, args=("threaded",))
    thread.start()
    thread.join()


marked: ContextVar[Any] = ContextVar("marked")
marked.set("imported")


kept: ContextVar[list[Any]] = ContextVar("kept")
kept.set([])


@snakehouse.tool
def keep_equal(is_held: bool) -> int:
    """Which list the last call left in the context; leaves another one that is equal."""
    before = id(kept.get())
    if is_held:
        held_contexts.append(copy_context())
    kept.set([])
    return before


held_contexts: list[Context] = []
asked = threading.Event()
watchers: list[threading.Thread] = []
watched: list[Any] = []


@snakehouse.tool
def watch_later() -> None:
    """Leaves a thread behind that will look at this call in a copy of its context."""

    def look() -> None:
        asked.wait(30)
        watched.append((snakehouse.session(), snakehouse.deadline(), str(snakehouse.trace())))

    watchers.append(threading.Thread(target=copy_context().run, args=(look,)))
    watchers[-1].start()


@snakehouse.tool
def what_was_watched() -> Any:
    here = (snakehouse.session(), snakehouse.deadline(), str(snakehouse.trace()))
    asked.set()
    watchers.pop().join()
    return here, watched.pop()


@snakehouse.tool
def mark(value: Any) -> tuple[Any, str | None]:
    """What the last call left in the context, and the session."""
    before = marked.get()
    marked.set(value)
    return before, snakehouse.session()


@snakehouse.tool
def count_to(limit: int, log: str = "") -> Iterator[int]:
    """Yields numbers; writes down how it ended."""
    try:
        yield from range(limit)
        note(log, "done")
    except GeneratorExit:
        note(log, "closed")
        raise
    except BaseException as error:
        note(log, type(error).__name__)
        raise
    finally:
        note(log, "finally")
    return "counted"


def note(log: str, text: str) -> None:
    if log:
        with open(log, "a") as file:
            print(text, file=file)


@snakehouse.tool
async def never_await(how: str, mark: str) -> str:
    """Makes a file, and never lets the event loop go on; says so when it is interrupted."""

    # A function of its own: CPython 3.13 leaves the jump back of a `while` out of its `try`
    # (gh-130279).
    def block() -> None:
        os.close(os.open(mark, os.O_CREAT))
        while how == "loop":
            pass
        time.sleep(1000)

    try:
        block()
    except asyncio.CancelledError:
        print("interrupted", how)
        raise
    return "woke up"


@snakehouse.tool
async def count_to_async(limit: int, log: str = "") -> AsyncIterator[int]:
    try:
        for number in range(limit):
            await asyncio.sleep(0)
            yield number
        note(log, "done")
    except GeneratorExit:
        note(log, "closed")
        raise
    except BaseException as error:
        note(log, type(error).__name__)
        raise
    finally:
        note(log, "finally")


@snakehouse.tool
def bad_item(log: str) -> Iterator[Any]:
    try:
        yield 1
        yield {"x": object()}
        yield 2
    finally:
        note(log, "finally")


@snakehouse.tool
async def bad_item_async(log: str) -> AsyncIterator[Any]:
    try:
        yield 1
        yield {"x": object()}
        yield 2
    finally:
        note(log, "finally")


@snakehouse.tool
def breaks(after: int) -> Iterator[int]:
    yield from range(after)
    raise KeyError("broken")


@snakehouse.tool
async def breaks_async(after: int) -> AsyncIterator[int]:
    for number in range(after):
        yield number
    raise KeyError("broken")


@snakehouse.tool
def gives(values: list[Any]) -> Iterator[Any]:
    yield from values


@snakehouse.tool
def total() -> int:
    return sum(snakehouse.incoming())


@snakehouse.tool
async def total_async() -> int:
    return sum([number async for number in snakehouse.incoming()])


@snakehouse.tool
def doubled() -> Iterator[Any]:
    for value in snakehouse.incoming():
        yield value * 2
    return "all"


@snakehouse.tool
async def doubled_async() -> AsyncIterator[Any]:
    async for value in snakehouse.incoming():
        yield value * 2


@snakehouse.tool
def takes(number: int) -> list[Any]:
    return [next(snakehouse.incoming()) for _ in range(number)]


@snakehouse.tool
def stubborn() -> Iterator[int]:
    number = 0
    while True:
        try:
            print("ready")
            yield number
            time.sleep(1000)
        except snakehouse.Cancelled:
            number += 1


@snakehouse.tool
def waits_in_a_stream(how: str) -> Iterator[int]:
    yield 0
    wait(how)


@snakehouse.tool
async def waits_in_a_stream_async() -> AsyncIterator[int]:
    yield 0
    await asyncio.sleep(1000)


@snakehouse.tool
async def wait_async() -> str:
    print("ready")
    await asyncio.sleep(1000)
    return "woke up"


@snakehouse.tool
async def swallow_async() -> str:
    try:
        print("ready")
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        return "swallowed"
    return "woke up"


@snakehouse.tool
async def add_async(a: int, b: int = 1) -> int:
    await asyncio.sleep(0)
    return a + b


@snakehouse.tool
async def context_async() -> tuple[float | None, str | None]:
    await asyncio.sleep(0)
    return snakehouse.remaining(), snakehouse.session()


@snakehouse.tool
def context_of_a_stream() -> Iterator[tuple[float | None, str | None]]:
    for _ in range(2):
        yield snakehouse.remaining(), snakehouse.session()


@snakehouse.tool
async def fail_async(how: str) -> Any:
    await asyncio.sleep(0)
    if how == "exit":
        sys.exit(3)
    if how == "cancelled":
        raise asyncio.CancelledError
    return fail(how)


@snakehouse.tool
async def fork_async() -> int:
    return fork_and_return()


@snakehouse.tool
def fork_in_a_stream() -> Iterator[int]:
    child = os.fork()
    yield -1 if child == 0 else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@snakehouse.tool
def fail(how: str) -> Any:
    if how == "chain":
        try:
            int("x")
        except ValueError as error:
            raise KeyError("outer") from error
    if how == "odd":
        raise Odd
    if how == "coded":
        raise snakehouse.ToolError("no such city", code="no_city", hint="try Bern")
    if how == "note":
        error = ValueError("message")
        error.add_note("and a note")
        raise error
    if how == "deep":
        return fail(how)
    if how == "surrogate":
        raise ValueError("\ud800")
    if how == "long":
        raise ValueError("x" * (4 << 20))
    if how == "type":
        raise TypeError("from inside")
    return {"a": [1, {2: range(3)}]}


@snakehouse.tool
def refused_inside() -> None:
    raise snakehouse.UnsupportedValue("mine", "$")


@snakehouse.tool
def leave(status: Any) -> None:
    sys.exit(status)


@snakehouse.tool
def leave_a_thread(status: Any) -> None:
    atexit.register(print, "at exit")
    threading.Thread(target=threading.Event().wait).start()
    sys.stdout.write("no newline ")
    sys.exit(status)


@snakehouse.tool
def go_on_in_a_thread() -> None:
    threading.Thread(target=threading.Event().wait).start()


@snakehouse.tool
def until_released(path: str) -> str:
    """Waits for a writer of a pipe; as quick as any when there is none to wait for."""
    if path:
        with open(path) as pipe:
            pipe.read()
    return path


@snakehouse.tool
def alarm(seconds: float) -> float:
    """What a tool does that has a time limit of its own."""
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        return signal.getitimer(signal.ITIMER_REAL)[0]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@snakehouse.tool
def leave_an_alarm(seconds: float) -> float:
    signal.signal(signal.SIGALRM, lambda _signal, _frame: print("alarm", flush=True))
    return signal.setitimer(signal.ITIMER_REAL, seconds)[0]


@snakehouse.tool
def time_left() -> float:
    return signal.getitimer(signal.ITIMER_REAL)[0]


@snakehouse.tool
def crash() -> None:
    ctypes.string_at(0)


@snakehouse.tool
def say(text: str) -> None:
    print(text)
    print(text, file=sys.stderr)
    os.write(1, b"raw\n")


@snakehouse.tool
def read_stdin() -> str:
    return sys.stdin.read()


@snakehouse.tool
def wait(how: str) -> str:
    if how == "process":
        # As subprocess.run does it, but it says when the child is there.
        with subprocess.Popen(["sleep", "1000"]) as child:
            try:
                print("ready")
                child.wait()
            except BaseException:
                child.kill()
                raise
    print("ready")
    if how == "read":
        read, write = os.pipe()
        try:
            os.read(read, 1)
        finally:
            os.close(read)
            os.close(write)
    while how == "loop":
        pass
    time.sleep(1000)
    return "woke up"


@snakehouse.tool
def spin(turns: int) -> int:
    total = 0
    for turn in range(turns):
        total += turn
    return total


@snakehouse.tool
def swallow() -> str:
    try:
        print("ready")
        time.sleep(1000)
    except BaseException as error:
        return type(error).__name__
    return "woke up"


@snakehouse.tool
def fork_and_return() -> int:
    child = os.fork()
    if child == 0:
        return -1
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@snakehouse.tool
def open_descriptors_of_a_child() -> list[str]:
    done = subprocess.run(
        ["ls", "-l", "/proc/self/fd"], check=True, capture_output=True, close_fds=False
    )
    return done.stdout.decode().split()


@snakehouse.tool
def environment() -> list[str]:
    return sorted(name for name in os.environ if name.startswith("SNAKEHOUSE_"))


lock = threading.Lock()
together = {"now": 0, "most": 0}


@snakehouse.tool
def nap(seconds: float) -> int:
    """Sleeps; gives how many slept at once at most."""
    with lock:
        together["now"] += 1
        together["most"] = max(together["most"], together["now"])
    time.sleep(seconds)
    with lock:
        together["now"] -= 1
        return together["most"]


barriers: dict[int, threading.Barrier] = {}


@snakehouse.tool
def meet(number: int) -> int:
    """Waits until so many calls are in here at once; gives a place of its own to each."""
    with lock:
        barrier = barriers.setdefault(number, threading.Barrier(number, timeout=30.0))
    return barrier.wait()


@snakehouse.tool
def thread() -> str:
    return threading.current_thread().name


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise ValueError("truth is ambiguous")

    __hash__ = None  # type: ignore[assignment]


incomparable: ContextVar[Any] = ContextVar("incomparable")
incomparable.set(Incomparable())


@snakehouse.tool
def set_what_cannot_be_compared() -> str:
    incomparable.set(Incomparable())
    return "set"


@snakehouse.tool
async def both_ways_by_a_task(number: int) -> AsyncIterator[Any]:
    """Yields numbers; a task of its own takes the items meanwhile, which are yielded last."""

    async def take() -> list[Any]:
        return [item async for item in snakehouse.incoming()]

    task = asyncio.create_task(take())
    await asyncio.sleep(0)
    for value in range(number):
        yield value
    yield await task


@snakehouse.tool
async def later(value: Any) -> Any:
    await asyncio.sleep(0.01)
    return value


@snakehouse.tool
async def interrupt_the_loop() -> None:
    raise KeyboardInterrupt


@snakehouse.tool
async def stop_the_loop() -> str:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)
    asyncio.get_running_loop().stop()
    return "stopped"


class Uninitialised(snakehouse.ToolError):
    """Does not call its base's ``__init__``, and cannot be printed."""

    def __init__(self) -> None: ...

    def __str__(self) -> str:
        raise SystemExit(9)


@snakehouse.tool
def raise_what_breaks() -> None:
    raise Uninitialised


@snakehouse.tool
def leave_without_standard_error() -> None:
    sys.stderr.close()
    sys.exit("nobody reads this")
