"""The tools that ``docs/worker-protocol.md`` asks of a worker that is checked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import snakehouse


@snakehouse.tool
def echo(value: Any) -> Any:
    return value


@snakehouse.tool
def fail(message: str) -> None:
    raise ValueError(message)


@snakehouse.tool
def wait() -> None:
    time.sleep(60)


@snakehouse.tool
def count(n: int) -> Iterator[int]:
    yield from range(n)


@snakehouse.tool
def forward() -> Iterator[Any]:
    yield from snakehouse.incoming()
