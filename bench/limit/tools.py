"""What `snakehouse bench pool` calls: the same work as the limit program as a tool, a stream, and
large arguments and results."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from functools import cache

import snakehouse
from snakehouse import tool


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
