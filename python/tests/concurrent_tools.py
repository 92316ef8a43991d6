"""Async tools, and what a worker in asyncio mode may serve."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import snakehouse

together = {"now": 0, "most": 0}


@snakehouse.tool
async def echo(value: Any) -> Any:
    return value


@snakehouse.tool
async def hurry() -> None:
    """From now on a task of this event loop runs where it is made, as far as Python can that."""
    eager: Any = getattr(asyncio, "eager_task_factory", None)
    asyncio.get_running_loop().set_task_factory(eager)


@snakehouse.tool
async def nap(seconds: float) -> int:
    """Sleeps; gives how many slept at once at most."""
    together["now"] += 1
    together["most"] = max(together["most"], together["now"])
    try:
        await asyncio.sleep(seconds)
    finally:
        together["now"] -= 1
    return together["most"]


barriers: dict[int, asyncio.Barrier] = {}


@snakehouse.tool
async def meet(number: int) -> int:
    """Waits until so many calls are in here at once; gives a place of its own to each."""
    barrier = barriers.setdefault(number, asyncio.Barrier(number))
    async with asyncio.timeout(30.0):
        return await barrier.wait()


@snakehouse.tool
async def wait() -> str:
    print("ready")
    await asyncio.sleep(1000)
    return "woke up"


@snakehouse.tool
async def never_await(how: str, mark: str) -> str:
    """Makes a file, and never lets the event loop go on; says so when it is interrupted."""

    async def inner() -> None:
        os.close(os.open(mark, os.O_CREAT))
        while how == "loop":
            pass
        time.sleep(1000)

    try:
        if how == "task":
            await asyncio.create_task(inner())
        await inner()
    except asyncio.CancelledError:
        print("interrupted", how)
        raise
    return "woke up"


@snakehouse.tool
async def beat(path: str) -> None:
    """Makes a file longer and longer."""
    while True:
        with Path(path).open("a") as file:
            file.write(".")
        await asyncio.sleep(0.001)


@snakehouse.tool
async def spin(turns: int) -> int:
    for _ in range(turns):
        await asyncio.sleep(0)
    return turns


@snakehouse.tool
async def context(turns: int) -> tuple[float | None, str | None]:
    await asyncio.sleep(0)
    for _ in range(turns):
        await asyncio.sleep(0)
    return snakehouse.remaining(), snakehouse.session()


@snakehouse.tool
async def where(padding: bytes = b"") -> tuple[str, int]:
    await asyncio.sleep(0)
    return str(snakehouse.trace()), len(padding)


@snakehouse.tool
async def work(rows: int, fail: bool = False) -> list[str]:
    places = [str(snakehouse.trace())]
    with snakehouse.span("load", rows=rows):
        await asyncio.sleep(0)
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
async def work_stream(rows: int) -> AsyncIterator[str]:
    with snakehouse.span("stream"):
        for _ in range(rows):
            yield str(snakehouse.trace())


@snakehouse.tool
async def doubled() -> AsyncIterator[Any]:
    async for value in snakehouse.incoming():
        yield value * 2


@snakehouse.tool
async def count_to(limit: int) -> AsyncIterator[int]:
    for number in range(limit):
        yield number


@snakehouse.tool
async def leave(status: int) -> None:
    sys.exit(status)


@snakehouse.tool
async def fork_and_return() -> int:
    child = os.fork()
    if child == 0:
        return -1
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@snakehouse.tool
async def cancel_all_others() -> int:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    return len(others)


@snakehouse.tool
async def stop_the_loop() -> str:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)
    return "stopped"


class Uninitialised(snakehouse.ToolError):
    """Does not call its base's ``__init__``, and cannot be printed."""

    def __init__(self) -> None: ...

    def __str__(self) -> str:
        raise SystemExit(9)


@snakehouse.tool
async def raise_what_breaks() -> None:
    raise Uninitialised
