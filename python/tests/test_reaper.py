"""A real reaper: what it starts, and that nothing is left when its host is gone."""

from __future__ import annotations

import array
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cancel import wait_until

from conftest import BOUND, WORKER

REAPER = Path(__file__).parents[1] / "snakehouse" / "_reaper.py"
ENV = {"PATH": os.environ["PATH"]}


class Reaper:
    """The host's end of one reaper; all its workers share a pipe as standard output."""

    def __init__(self, program: Path = REAPER) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(BOUND)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program), str(os.getpid())],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        self.out, self._out = os.pipe()
        self._lifelines: list[int] = []
        self._count = 0
        assert self.event()["event"] == "ready"

    def spawn(
        self,
        *argv: str,
        cwd: str | None = None,
        env: dict[str, str] = ENV,
        zygote: dict[str, list[str]] | None = None,
    ) -> int:
        """Asks for a worker; its number."""
        self._count += 1
        null = os.open(os.devnull, os.O_RDWR)
        lifeline, kept = os.pipe()
        self._lifelines.append(kept)
        fds = array.array("i", [null, null, lifeline, self._out, self._out])
        message: dict[str, Any] = {
            "op": "spawn",
            "id": self._count,
            "argv": argv,
            "env": env,
            "cwd": cwd,
        }
        message["zygote"] = zygote
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        self.socket.sendmsg([json.dumps(message).encode()], rights)
        os.close(null)
        os.close(lifeline)
        assert self.expect("taken")["id"] == self._count
        return self._count

    def fork(self, module: Path, *preload: str, **options: Any) -> int:
        """Asks for a worker that a zygote forks."""
        base = [sys.executable, "-P", str(WORKER)]
        zygote = {"argv": [*base, "--zygote"], "preload": list(preload), "args": [str(module)]}
        return self.spawn(*base, str(module), zygote=zygote, **options)

    def python(self, code: str, **options: Any) -> int:
        return self.spawn(sys.executable, "-I", "-S", "-c", code, **options)

    def event(self) -> dict[str, Any]:
        data, ancillary, _, _ = self.socket.recvmsg(1 << 17, 1 << 10)
        for _, _, payload in ancillary:
            fds = array.array("i")
            fds.frombytes(payload)
            for fd in fds:
                os.close(fd)
        return json.loads(data)

    def expect(self, event: str) -> dict[str, Any]:
        got = self.event()
        assert got["event"] == event, got
        return got

    def read(self, length: int) -> bytes:
        """From the workers' standard output; less at its end, when all that held it are gone."""
        data = b""
        while len(data) < length:
            assert select.select([self.out], [], [], BOUND)[0]
            piece = os.read(self.out, length - len(data))
            if not piece:
                break
            data += piece
        return data

    def hang_up(self) -> None:
        self.socket.close()
        if self._out >= 0:
            os.close(self._out)
            self._out = -1

    def gone(self) -> str:
        """Waits for its exit, which comes when it has no child any more; what it said."""
        _, err = self.process.communicate(timeout=BOUND)
        assert self.process.returncode == 0
        assert select.select([self.out], [], [], BOUND)[0]
        while os.read(self.out, 1 << 16):
            pass
        return err.decode()

    def close(self) -> None:
        self.hang_up()
        for fd in (self.out, *self._lifelines):
            os.close(fd)
        self.process.kill()
        self.process.communicate(timeout=BOUND)


Start = Callable[..., Reaper]


@pytest.fixture
def start_reaper() -> Iterator[Start]:
    reapers: list[Reaper] = []

    def start(*args: Any) -> Reaper:
        reapers.append(Reaper(*args))
        return reapers[-1]

    yield start
    for reaper in reapers:
        reaper.close()


@pytest.fixture
def patched(tmp_path: Path) -> Callable[[str], Path]:
    """The reaper's program with some lines before its start, where ``reaper`` is the module."""

    def write(lines: str) -> Path:
        program = tmp_path / "reaper.py"
        program.write_text(
            "import importlib.util, os, sys\n"
            f"spec = importlib.util.spec_from_file_location('reaper', {str(REAPER)!r})\n"
            "reaper = importlib.util.module_from_spec(spec)\n"
            "spec.loader.exec_module(reaper)\n"
            f"{lines}\n"
            "sys.exit(reaper.main())\n"
        )
        return program

    return write


