"""Async tools that call tools of the host."""

import asyncio

import snakehouse
from snakehouse import host_async


@snakehouse.tool
async def echo(value):
    return await host_async.echo(value)


@snakehouse.tool
async def plain(value):
    return value


@snakehouse.tool
async def chain(levels):
    return await host_async.again(levels) + 1 if levels else 0


@snakehouse.tool
async def gathered(name, count):
    """Asks so many times at once; how long the answers are together."""
    asked = [host_async[name]() for _ in range(count)]
    return sum(map(len, await asyncio.gather(*asked)))
