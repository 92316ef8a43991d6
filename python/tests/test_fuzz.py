"""Mutated bytes for the codecs and for the worker's loop: refused or served, never anything else.

``SNAKEHOUSE_FUZZ`` says how many inputs (default 20,000 values and 2,000 conversations; soak
3,000,000), ``SNAKEHOUSE_TEST_SEED`` from which seed; a failure shows the input. That Rust agrees is
tested in ``crates/pool/tests/it/fuzz.rs``.
"""

from __future__ import annotations

import os
import random
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

import snakehouse
from golden import VECTORS
from snakehouse import MalformedValue, _codec, _frames, _msgpack
from snakehouse._doorbell import Doorbell
from snakehouse._loop import Loop
from snakehouse._tool import find_tools
from values import equal

COUNT = int(os.environ.get("SNAKEHOUSE_FUZZ", "20000"))
SEED = int(os.environ.get("SNAKEHOUSE_TEST_SEED", "1"))
_KEPT = Path(__file__).parents[2] / "crates/wire/tests/golden/corpus.txt"


def corpus(kept: str, *sections: str) -> list[bytes]:
    golden = [vector["bytes"] for section in sections for vector in VECTORS[section]]
    lines = [line.split() for line in _KEPT.read_text().splitlines() if line.startswith(kept)]
    return [bytes.fromhex(text) for text in golden + [line[1] for line in lines]]


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(chance.choice(seeds)[:4096])
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(data) + 1)
        until = min(len(data), at + chance.randrange(24))
        match chance.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data.insert(at, chance.choice([0, 1, 0x7F, *range(0x80, 0x100)]))
            case 2:
                del data[at:until]
            case 3:
                data[at:at] = data[at:until]
            case 4:
                data[at:until] = chance.choice(seeds)[:512]
            case _:
                data += chance.choice(seeds)[:512]
    return bytes(data)


def test_what_a_codec_accepts_is_stable_and_the_same_in_both() -> None:
    chance = random.Random(SEED)
    seeds = corpus("values", "values", "rejected")
    fast, pure = _codec.choose(), _codec.Codec("python", _msgpack.encode, _msgpack.decode)
    for _ in range(COUNT):
        data = mutated(chance, seeds)
        found = [verdict(codec, data) for codec in (fast, pure)]
        # What the C codec alone accepts: see the end of what `_codec` says.
        known = type(found[1]) is str and ("twice" in found[1] or "type -1" in found[1])
        is_same = found[0] == found[1] or all(type(each) is str for each in found)
        assert is_same or known, (SEED, data.hex(), found)


def verdict(codec: _codec.Codec, data: bytes) -> bytes | str:
    try:
        value = codec.decode(data)
    except MalformedValue as error:
        return str(error)
    try:
        encoded = codec.encode(value)
    except snakehouse.UnsupportedValue as error:
        return str(error)
    assert equal(codec.decode(encoded), value), data.hex()
    assert codec.encode(codec.decode(encoded)) == encoded
    return encoded


@snakehouse.tool
def echo(*args: Any, **kwargs: Any) -> Any:
    return [args, kwargs]


@snakehouse.tool
def items(*args: Any) -> Any:
    yield from args


@snakehouse.tool
def sums() -> Any:
    return list(snakehouse.incoming())


def test_the_loop_serves_or_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(SEED)
    seeds = corpus("frames", "frames", "bad_frames")
    arguments: list[Any] = [[1, "two"], {}]
    body = _msgpack.encode(arguments)
    for number in range(4):
        for flags in (0, 1, 2, 3):
            head = _frames.OPEN.pack(number, flags, _frames.NEVER, 0) + bytes(28)
            seeds += [_frames.frame(_frames.KIND_OPEN, 1 + flags, head + body)] * 3

    # A loop is for the whole life of a process; these are for one conversation each.
    def nothing(**_: object) -> None: ...

    monkeypatch.setattr(os, "register_at_fork", nothing)
    tools = find_tools({"echo": echo, "items": items, "sums": sums})
    for _ in range(COUNT // 10):
        data = mutated(chance, seeds)
        converse(data, tools)


def converse(data: bytes, tools: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        try:
            Loop(theirs, Doorbell(None), _codec.choose(), tools).run()
        except (_frames.ProtocolError, OSError):
            pass
        except BaseException as error:
            raise AssertionError((SEED, data.hex())) from error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        theirs.shutdown(socket.SHUT_RDWR)
        said = b""
        while piece := ours.recv(1 << 20):
            said += piece
    at = 0
    while at < len(said):
        length, kind, _ = _frames.HEAD.unpack_from(said, at)
        assert 1 <= kind <= 12, (SEED, data.hex(), said.hex())
        at += _frames.HEAD.size + length
    assert at == len(said), "half a frame"
