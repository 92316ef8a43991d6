"""Server processes with a Unix socket each, for the peers that are servers."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep


class Servers:
    """Starts `python -m MODULE SOCKET` so many times and waits until each listens."""

    def __init__(self, module: str, workers: int, place: str) -> None:
        self.paths = [f"{place}/server-{n}" for n in range(workers)]
        here = Path(__file__).parent.parent
        self.processes = [
            subprocess.Popen([sys.executable, "-m", module, path], cwd=here) for path in self.paths
        ]
        until = monotonic() + 60
        for path, process in zip(self.paths, self.processes, strict=True):
            while not listens(path):
                if process.poll() is not None or monotonic() > until:
                    sys.exit(f"{module} does not serve (status {process.poll()})")
                sleep(0.01)

    def stop(self) -> None:
        """Ends them."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(20)


def listens(path: str) -> bool:
    """Whether somebody accepts there."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True
