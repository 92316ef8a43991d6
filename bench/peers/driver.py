"""One peer in a process of its own: driver.py SYSTEM WORKERS.

Prints one line when it is ready, then measures whatever a line of standard input asks for,
`{"payload", "in_flight", "seconds"}`, and prints the sample. Ends with its standard input. Whatever
the peer prints goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from time import perf_counter

from work import payload


def main() -> None:
    """Starts the peer, serves requests, stops it."""
    name, workers = sys.argv[1], int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    system = importlib.import_module(f"systems.{name}").System()
    with tempfile.TemporaryDirectory(prefix="peer-", dir="/tmp") as place:
        began = perf_counter()
        try:
            system.start(workers, place)
            print(json.dumps({"ready_s": perf_counter() - began}), file=answers)
            for line in sys.stdin:
                asked = json.loads(line)
                value = payload(asked["payload"])
                sample = system.measure(value, asked["in_flight"], asked["seconds"])
                print(json.dumps(sample.as_json()), file=answers)
        finally:
            system.stop()


if __name__ == "__main__":
    main()
