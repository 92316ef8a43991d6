"""Celery: prefork workers, a Redis server of its own as broker and result store, values pickled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from celery import Celery
from loop import Sample, in_order
from work import echo

SOCKET = "PEER_REDIS"


def application(socket: str) -> Celery:
    """The same application for caller and worker."""
    app = Celery("peers", broker=f"redis+socket://{socket}", backend=f"redis+socket://{socket}")
    app.conf.update(
        accept_content=["pickle"],
        task_serializer="pickle",
        result_serializer="pickle",
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
    )
    app.task(echo, name="echo")
    return app


# The worker process imports this module by name.
app = application(os.environ.get(SOCKET, "/none"))


class System:
    """A Redis server, a Celery worker, and the caller here."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, workers: int, place: str) -> None:
        """Waits until a call has come back."""
        redis = shutil.which("redis-server")
        if redis is None:
            sys.exit("redis-server is not installed (Debian: apt-get install redis-server)")
        socket = f"{place}/redis"
        # Only a socket in a directory of ours, and nothing kept on disk.
        options = ["--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no"]
        command = [redis, *options, "--dir", place]
        self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "systems.celery_redis", "worker"]
            + ["--pool", "prefork", "--concurrency", str(workers), "--loglevel", "ERROR"]
            + ["--without-gossip", "--without-mingle", "--without-heartbeat"],
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {SOCKET: socket, "C_FORCE_ROOT": "1"},
        )
        self.processes.append(worker)
        self.task = application(socket).tasks["echo"]
        self.task.delay(0).get(timeout=60)

    def measure(self, value: Any, in_flight: int, seconds: float) -> Sample:
        """Results in order."""
        task = self.task
        return in_order(
            lambda _: task.delay(value),
            lambda result: result.get(disable_sync_subtasks=False),
            in_flight,
            seconds,
        )

    def stop(self) -> None:
        """Worker first, then its broker."""
        for process in reversed(self.processes):
            process.terminate()
            process.wait(20)
