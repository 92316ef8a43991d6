#!/usr/bin/env python3
"""Measures the peers and this pool, in turn, in one run, and makes one table of it.

    bench/peers/run.py [--snakehouse FILE] [--python FILE] [--seconds 0.5] [--rounds 3]
        [--cells PAYLOAD:WORKERS:IN_FLIGHT,...] [--systems NAME,...] [--pick median|best]
        [--json FILE] [--write FILE]
    bench/peers/run.py --from FILE [--pick median|best] [--write FILE]

Needs the environment of `setup.sh` and a release build. Every system is started afresh in every
round, and the order turns by one each round: whatever else the machine does meets all alike.
A system that cannot run is named with its reason. Standard library only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MARK = "SNAKEHOUSE_PEER"
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
OURS, LIMIT = "snakehouse", "limit program"
# Longest that a peer may take to start, or over its time to answer.
PATIENCE = 120.0


class Cell(NamedTuple):
    """What is measured."""

    payload: int
    workers: int
    in_flight: int

    def title(self) -> str:
        """For the head of a column."""
        sizes = {100: "100 B", 1 << 16: "64 KiB", 8 << 20: "8 MiB"}
        workers = "" if self.workers == 1 else f", {self.workers} workers"
        return (
            f"{sizes.get(self.payload, f'{self.payload} B')}{workers}, {self.in_flight} in flight"
        )


CELLS = "100:1:1,100:1:64,100:4:64,65536:1:1,65536:1:64,8388608:1:1"
PEERS = {
    "process_pool": "`ProcessPoolExecutor`",
    "ray_actors": "Ray actors",
    "celery_redis": "Celery on Redis",
    "grpc_server": "`grpcio` server",
    "front_door": "front door of this pool (gRPC)",
    "asgi_server": "bare ASGI server (uvicorn)",
}
NEEDS = {
    "ray_actors": "ray",
    "celery_redis": "celery, redis",
    "grpc_server": "grpc, msgpack",
    "front_door": "msgpack",
    "asgi_server": "uvicorn, uvloop, httptools, msgpack",
}
PICK = (
    "of the rounds of a cell; best is for a machine that others use, where the rest is their doing"
)
# `{system: {cell: [sample, ...]}}`
Samples = dict[str, dict[Cell, list[dict[str, float]]]]


class NotRun(Exception):
    """A system that cannot be measured here; the text says why."""


class Driver:
    """One peer, running."""

    def __init__(self, python: str, system: str, workers: int) -> None:
        self.token = uuid.uuid4().hex
        self.said = open(f"/tmp/peer-{self.token}.log", "w+")
        self.process = subprocess.Popen(
            [python, HERE / "driver.py", system, str(workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
            env=os.environ | {MARK: self.token, "PYTHONPATH": str(HERE)},
        )
        self.answer(PATIENCE)

    def answer(self, within: float) -> dict[str, float]:
        """The next line."""
        import select

        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], within)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            self.stop()
            self.said.seek(0)
            lines = self.said.read().strip().splitlines() or ["it said nothing"]
            raise NotRun(lines[-1] if ready else f"no answer in {within:.0f} s; {lines[-1]}")
        return json.loads(line)

    def measure(self, cell: Cell, seconds: float) -> dict[str, float]:
        """One sample, with the CPU time of everything that belongs to the peer."""
        assert self.process.stdin is not None
        ask = {"payload": cell.payload, "in_flight": cell.in_flight, "seconds": seconds}
        pids = marked(self.token)
        before = cpu_of(pids)
        self.process.stdin.write(json.dumps(ask) + "\n")
        self.process.stdin.flush()
        sample = self.answer(seconds + PATIENCE)
        sample["cpu_us"] = (cpu_of(pids) - before) / 1e3 / sample["calls"]
        return sample

    def stop(self) -> None:
        """Ends the peer, and whatever it left behind."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for pid in marked(self.token):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
        self.process.wait()
        os.unlink(self.said.name)


def marked(token: str) -> list[int]:
    """The processes whose environment holds the token, and those below them."""
    needle, found = f"{MARK}={token}".encode(), []
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path(f"/proc/{name}/stat").read_text()
                parents[int(name)] = int(stat.rpartition(")")[2].split()[1])
                if needle in Path(f"/proc/{name}/environ").read_bytes():
                    found.append(int(name))
            except OSError:
                pass
    for pid in found:
        found += [
            child for child, parent in parents.items() if parent == pid and child not in found
        ]
    return found


def cpu_of(pids: list[int]) -> int:
    """Nanoseconds of all threads of these processes."""
    total = 0
    for pid in pids:
        for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(file.read_text().split()[0])
            except OSError:
                pass
    return total


