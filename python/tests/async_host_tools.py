"""The async tools among ``host_tools``, which a worker in asyncio mode can serve."""

from __future__ import annotations

from host_tools import (
    ask_async,
    asked_async,
    gather,
    leave_behind,
    left_behind,
    plain_async,
    wrong_way_async,
)

__all__ = [
    "ask_async",
    "asked_async",
    "gather",
    "leave_behind",
    "left_behind",
    "plain_async",
    "wrong_way_async",
]
