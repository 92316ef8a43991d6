"""Which environments there are, and which are forgotten; making them is tested from Rust."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from snakehouse import ToolError, _environment


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was made; nothing is installed."""
    roots: list[Path] = []

    def make(root: Path, _requirements: Path) -> Iterator[str]:
        roots.append(root)
        root.mkdir()
        yield "made"

    monkeypatch.setattr(_environment, "_make", make)
    return roots


def ensure(lock: Path, cache: Path) -> dict[str, bytes]:
    making = _environment.ensure(bytes(lock), bytes(cache))
    while True:
        try:
            next(making)
        except StopIteration as end:
            return end.value


def test_the_key_is_of_all_that_decides_the_content(tmp_path: Path) -> None:
    lock, more, wheel = tmp_path / "r.txt", tmp_path / "more.txt", tmp_path / "a.whl"
    lock.write_text("-r more.txt\n./a.whl\nb @ file://" + str(wheel) + "\n")
    more.write_text("-r r.txt\nc==1\n")
    wheel.write_bytes(b"one")
    keys = [_environment.key_of(lock)]
    more.write_text("-r r.txt\nc==2\n")
    keys.append(_environment.key_of(lock))
    wheel.write_bytes(b"two")
    keys.append(_environment.key_of(lock))
    assert len(set(keys)) == 3
    assert keys[-1] == _environment.key_of(lock)


def test_what_may_change_without_a_trace_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "r.txt"
    lock.write_text("--editable ../x\n")
    with pytest.raises(ToolError) as refused:
        _environment.key_of(lock)
    assert refused.value.code == "lock_file_not_fixed"
    with pytest.raises(ToolError) as unreadable:
        _environment.key_of(tmp_path / "absent.txt")
    assert unreadable.value.code == "lock_file_unreadable"


def test_of_too_many_the_oldest_that_nobody_uses_are_forgotten(
    tmp_path: Path, made: list[Path]
) -> None:
    cache, lock = tmp_path / "cache", tmp_path / "r.txt"
    used = None
    for n in range(_environment.KEPT + 1):
        lock.write_text(f"a=={n}\n")
        found = ensure(lock, cache)
        os.utime(made[-1] / "complete", (n, n))
        if n == 0:
            used = open(found["use"])  # noqa: SIM115 held until the end of the test
            fcntl.flock(used, fcntl.LOCK_SH)
    lock.write_text("b==1\n")
    ensure(lock, cache)
    assert used is not None
    assert made[0].is_dir(), "it is in use"
    assert not made[1].exists()
    assert all(root.is_dir() for root in made[2:])
    used.close()
    lock.write_text("c==1\n")
    ensure(lock, cache)
    assert not made[0].exists()
    left = {path.stem for path in (cache / "environments").iterdir()}
    assert left == {root.name for root in made if root.exists()}


def test_it_is_made_once(tmp_path: Path, made: list[Path]) -> None:
    lock = tmp_path / "r.txt"
    lock.write_text("a==1\n")
    assert ensure(lock, tmp_path / "cache") == ensure(lock, tmp_path / "cache")
    assert len(made) == 1


def test_a_path_may_have_any_name(tmp_path: Path, made: list[Path]) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    lock = odd / os.fsdecode(b"r\xff.txt")
    lock.write_text("a==1\n")
    found = ensure(lock, odd)
    assert Path(os.fsdecode(found["python"])) == made[0] / "bin" / "python"
    assert b"caf\xe9" in found["use"]
    assert Path(os.fsdecode(found["use"])).is_file()
    with pytest.raises(ToolError) as unreadable:
        _environment.key_of(odd / os.fsdecode(b"\xfe"))
    assert unreadable.value.code == "lock_file_unreadable"
