"""Ray: one actor per worker, called in turn, on a cluster of its own on this machine."""

from __future__ import annotations

import os
from typing import Any

from loop import Sample, in_order

# No reports, and no killing of workers because somebody else uses much memory.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_memory_monitor_refresh_ms"] = "0"

import ray


@ray.remote(num_cpus=0)
class Echo:
    """One worker."""

    def echo(self, value: Any) -> Any:
        """The work."""
        return value


class System:
    """A head, and actors below it."""

    def start(self, workers: int, place: str) -> None:
        """Starts the head and waits until every actor has answered."""
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=2 << 30,
            _node_ip_address="127.0.0.1",
            _temp_dir=place,
        )
        self.actors = [Echo.remote() for _ in range(workers)]
        ray.get([actor.echo.remote(0) for actor in self.actors])

    def measure(self, value: Any, in_flight: int, seconds: float) -> Sample:
        """Results in order."""
        actors = self.actors
        return in_order(
            lambda number: actors[number % len(actors)].echo.remote(value),
            ray.get,
            in_flight,
            seconds,
        )

    def stop(self) -> None:
        """Ends everything that was started."""
        ray.shutdown()