# Says its pid and sleeps.
SLEEPER = "import os, signal; os.write(1, b'%10d' % os.getpid()); signal.pause()"
# One process of a session of its own that nobody waits for, below many.
MANY = """
import os, signal
for n in range(1100):
    if not os.fork():
        os.setsid()
        os.write(1, b'.')
        signal.pause()
signal.pause()
"""


def test_a_worker_starts_and_its_end_is_told(start_reaper: Start) -> None:
    reaper = start_reaper()
    number = reaper.spawn("/bin/sh", "-c", "exit 5")
    spawned = reaper.expect("spawned")
    exited = reaper.expect("exited")
    assert (spawned["id"], exited["id"], exited["pid"]) == (number, number, spawned["pid"])
    assert (exited["code"], exited["signal"]) == (5, None)


def test_what_cannot_start_is_refused_with_its_reason(start_reaper: Start) -> None:
    reaper = start_reaper()
    number = reaper.spawn("/nowhere/at/all")
    refused = reaper.expect("refused")
    assert (refused["id"], refused["errno"]) == (number, 2)
    assert refused["message"] == "program /nowhere/at/all: No such file or directory"
    reaper.python(SLEEPER, cwd="/nowhere")
    assert reaper.expect("refused")["message"].startswith("working directory /nowhere")
    reaper.python(SLEEPER)
    reaper.expect("spawned")


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("worker_first", [True, False])
def test_more_than_a_thousand_processes_are_ended(
    start_reaper: Start, patched: Callable[[str], Path], listed: bool, worker_first: bool
) -> None:
    """With the kernel's list of children, and on a kernel that has none."""
    hide = "reaper.CLOEXEC_READ = os.O_WRONLY | os.O_DIRECTORY"
    reaper = start_reaper(REAPER if listed else patched(hide))
    reaper.python(MANY)
    pid = reaper.expect("spawned")["pid"]
    assert len(reaper.read(1100)) == 1100
    if worker_first:
        os.kill(pid, 9)
        assert reaper.expect("exited")["signal"] == 9
    reaper.hang_up()
    assert reaper.gone() == ""


def test_it_ends_everything_with_hardly_any_descriptors(
    start_reaper: Start, patched: Callable[[str], Path]
) -> None:
    """No descriptor to be had is not the same as a process that is gone."""
    reaper = start_reaper(
        patched(
            "import resource\n"
            "end = reaper.Reaper.end_everything\n"
            "def without(self):\n"
            "    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
            "    end(self)\n"
            "reaper.Reaper.end_everything = without"
        )
    )
    reaper.python(MANY)
    reaper.expect("spawned")
    assert len(reaper.read(1100)) == 1100
    reaper.hang_up()
    assert reaper.gone() == ""


def test_it_sleeps_while_something_below_it_cannot_be_ended(
    start_reaper: Start, patched: Callable[[str], Path]
) -> None:
    reaper = start_reaper(
        patched(
            "kill, rounds = os.kill, reaper.Reaper.kill_children\n"
            "def refuse(pid, number):\n"
            "    if b'UNTOUCHABLE=' in open(f'/proc/{pid}/environ', 'rb').read():\n"
            "        raise PermissionError(1, 'Operation not permitted')\n"
            "    kill(pid, number)\n"
            "def counted(self, **options):\n"
            "    os.write(2, b'round\\n')\n"
            "    return rounds(self, **options)\n"
            "reaper.os.kill = refuse\n"
            "reaper.os.killpg = refuse\n"
            "reaper.Reaper.kill_children = counted"
        )
    )
    reaper.python(SLEEPER, env={**ENV, "UNTOUCHABLE": "1"})
    reaper.expect("spawned")
    untouchable = int(reaper.read(10))
    reaper.python(SLEEPER)
    reaper.expect("spawned")
    other = int(reaper.read(10))
    reaper.hang_up()
    wait_until(lambda: not Path(f"/proc/{other}").exists())
    with pytest.raises(subprocess.TimeoutExpired):
        # Not how long it takes is of interest but how often it looks meanwhile.
        reaper.process.wait(timeout=0.5)
    os.kill(untouchable, 9)
    said = reaper.gone().splitlines()
    refused = f"snakehouse reaper: cannot end process {untouchable}: Operation not permitted"
    assert said.count(refused) == 1
    assert said.count("round") <= 4


