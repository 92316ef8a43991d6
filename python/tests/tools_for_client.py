"""Tools for the tests of the client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import snakehouse

if TYPE_CHECKING:
    from collections.abc import Iterator


@snakehouse.tool
def echo(value: Any) -> Any:
    return value


@snakehouse.tool
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@snakehouse.tool
def fail(message: str) -> None:
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise snakehouse.ToolError(message, code="sour", hint="sweeten it") from error


visits: list[int] = []


@snakehouse.tool
def visit() -> int:
    visits.append(0)
    return len(visits)


@snakehouse.tool
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@snakehouse.tool
def count(n: int) -> Iterator[int]:
    yield from range(n)


@snakehouse.tool
def double() -> Iterator[int]:
    for item in snakehouse.incoming():
        yield 2 * item
