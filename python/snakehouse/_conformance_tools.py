"""The tools that ``docs/worker-protocol.md`` asks of a worker that is checked."""

from __future__ import annotations

import time

import snakehouse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


@snakehouse.tool
def echo(value: Any) -> Any:
    """Returns what it gets."""
    return value


@snakehouse.tool
def fail(message: str) -> None:
    """Fails with this message."""
    raise ValueError(message)


@snakehouse.tool
def wait() -> None:
    """Runs for a minute, or until it is cancelled."""
    time.sleep(60)


@snakehouse.tool
def count(n: int) -> Iterator[int]:
    """Yields 0 to n - 1."""
    yield from range(n)


@snakehouse.tool
def forward() -> Iterator[Any]:
    """Yields each item that the host sends."""
    yield from snakehouse.incoming()


@snakehouse.tool
def ask(value: Any) -> Any:
    """Returns what the host gives for it."""
    return snakehouse.host.echo(value)
