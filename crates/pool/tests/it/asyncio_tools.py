"""Tools for a worker that runs several calls at once on one event loop."""

import asyncio
import os
import threading

from snakehouse import incoming, tool

meeting = asyncio.Barrier(4)
gates = {}


def gate(name):
    return gates.setdefault(name, asyncio.Event())


@tool
async def meet():
    """Comes back when four are here at once."""
    await meeting.wait()
    return threading.get_ident()


@tool
async def hold(name):
    """Comes back when it is released."""
    await gate(name).wait()
    return name


@tool
async def release(name):
    gate(name).set()


@tool
async def work(number, how, seconds):
    """Gives the number back, later."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    if how == "sleep":
        await asyncio.sleep(seconds)
    elif how != "none":
        while loop.time() < until:
            await asyncio.sleep(0)
    return number


@tool
async def stubborn(path):
    """Does not end when it is cancelled, once it has left its trace."""
    while True:
        try:
            with open(path, "a") as file:
                file.write("running\n")
            await asyncio.sleep(600)
        except BaseException:
            pass


@tool
async def count(most):
    for number in range(most):
        yield number


@tool
async def echo():
    async for item in incoming():
        yield item


@tool
async def append(path, text):
    with open(path, "a") as file:
        file.write(text + "\n")
    await asyncio.sleep(600)


@tool
async def leave_hard(status):
    os._exit(status)


@tool
async def pid():
    return os.getpid()