def measure_peer(python: str, system: str, cells: list[Cell], seconds: float) -> Samples:
    """One round of one peer."""
    found: dict[Cell, list[dict[str, float]]] = {}
    for workers in sorted({cell.workers for cell in cells}):
        driver = Driver(python, system, workers)
        try:
            for cell in (cell for cell in cells if cell.workers == workers):
                # The first calls of a kind warm caches and buffers up, as in `bench pool`.
                driver.measure(cell, min(seconds, 0.2))
                found[cell] = [driver.measure(cell, seconds)]
        finally:
            if driver.process.poll() is None:
                driver.stop()
    return {system: found}


def measure_ours(binary: str, python: str, cells: list[Cell], seconds: float) -> Samples:
    """One round of this pool and of the limit program."""
    ours: dict[Cell, list[dict[str, float]]] = {}
    limit: dict[Cell, list[dict[str, float]]] = {}
    for cell in cells:
        options = f"--rounds 1 --rows call --unpinned --seconds {seconds}".split()
        chosen = f"--payload {cell.payload} --workers {cell.workers} --in-flight {cell.in_flight}"
        run = subprocess.run(
            [binary, "bench", "pool", "--json", "--python", python, *options, *chosen.split()],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if run.returncode != 0:
            raise NotRun((run.stderr.strip() or run.stdout.strip()).splitlines()[-1])
        for row in map(json.loads, run.stdout.splitlines()):
            if row.get("row", "call") == "call":
                cpu = row["cpu_us_per_call"] + row["host_cpu_us_per_call"]
                ours[cell] = [
                    {key: row[key] for key in ("calls_per_s", "p50_us")} | {"cpu_us": cpu}
                ]
                cpu = row["limit_cpu_us_per_call"] + row["limit_host_cpu_us_per_call"]
                names = ("calls_per_s", "p50_us")
                limit[cell] = [{key: row[f"limit_{key}"] for key in names} | {"cpu_us": cpu}]
    return {OURS: ours, LIMIT: limit}


def missing(python: str, system: str) -> str | None:
    """Why a system cannot be measured here, if it cannot."""
    if system == "celery_redis" and shutil.which("redis-server") is None:
        return "redis-server is not installed (Debian: apt-get install redis-server)"
    modules = NEEDS.get(system)
    if modules is None:
        return None
    run = subprocess.run([python, "-c", f"import {modules}"], capture_output=True, text=True)
    return None if run.returncode == 0 else run.stderr.strip().splitlines()[-1]


def number(value: float) -> str:
    """Three digits, thousands as k."""
    if value >= 100_000:
        return f"{value / 1000:.0f} k"
    if value >= 1000:
        return f"{value / 1000:.1f} k"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(samples: Samples, cells: list[Cell], pick: str) -> str:
    """Rows are systems; each cell has its number and how much better ours is."""

    def picked(system: str, cell: Cell, key: str) -> float | None:
        found = [sample[key] for sample in samples.get(system, {}).get(cell, [])]
        if not found:
            return None
        best = max if key == "calls_per_s" else min
        return best(found) if pick == "best" else statistics.median(found)

    def show(system: str, cell: Cell, key: str, smaller: bool) -> str:
        value, ours = picked(system, cell, key), picked(OURS, cell, key)
        if value is None:
            return "–"
        text = number(value)
        if system == OURS or ours is None:
            return text
        return f"{text} ({number(value / ours if smaller else ours / value)} ×)"

    columns: list[tuple[str, Cell, str, bool]] = []
    for cell in cells:
        if cell.in_flight == 1:
            columns.append((f"{cell.title()}: p50 µs", cell, "p50_us", True))
        else:
            columns.append((f"{cell.title()}: calls/s", cell, "calls_per_s", False))
            columns.append((f"{cell.title()}: CPU µs/call", cell, "cpu_us", True))
    lines = ["| System | " + " | ".join(title for title, *_ in columns) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    for system in [OURS, LIMIT, *PEERS]:
        if system in samples:
            row = [show(system, cell, key, smaller) for _, cell, key, smaller in columns]
            lines.append(f"| {PEERS.get(system, system)} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def versions(python: str) -> str:
    """What was measured."""
    names = ["ray", "celery", "grpcio", "uvicorn", "msgpack"]
    code = "from importlib.metadata import version as v\n"
    code += f"print(*(f'{{n}} {{v(n)}}' for n in {names}), sep=', ')"
    run = subprocess.run([python, "-c", code], capture_output=True, text=True)
    interpreter = subprocess.run([python, "-V"], capture_output=True, text=True).stdout.strip()
    return f"{interpreter}, {run.stdout.strip()}"


def conditions(args: argparse.Namespace, loads: list[float], not_run: dict[str, str]) -> str:
    """What the numbers stand on, but for how they were picked."""
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    gib = int(memory[1]) / (1 << 20) if memory else 0
    text = (
        f"{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}), {gib:.0f} GiB, "
        f"Linux {platform.release().split('-')[0]}; {versions(args.python)}. "
        f"{args.rounds} rounds of {args.seconds:g} s per cell, all systems in turn in each round, "
        f"nothing pinned. Load average {min(loads):.1f} to {max(loads):.1f}, this run included."
    )
    if max(loads) > 2 * (os.cpu_count() or 1):
        text += " The machine was shared: CPU per call is the steadier number."
    for system, reason in not_run.items():
        text += f" Not run: {PEERS.get(system, system)} ({reason})."
    return text


def write(file: Path, text: str) -> None:
    """Puts the text between the marks of a page."""
    page = file.read_text()
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{file} has no place for the table ({BEGIN} ... {END})")
    file.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--snakehouse", default=str(ROOT / "target/release/snakehouse"))
    parser.add_argument("--python", help="the environment's; default: what setup.sh makes")
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cells", default=CELLS)
    parser.add_argument("--systems", default=",".join([OURS, *PEERS]))
    parser.add_argument("--pick", choices=["median", "best"], default="median", help=PICK)
    parser.add_argument("--json", type=Path, help="keep conditions and every sample here")
    parser.add_argument("--from", dest="kept", type=Path, help="make the table of what was kept")
    parser.add_argument("--write", type=Path, help="put the table into this page")
    args = parser.parse_args()
    if args.kept is not None:
        return args
    if not Path(args.snakehouse).exists():
        parser.error(f"{args.snakehouse} is not there: cargo build --release -p snakehouse")
    if args.python is None:
        made = subprocess.run([HERE / "setup.sh"], stdout=subprocess.PIPE, text=True)
        if made.returncode != 0:
            sys.exit(made.returncode)
        args.python = made.stdout.strip()
    return args


def measure(args: argparse.Namespace) -> tuple[Samples, list[Cell], str]:
    """All rounds; the samples, the cells and the conditions."""
    cells = [Cell(*map(int, text.split(":"))) for text in args.cells.split(",")]
    order = args.systems.split(",")
    samples: Samples = {}
    not_run: dict[str, str] = {}
    for system in order:
        reason = missing(args.python, system)
        if reason is not None:
            not_run[system] = reason
    loads = [os.getloadavg()[0]]
    for turn in range(args.rounds):
        start = turn % len(order)
        for system in order[start:] + order[:start]:
            if system in not_run:
                continue
            began = time.monotonic()
            try:
                if system == OURS:
                    found = measure_ours(args.snakehouse, args.python, cells, args.seconds)
                else:
                    found = measure_peer(args.python, system, cells, args.seconds)
            except NotRun as error:
                not_run[system] = str(error)
                continue
            for name, by_cell in found.items():
                for cell, got in by_cell.items():
                    samples.setdefault(name, {}).setdefault(cell, []).extend(got)
            loads.append(os.getloadavg()[0])
            took = time.monotonic() - began
            print(f"round {turn + 1}: {system}: {took:.0f} s", file=sys.stderr)
    for system, reason in not_run.items():
        print(f"not run: {system}: {reason}", file=sys.stderr)
    return samples, cells, conditions(args, loads, not_run)


def keep(file: Path, samples: Samples, stand: str) -> None:
    """The conditions, then a line per system and cell."""
    rows: list[dict[str, Any]] = [{"conditions": stand}]
    for system, by_cell in samples.items():
        rows += [
            {"system": system, **cell._asdict(), "samples": got} for cell, got in by_cell.items()
        ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def kept(file: Path) -> tuple[Samples, list[Cell], str]:
    """What `keep` wrote."""
    first, *rows = map(json.loads, file.read_text().splitlines())
    samples: Samples = {}
    cells: list[Cell] = []
    for row in rows:
        cell = Cell(row["payload"], row["workers"], row["in_flight"])
        if cell not in cells:
            cells.append(cell)
        samples.setdefault(row["system"], {})[cell] = row["samples"]
    return samples, sorted(cells), first["conditions"]


def main() -> None:
    """Measures or reads, and reports."""
    args = arguments()
    if args.kept is None:
        os.environ["SNAKEHOUSE_BINARY"] = str(Path(args.snakehouse).resolve())
    samples, cells, stand = kept(args.kept) if args.kept else measure(args)
    how = "Medians of the rounds." if args.pick == "median" else "The best round of each cell."
    text = f"{table(samples, cells, args.pick)}\n\n{stand} {how}"
    print(text)
    if args.write:
        write(args.write, text)
    if args.json:
        keep(args.json, samples, stand)


if __name__ == "__main__":
    main()
