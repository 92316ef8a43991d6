#!/usr/bin/env python3
"""Runs the unmodified official SDK against a real `snakehouse up`. See README.md beside this file.

Needs only the standard library; the SDK lives in an environment of its own.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import venv

HERE = pathlib.Path(__file__).resolve().parent
EXAMPLE = HERE.parent.parent / "examples" / "official_sdk.py"
REQUIREMENTS = HERE / "requirements.txt"
READY_WITHIN = 60.0
SCRIPT_WITHIN = 420.0
# After which lines of `train.py` `up` is killed: early, in the middle, around the save, late.
KILL_AFTER = ["step 2", "step 7", "step 13", "saved", "went_on", "sampled"]


class Failed(Exception):
    """A case did not hold."""


def environment():
    """The interpreter of the SDK's environment, made if it is not there."""
    explicit = os.environ.get("SNAKEHOUSE_CACHE")
    default = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    cache = pathlib.Path(explicit) if explicit else pathlib.Path(default) / "snakehouse"
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    target = cache / "environments" / f"official-sdk-{key}"
    python = target / "bin" / "python"
    if python.exists():
        return python
    # Made beside its place and renamed, so that a half-made one is never used. The scripts in
    # bin/ name the first place; only the interpreter is used, which does not.
    target.parent.mkdir(parents=True, exist_ok=True)
    making = pathlib.Path(tempfile.mkdtemp(prefix=target.name, dir=target.parent))
    try:
        uv = shutil.which("uv")
        if uv:
            run_quietly(
                [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, making]
            )
            install = [uv, "pip", "install", "--quiet", "--python", making / "bin" / "python"]
        else:
            venv.create(making, with_pip=True)
            install = [making / "bin" / "python", "-m", "pip", "install", "--quiet"]
            install += ["--disable-pip-version-check"]
        run_quietly([*install, "--no-deps", "-r", REQUIREMENTS])
        with contextlib.suppress(OSError):
            making.rename(target)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return python


def run_quietly(command):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Failed(f"{command[0]} failed: {done.stdout}{done.stderr}")


class Up:
    """A `snakehouse up` that can be killed and started again on its port and state."""

    def __init__(self, binary, home):
        self.binary, self.home, self.port, self.process = binary, home, free_port(), None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [self.binary, "--home", self.home, "--json", "up", "--port", str(self.port)]
        log = pathlib.Path(self.home).parent / "up.log"
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        line = self.process.stdout.readline()
        if "url" not in (json.loads(line) if line.startswith("{") else {}):
            self.process.wait()
            raise Failed(f"up did not start: {line}{log.read_text(errors='replace')[-4000:]}")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=READY_WITHIN)


def free_port():
    """A port that nobody has now; `up` must come back on the same one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(binary):
    with tempfile.TemporaryDirectory(prefix="snakehouse-sdk-") as base:
        up = Up(binary, os.path.join(base, "home"))
        up.start()
        try:
            yield up
            code = up.stop()
            if code != 0:
                raise Failed(f"up ended with {code} on SIGTERM")
        finally:
            if up.process.poll() is None:
                up.kill()


def script(python, name, up, on_line=lambda event: None):
    """Runs one script to its end and returns what it said last."""
    env = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": tempfile.gettempdir(),
        "PYTHONPATH": str(HERE),
        "PYTHONWARNINGS": "ignore",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SNAKEHOUSE_TEST_URL": up.url,
    }
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [str(python), str(HERE / name)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        guard = threading.Timer(SCRIPT_WITHIN, process.kill)
        guard.start()
        last = {}
        try:
            for line in process.stdout:
                if line.startswith("{"):
                    last = json.loads(line)
                    on_line(last)
            code = process.wait()
        finally:
            guard.cancel()
            process.kill()
            process.wait()
        errors.seek(0)
        if code != 0 or last.get("event") != "done":
            raise Failed(f"{name} ended with {code} after {last}:\n{errors.read()[-6000:]}")
    return last


def case_start(python, binary, _random):
    with running(binary) as up:
        return {"model_id": script(python, "start.py", up)["model_id"]}


def case_train(python, binary, _random):
    with running(binary) as up:
        done = script(python, "train.py", up)
        return {"loss_first": done["losses"][0], "loss_last": done["losses"][-1]}


def case_bad_input(python, binary, _random):
    refused = []
    with running(binary) as up:
        script(python, "bad_input.py", up, lambda e: refused.append(e.get("name")))
        return {"refused": len([name for name in refused if name])}


def case_killed(python, binary, chance):
    with running(binary) as up:
        undisturbed = script(python, "train.py", up)
    with running(binary) as up:
        kills, outages = [], []

        def kill(event):
            place = event["event"] + (f" {event['number']}" if "number" in event else "")
            if place not in KILL_AFTER:
                return
            # Somewhere inside what the script does next.
            time.sleep(chance.uniform(0.0, 0.15))
            begin = time.monotonic()
            up.kill()
            up.start()
            kills.append(place)
            outages.append(round(time.monotonic() - begin, 2))

        disturbed = script(python, "train.py", up, kill)
    for key in undisturbed:
        if undisturbed[key] != disturbed[key]:
            raise Failed(f"{key} differs: {undisturbed[key]} and, killed, {disturbed[key]}")
    if kills != KILL_AFTER:
        raise Failed(f"killed only after {kills}")
    return {"kills": len(kills), "outages_s": outages}


def case_example(python, binary, _random):
    """The program that the README shows."""
    with running(binary) as up:
        env = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": tempfile.gettempdir(),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TINKER_BASE_URL": up.url,
            "TINKER_API_KEY": "tml-local",
        }
        done = subprocess.run(
            [str(python), str(EXAMPLE)],
            env=env,
            capture_output=True,
            text=True,
            timeout=SCRIPT_WITHIN,
            check=False,
        )
    if done.returncode != 0 or "answer 4" not in done.stdout.splitlines():
        raise Failed(f"{EXAMPLE.name} said {done.stdout!r}:\n{done.stderr[-6000:]}")
    return {"answer": "4"}


CASES = {
    "start": case_start,
    "train": case_train,
    "bad_input": case_bad_input,
    "killed": case_killed,
    "example": case_example,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True, type=pathlib.Path, help="the snakehouse binary")
    parser.add_argument("--only", choices=CASES, help="run one case")
    parser.add_argument("--seed", type=int, default=None, help="replay the kills of a run")
    arguments = parser.parse_args()
    binary = str(arguments.binary.resolve(strict=True))
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(2**32)
    python = environment()
    failed = 0
    for name, case in CASES.items():
        if arguments.only not in (None, name):
            continue
        begin = time.monotonic()
        try:
            facts = {"ok": True, **case(python, binary, random.Random(seed))}
        except Failed as error:
            failed += 1
            print(error, file=sys.stderr)
            facts = {"ok": False, "seed": seed}
        facts["wall_s"] = round(time.monotonic() - begin, 1)
        print(json.dumps({"case": name, **facts}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
