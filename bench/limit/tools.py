"""What `snakehouse bench pool` calls: the same work as the limit program, as a tool, and a stream."""

from collections.abc import Iterator

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
