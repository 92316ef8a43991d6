"""Makes virtual environments from lock files: a worker's tool, so that a host can do it.

As a call it has all that calls have: a deadline, cancelling, progress as it happens, and an end of
every process that the installer started, whoever dies. What is made stands in the cache under a key
of all that decides what is in it: the lock file, the files that it names, and the interpreter. It
counts once its mark is there, which is written last; one without a mark is made anew.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from snakehouse import ToolError, tool

#: Environments that are kept. Of more, those that were used least recently go, unless in use.
KEPT = 16

#: Lines of the installer's that a failure tells.
TOLD = 12

#: The first pip that has ``--python``.
_PIP_FOR_OTHERS = (22, 3)

_MARK = "complete"
_INCLUDES = re.compile(r"(?:-r|-c|--requirement|--constraint)[ =]*(\S+)")
_LOCAL = re.compile(r"(?:.*@\s*)?(?:file://)?((?:[./~]|[A-Za-z0-9_-]+/)\S*)")


@tool
def ensure(lock: bytes, cache: bytes) -> Generator[str, None, dict[str, bytes]]:
    """Yields what the installer says; returns the interpreter and the file to hold it by.

    Paths are bytes: not every name of a file is a text.
    """
    requirements = Path(os.fsdecode(lock))
    key = key_of(requirements)
    below = Path(os.fsdecode(cache)) / "environments"
    below.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = below / key
    with _held(_lock(below, key)):
        if not (root / _MARK).exists():
            shutil.rmtree(root, ignore_errors=True)
            yield from _make(root, requirements)
            _mark(root)
        os.utime(root / _MARK)
        _use(below, key).touch(mode=0o600)
    _forget(below, key)
    return {"python": os.fsencode(root / "bin" / "python"), "use": os.fsencode(_use(below, key))}


def key_of(requirements: Path) -> str:
    """A hash of what decides the content of the environment.

    Raises:
        ToolError: a file cannot be read, or something is editable: it may change without a trace.
    """
    digest = hashlib.sha256(os.fsencode(f"{sys.executable}\n{sys.version}\n"))
    seen: set[Path] = set()

    def add(file: Path) -> None:
        if file in seen:
            return
        seen.add(file)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ToolError(
                f"cannot read {file}: {error}",
                code="lock_file_unreadable",
                hint="name a requirements file, such as `uv pip compile` writes",
            ) from error
        digest.update(len(text).to_bytes(8, "little") + text.encode())
        for line in map(str.strip, text.splitlines()):
            if line.startswith(("-e", "--editable")):
                raise ToolError(
                    f"{file} has an editable requirement: {line}",
                    code="lock_file_not_fixed",
                    hint="build a wheel of it and name that",
                )
            if found := _INCLUDES.match(line):
                add((file.parent / found[1]).resolve())
            elif (found := _LOCAL.match(line)) and (path := file.parent / found[1]).is_file():
                digest.update(hashlib.sha256(path.read_bytes()).digest())

    add(requirements.resolve())
    return digest.hexdigest()[:32]


def _make(root: Path, requirements: Path) -> Iterator[str]:
    python = str(root / "bin" / "python")
    if uv := shutil.which("uv"):
        yield from _run([uv, "venv", "--quiet", "--python", sys.executable, str(root)], root)
        install = [uv, "pip", "install", "--python", python]
    else:
        # A pip that is there installs into other environments; making one for each takes seconds.
        ours = _own_pip() >= _PIP_FOR_OTHERS
        without = ["--without-pip"] if ours else []
        yield from _run([sys.executable, "-m", "venv", *without, str(root)], root)
        pip = [sys.executable, "-m", "pip", "--python", python] if ours else [python, "-m", "pip"]
        install = [*pip, "install", "--disable-pip-version-check", "--no-input"]
    # Paths in the file are meant from where it lies.
    yield from _run([*install, "-r", requirements.name], requirements.resolve().parent)


def _own_pip() -> tuple[int, ...]:
    try:
        found = importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(int(part) for part in found.split(".")[:2] if part.isdigit())


def _run(command: list[str], directory: Path) -> Iterator[str]:
    told: deque[str] = deque(maxlen=TOLD)
    with subprocess.Popen(  # noqa: S603 the command is made here
        command,
        cwd=directory if directory.is_dir() else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                told.append(line.rstrip())
                yield told[-1]
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        said = "\n".join(told)
        raise ToolError(
            f"`{shlex.join(command)}` ended with {process.returncode}:\n{said}",
            code="environment_not_made",
            hint=_hint(said),
        )


def _hint(said: str) -> str:
    if "ensurepip" in said:
        return "install uv, or the package python3-venv of your distribution"
    if "No space left" in said:
        return "free some space, or set XDG_CACHE_HOME to a directory on another disk"
    if "hash" in said.lower():
        return "the package is not the one that was locked: lock again, or find out why"
    if "No matching distribution" in said or "no version" in said or "not found" in said:
        version = ".".join(map(str, sys.version_info[:2]))
        return f"check that the locked version exists for Python {version} and is reachable"
    return "run the command by hand to see all that it says"


def _mark(root: Path) -> None:
    """Says that the environment is whole, once that is on the disk."""
    with open(root / _MARK, "xb") as file:
        os.fsync(file.fileno())


def _lock(below: Path, key: str) -> Path:
    """Whoever makes an environment, or forgets it, holds this file's lock."""
    return below / f"{key}.lock"


def _use(below: Path, key: str) -> Path:
    """Hosts that use an environment share this file's lock."""
    return below / f"{key}.use"


@contextmanager
def _held(path: Path, *, wait: bool = True) -> Generator[bool]:
    """Holds a lock alone; says whether it could, if it is not to wait."""
    while True:
        with open(path, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            # Whoever forgot the environment meanwhile has removed this file.
            if _is_at(path, os.fstat(file.fileno())):
                yield True
                return


def _is_at(path: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), file)
    except FileNotFoundError:
        return False


def _forget(below: Path, own: str) -> None:
    """Removes what was used least recently of too many, unless somebody uses it."""
    marks = list(below.glob(f"*/{_MARK}"))
    marks.sort(key=_last_use, reverse=True)
    for mark in marks[KEPT:]:
        key = mark.parent.name
        if key == own:
            continue
        lock, use = _lock(below, key), _use(below, key)
        with _held(lock, wait=False) as alone, _held(use, wait=False) as unused:
            if alone and unused:
                mark.unlink(missing_ok=True)
                shutil.rmtree(mark.parent, ignore_errors=True)
                use.unlink()
                lock.unlink()


def _last_use(mark: Path) -> float:
    try:
        return mark.stat().st_mtime
    except FileNotFoundError:
        return 0