@pytest.mark.parametrize("is_released", [True, False])
def test_a_start_that_hangs_holds_up_nothing(
    start_reaper: Start, patched: Callable[[str], Path], tmp_path: Path, is_released: bool
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    reaper = start_reaper(patched("reaper.os.chdir = lambda path: open(path).close()"))
    hung = reaper.python(SLEEPER, cwd=str(gate))
    other = reaper.spawn("/bin/sh", "-c", "exit 0")
    assert reaper.expect("spawned")["id"] == other
    assert reaper.expect("exited")["id"] == other
    if is_released:
        gate.write_text("")
        assert reaper.expect("spawned")["id"] == hung
        assert reaper.read(10)
    reaper.hang_up()
    assert reaper.gone() == ""


def test_the_generators_of_numpy_and_torch_are_seeded_in_each_worker(
    start_reaper: Start, tmp_path: Path
) -> None:
    seeded = tmp_path / "seeded"
    says = f"import os\ndef seed():\n    with open({str(seeded)!r}, 'a') as file:\n"
    says += "        file.write(f'{os.getpid()} {__name__}\\n')\n"
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("")
    (tmp_path / "numpy" / "random.py").write_text(says)
    (tmp_path / "torch.py").write_text(says)
    env = {**ENV, "PYTHONPATH": str(tmp_path)}
    reaper = start_reaper()
    for worker in range(2):
        reaper.fork(tmp_path / "nothing.py", "numpy.random", "torch", env=env)
        if worker == 0:
            assert reaper.expect("zygote")["preload"] == ["numpy.random", "torch"]
        spawned = reaper.expect("spawned")
        assert spawned["zygote"] is not None
        # It finds no host, and says so.
        assert reaper.expect("exited")["code"] == 78
        for name in ("numpy.random", "torch"):
            assert f"{spawned['pid']} {name}" in seeded.read_text().splitlines()
    reaper.hang_up()
    reaper.gone()


def test_a_worker_that_cannot_be_forked_is_refused_and_the_next_one_is_forked(
    start_reaper: Start, tmp_path: Path
) -> None:
    (tmp_path / "forks.py").write_text(
        f"""
import os
fork, zygote = os.fork, os.getpid()
def fail():
    if os.getpid() != zygote and not os.path.exists({str(tmp_path / "gate")!r}):
        raise BlockingIOError(11, "no room")
    return fork()
os.fork = fail
"""
    )
    env = {**ENV, "PYTHONPATH": str(tmp_path)}
    reaper = start_reaper()
    for _ in range(3):
        number = reaper.fork(tmp_path / "nothing.py", "forks", env=env)
        if number == 1:
            assert reaper.expect("zygote")["preload"] == ["forks"]
        refused = reaper.expect("refused")
        assert (refused["id"], refused["errno"], refused["message"]) == (
            number,
            11,
            "fork: no room",
        )
    (tmp_path / "gate").write_text("")
    reaper.fork(tmp_path / "nothing.py", "forks", env=env)
    assert reaper.expect("spawned")["zygote"] is not None
    reaper.hang_up()
    reaper.gone()


def test_an_import_that_does_not_end_is_given_up(start_reaper: Start, tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("import os, signal\nos.write(1, b'here')\nsignal.pause()\n")
    reaper = start_reaper()
    number = reaper.fork(module, str(module))
    assert reaper.read(4) == b"here"
    reaper.socket.send(json.dumps({"op": "give_up", "id": number}).encode())
    refused = reaper.expect("refused")
    assert (refused["id"], refused["message"]) == (number, "no zygote was ready in time")
    assert reaper.expect("zygote_exited")["signal"] == 9
    reaper.hang_up()
    assert reaper.gone() == ""


def test_no_more_than_a_few_zygotes_are_kept_without_a_worker(
    start_reaper: Start, tmp_path: Path
) -> None:
    module = tmp_path / "module.py"
    module.write_text("import os\nos._exit(0)\n")
    reaper = start_reaper()
    alive: set[int] = set()
    for n in range(7):
        reaper.fork(module, env={**ENV, "KIND": str(n)})
        events = [reaper.event() for _ in range(3)]
        while (event := events.pop(0) if events else reaper.event())["event"] != "exited":
            if event["event"] == "zygote":
                alive.add(event["pid"])
            elif event["event"] == "zygote_exited":
                alive.discard(event["pid"])
        for event in events:
            assert event["event"] == "zygote_exited"
            alive.discard(event["pid"])
    while len(alive) > 5:
        alive.discard(reaper.expect("zygote_exited")["pid"])
    reaper.hang_up()
    reaper.gone()
