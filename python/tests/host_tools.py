"""Tools that call the host back, for the tests of callbacks."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from typing import Any

import snakehouse
from snakehouse import host, host_async


@snakehouse.tool
def ask(value: Any) -> Any:
    return host.echo(value)


@snakehouse.tool
def ask_by_name(value: Any) -> Any:
    return host["named-echo"](value=value)


@snakehouse.tool
def ask_twice(first: Any, second: Any) -> list[Any]:
    return [host.echo(first), host.echo(second)]


@snakehouse.tool
def plain(value: Any) -> Any:
    return value


@snakehouse.tool
def left() -> float | None:
    return snakehouse.remaining()


@snakehouse.tool
def caught() -> list[Any]:
    try:
        return [host.echo(None)]
    except snakehouse.HostToolError as error:
        return [str(error), error.kind, error.code, error.hint]


@snakehouse.tool
def tidy() -> None:
    try:
        host.echo("wait")
    finally:
        # After the cancel: the host says that the call is over.
        with suppress(snakehouse.HostToolError):
            host.echo("cleanup")


@snakehouse.tool
def names() -> list[str]:
    return [tool.name for tool in snakehouse.host_tools()]


@snakehouse.tool
def unknown() -> None:
    host.nothing()


@snakehouse.tool
def from_a_thread() -> str:
    said: list[str] = []

    def run() -> None:
        try:
            host.echo(1)
        except RuntimeError as error:
            said.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return said[0]


@snakehouse.tool
def wrong_way() -> str:
    try:
        asyncio.run(host_async.echo(1))  # pyright: ignore[reportArgumentType]
    except RuntimeError as error:
        return str(error)
    return ""


@snakehouse.tool
def asked(count: int) -> Generator[Any]:
    for number in range(count):
        yield host.echo(number)


@snakehouse.tool
def slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@snakehouse.tool
async def ask_async(value: Any) -> Any:
    return await host_async.echo(value)


@snakehouse.tool
async def gather(count: int) -> list[Any]:
    return list(await asyncio.gather(*(host_async.echo(number) for number in range(count))))


@snakehouse.tool
async def wrong_way_async() -> str:
    try:
        host.echo(1)
    except RuntimeError as error:
        return str(error)
    return ""


@snakehouse.tool
async def asked_async(count: int) -> AsyncGenerator[Any]:
    for number in range(count):
        yield await host_async.echo(number)


@snakehouse.tool
async def plain_async(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


@snakehouse.tool
async def descriptors() -> int:
    """How many are open; nothing closes one that is only forgotten."""
    gc.disable()
    return len(os.listdir("/proc/self/fd"))


@snakehouse.tool
async def leave_behind() -> str:
    async def later() -> None:
        await asyncio.sleep(0)
        try:
            await host_async.echo(1)
        except RuntimeError as error:
            _left.append(str(error))

    _left.clear()
    task = asyncio.get_running_loop().create_task(later())
    _tasks.append(task)
    return "left"


@snakehouse.tool
async def left_behind() -> str:
    await _tasks.pop()
    return _left[0]


_left: list[str] = []
_tasks: list[asyncio.Task[None]] = []
