"""Streams: items one at a time, in both directions."""

from collections.abc import AsyncIterator, Iterator

from snakehouse import incoming, tool


@tool
def countdown(start: int) -> Iterator[int]:
    """Each value goes out as it is yielded; what is returned comes last."""
    yield from range(start, 0, -1)
    return "lift-off"


@tool
def upper() -> Iterator[str]:
    """Answers each line that the caller sends."""
    for line in incoming():
        yield line.upper()


@tool
async def total() -> int:
    """Takes items and gives no item, only a result."""
    return sum([n async for n in incoming()])
