"""Closed loops: so many calls are kept in flight for a while, and every call's time is taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any


@dataclass
class Sample:
    """Calls within one stretch of time."""

    elapsed: float
    latencies: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, float]:
        """Calls per second and percentiles in microseconds."""
        times = sorted(self.latencies)

        def pick(percent: int) -> float:
            return times[min(len(times) - 1, len(times) * percent // 100)] * 1e6

        return {
            "calls": len(times),
            "calls_per_s": len(times) / self.elapsed,
            "p50_us": pick(50),
            "p99_us": pick(99),
        }


def in_order(
    submit: Callable[[int], Any], finish: Callable[[Any], Any], in_flight: int, seconds: float
) -> Sample:
    """For systems that are asked for one result after the other: the oldest call first.

    `submit(n)` begins call number `n`, `finish` waits for its result. With several workers a call
    that overtook an older one is noticed late, so latencies are upper bounds then; calls per second
    are not touched by it.
    """
    began = perf_counter()
    until = began + seconds
    open_calls: deque[tuple[float, Any]] = deque()
    latencies: list[float] = []
    number = 0
    while number < in_flight:
        open_calls.append((perf_counter(), submit(number)))
        number += 1
    while open_calls:
        sent, call = open_calls.popleft()
        finish(call)
        now = perf_counter()
        latencies.append(now - sent)
        if now < until:
            open_calls.append((now, submit(number)))
            number += 1
    return Sample(perf_counter() - began, latencies)
