"""`concurrent.futures.ProcessPoolExecutor`, as the standard library makes it."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor
from threading import Event, Lock
from time import perf_counter
from typing import Any

from loop import Sample, in_order
from work import echo


class System:
    """A pool whose calls are repeated from their own callbacks, which is the quickest way."""

    def start(self, workers: int, place: str) -> None:
        """Starts every process now, not at the first calls."""
        self.pool = ProcessPoolExecutor(workers)
        for future in [self.pool.submit(echo, 0) for _ in range(8 * workers)]:
            future.result()

    def measure(self, value: Any, in_flight: int, seconds: float) -> Sample:
        """One call after the other from here; several, each from the end of the one before."""
        pool = self.pool
        if in_flight == 1:
            return in_order(lambda _: pool.submit(echo, value), Future.result, 1, seconds)
        latencies: list[float] = []
        lock, over, left = Lock(), Event(), in_flight
        began = perf_counter()
        until = began + seconds

        def call() -> None:
            sent = perf_counter()
            future = pool.submit(echo, value)
            future.add_done_callback(lambda done: finished(done, sent))

        def finished(future: Future[Any], sent: float) -> None:
            nonlocal left
            future.result()
            now = perf_counter()
            latencies.append(now - sent)
            if now < until:
                call()
                return
            with lock:
                left -= 1
                if left == 0:
                    over.set()

        for _ in range(in_flight):
            call()
        over.wait()
        return Sample(perf_counter() - began, latencies)

    def stop(self) -> None:
        """Ends the processes."""
        self.pool.shutdown()
