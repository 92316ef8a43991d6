"""What `snakehouse bench pool` calls: the same work as the limit program as a tool, a stream, large
arguments and results, and callbacks."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from functools import cache
from time import perf_counter

import snakehouse
from snakehouse import host, tool


@tool
def echo(data: object) -> object:
    """Gives the argument back."""
    return data


@tool
def chunks(chunk: object, count: int) -> Iterator[object]:
    """Gives the same chunk so many times."""
    for _ in range(count):
        yield chunk


@tool
def length(data: Sized) -> int:
    """How long the argument is."""
    return len(data)


@cache
def bytes_of(size: int) -> bytes:
    """The same bytes each time, so that making them is not measured."""
    return bytes(range(256)) * (size // 256)


@tool
def made(size: int, way: str) -> object:
    """So many bytes: filled into a slot, or, within a list, through the socket."""
    data = bytes_of(size)
    if way == "socket":
        return [data]
    view = snakehouse.buffer(size)
    view[:] = data
    return view


@tool
def callbacks(data: object, seconds: float) -> list[float]:
    """Asks the host for an echo for so long, one after the other; the seconds that each took."""
    times: list[float] = []
    began = perf_counter()
    until = began + seconds
    while began < until:
        host.echo(data)
        now = perf_counter()
        times.append(now - began)
        began = now
    return times
