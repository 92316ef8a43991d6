"""Both codecs against the golden vectors, against each other, and against garbage."""

from __future__ import annotations

import collections
import contextlib
import enum
import os
import random
import subprocess
import sys
import types
from datetime import datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock
from zoneinfo import ZoneInfo

import pytest

import snakehouse
from conftest import BOUND
from golden import VECTORS, value_of
from snakehouse import MalformedValue, UnsupportedValue, _codec, _limits, _marks, _msgpack
from values import equal, random_value

PURE = _codec.Codec("python", _msgpack.encode, _msgpack.decode)


@pytest.fixture(params=["msgpack", "python"])
def codec(request: pytest.FixtureRequest) -> _codec.Codec:
    chosen = _codec.choose() if request.param == "msgpack" else PURE
    assert chosen.name == request.param
    return chosen


@pytest.mark.parametrize("vector", VECTORS["values"], ids=lambda v: v["name"])
def test_golden_values(codec: _codec.Codec, vector: dict[str, Any]) -> None:
    value, data = value_of(vector["value"]), bytes.fromhex(vector["bytes"])
    assert codec.encode(value) == data
    assert equal(codec.decode(data), value)


@pytest.mark.parametrize("vector", VECTORS["rejected"], ids=lambda v: v["name"])
def test_rejected_bytes(codec: _codec.Codec, vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedValue):
        codec.decode(bytes.fromhex(vector["bytes"]))


def test_random_values_are_exact_and_equal_in_both(codec: _codec.Codec) -> None:
    chance = random.Random(1)
    for _ in range(2_000):
        value = random_value(chance)
        data = codec.encode(value)
        assert data == PURE.encode(value)
        assert equal(codec.decode(data), value)


def test_garbage_never_surprises(codec: _codec.Codec) -> None:
    chance = random.Random(2)
    for _ in range(20_000):
        data = chance.randbytes(chance.randrange(30))
        try:
            value = codec.decode(data)
        except MalformedValue:
            continue
        assert equal(PURE.decode(PURE.encode(value)), value) or codec.name == "msgpack"


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


class Pair(NamedTuple):
    a: int
    b: int


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            [{Colour.RED}],
            "a value of type test_codecs.Colour cannot travel at $[0].item(<test_codecs.Colour>)",
        ),
        (
            [0, {"k": (1, Colour.RED)}],
            "a value of type test_codecs.Colour cannot travel at $[1]['k'][1]",
        ),
        (
            {Text("x"): 1},
            "a value of type test_codecs.Text cannot travel at $.key(<test_codecs.Text>)",
        ),
        ([Pair(1, 2)], "a value of type test_codecs.Pair cannot travel at $[0]"),
        (
            collections.OrderedDict[str, int](),
            "a value of type collections.OrderedDict cannot travel at $",
        ),
        ({"n": range(3)}, "a value of type range cannot travel at $['n']"),
        (
            [Decimal("1.5")],
            "a value of type decimal.Decimal cannot travel at $[0]",
        ),
        (
            (datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")),),
            "a time zone of type zoneinfo.ZoneInfo cannot travel; "
            "use a datetime.timezone of fixed offset at $[0]",
        ),
        (
            [time(1, tzinfo=timezone(timedelta(hours=1), "CET"))],
            "a datetime.timezone with a name cannot travel at $[0]",
        ),
        (
            [memoryview(b"abcd").cast("H")],
            "a memoryview that is not a plain row of bytes cannot travel at $[0]",
        ),
        (object, "a value of type type cannot travel at $"),
        (["\ud800"], "a str with a lone surrogate cannot travel at $[0]"),
        ({"a" * 60: ...}, f"a value of type ellipsis cannot travel at $['{'a' * 36}...]"),
    ],
)
def test_refused_values_are_named_with_their_place(
    codec: _codec.Codec, value: object, message: str
) -> None:
    with pytest.raises(UnsupportedValue) as caught:
        codec.encode(value)
    assert str(caught.value) == message
    assert codec.encode((1, (2,))) == PURE.encode((1, (2,)))


@pytest.mark.parametrize("container", [list, tuple])
def test_nesting_has_a_limit(codec: _codec.Codec, container: type) -> None:
    value: Any = container()
    for _ in range(_msgpack.MAX_DEPTH - 1):
        value = container([value])
    assert equal(codec.decode(codec.encode(value)), value)
    for _ in range(1_000):
        value = container([value])
    with pytest.raises(UnsupportedValue, match="128 levels"):
        codec.encode(value)


def test_a_value_within_itself_is_refused(codec: _codec.Codec) -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UnsupportedValue, match="128 levels"):
        codec.encode(value)


def test_deep_garbage_is_refused(codec: _codec.Codec) -> None:
    with pytest.raises(MalformedValue):
        codec.decode(b"\x91" * 100_000)


def test_a_view_travels_as_the_bytes_that_it_shows(codec: _codec.Codec) -> None:
    assert equal(codec.decode(codec.encode([memoryview(b"abc")[1:]])), [b"bc"])


def test_a_bytearray_is_found_wherever_it_is(codec: _codec.Codec) -> None:
    hidden = bytearray(b"x" * 300)
    for value in (hidden, [1.5, [hidden]], {"k": {b"": [(hidden, b"x")]}}, [[hidden], b"x" * 9000]):
        assert equal(codec.decode(codec.encode(value)), value)


@pytest.mark.parametrize("size", [1, 40])
def test_the_depth_of_a_value_is_its_deepest_place(codec: _codec.Codec, size: int) -> None:
    value: Any = b"end"
    for _ in range(_limits.MAX_DEPTH - 1):
        value = [b"\xc4" * size, value]
    data = codec.encode(value)
    assert equal(codec.decode(data), value)
    with pytest.raises(UnsupportedValue, match="128 levels"):
        codec.encode({"k": value})
    with pytest.raises(MalformedValue, match="128 levels"):
        codec.decode(b"\x81\xa1k" + data)
    with pytest.raises(UnsupportedValue, match="128 levels"):
        codec.encode({frozenset([as_key(_limits.MAX_DEPTH - 1)]): None})


def as_key(levels: int) -> tuple[Any, ...]:
    return () if levels <= 1 else (as_key(levels - 1),)


def test_items_have_a_limit_that_is_the_same_on_both_ways(
    codec: _codec.Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_limits, "MAX_ITEMS", 1000)
    most: list[Any] = [[None] * 500, {n: (n,) for n in range(166)}]
    assert _limits.count(most) == 1 + 1 + 500 + 1 + 166 * 3
    for module in (_limits, _msgpack, _codec):
        monkeypatch.setattr(module, "MAX_ITEMS", _limits.count(most))
    monkeypatch.setattr(_codec, "_SURVEY_FROM", 0)
    data = codec.encode(most)
    assert equal(codec.decode(data), most)
    with pytest.raises(UnsupportedValue, match="items"):
        codec.encode([*most, None])
    with pytest.raises(MalformedValue, match="items"):
        codec.decode(b"\x93" + data[1:] + b"\xc0")


def test_bytes_have_a_limit_on_both_ways(
    codec: _codec.Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (_limits, _msgpack, _codec):
        monkeypatch.setattr(module, "MAX_BYTES", 1005)
    most = [b"x" * 1001]
    data = codec.encode(most)
    assert len(data) == 1005
    assert equal(codec.decode(data), most)
    for more in (b"x" * 1003, [b"x" * 1002], ["x" * 1002]):
        with pytest.raises(UnsupportedValue, match="bytes"):
            codec.encode(more)
    with pytest.raises(MalformedValue, match="bytes"):
        codec.decode(b"\x91" + data)


def test_marks_stand_for_what_does_not_travel_and_say_nothing_of_it(codec: _codec.Codec) -> None:
    given = {"a": [1, object()], Colour.RED: (Decimal(1), {Pair(1, 2)}), "ok": b"x"}
    mark = snakehouse.Unsupported
    expected = {
        "a": [1, mark("object")],
        mark("test_codecs.Colour"): (mark("decimal.Decimal"), {mark("test_codecs.Pair")}),
        "ok": b"x",
    }
    sent = codec.decode(codec.encode(snakehouse.sendable(given)))
    assert equal(sent, expected)
    looped: list[Any] = []
    looped.append(looped)
    codec.encode(snakehouse.sendable(looped))


def test_a_reference_gives_its_object_here_and_is_lost_elsewhere(codec: _codec.Codec) -> None:
    kept = object()
    reference = snakehouse.keep(kept)
    back = codec.decode(codec.encode([reference]))[0]
    assert back == reference
    assert back.type_name == "object"
    assert back.get() is kept
    stranger = snakehouse.Reference(back.life ^ 2, back.number, "x")
    with pytest.raises(snakehouse.LostReference):
        stranger.get()
    back.let_go()
    with pytest.raises(snakehouse.LostReference):
        reference.get()


def test_what_threads_keep_at_once_is_all_there() -> None:
    """Also the first of all, when this process has no mark yet that references bear."""
    script = (
        f"import sys; sys.path.insert(0, {str(Path(snakehouse.__file__).parents[1])!r})\n"
        "import snakehouse, threading\n"
        "start = threading.Barrier(8)\n"
        "kept = []\n"
        "def keep(number):\n"
        "    start.wait()\n"
        "    kept.append((number, snakehouse.keep(number)))\n"
        "threads = [threading.Thread(target=keep, args=(number,)) for number in range(8)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "assert [reference.get() for _, reference in kept] == [number for number, _ in kept]\n"
    )
    for _ in range(10):
        subprocess.run([sys.executable, "-c", script], check=True, timeout=BOUND)


def test_a_forked_child_does_not_answer_for_its_parent() -> None:
    reference = snakehouse.keep("mine")
    pid = os.fork()
    if not pid:
        try:
            other = snakehouse.keep("yours")
            os._exit(0 if other.life != reference.life else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert reference.get() == "mine"
    reference.let_go()


def test_whatever_a_package_raises_at_bytes_they_are_malformed(
    codec: _codec.Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream of no batch makes pyarrow raise what would be the end of a loop."""
    body = codec.encode([snakehouse.Arrow(b"x", is_batch=True)])
    for error in (StopIteration(), KeyError("x"), NotImplementedError()):
        ipc = types.SimpleNamespace(open_stream=mock.Mock(side_effect=error))
        package = types.SimpleNamespace(py_buffer=bytes, ipc=ipc)
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "pyarrow", package)
            with pytest.raises(snakehouse.MalformedValue):
                codec.decode(body)


def test_ever_new_keys_do_not_stay_for_ever() -> None:
    """They do where CPython keeps them, unless somebody looks."""
    decode = _codec.choose().decode
    kept = getattr(sys, "getunicodeinternedsize", lambda: 0)
    before = kept()
    for number in range(300):
        keys = {f"{number} and {key}": key for key in range(1000)}
        assert decode(_msgpack.encode([keys])) == [keys]
    assert kept() - before < 150_000


def test_few_keys_that_stay_are_no_reason_to_decode_slowly() -> None:
    size, fast = 0, 0

    def grow(data: bytes) -> Any:
        nonlocal size, fast
        size += 40_000
        fast += 1
        return _msgpack.decode(data)

    decode = _codec.sparing(grow, lambda: size)
    for _ in range(5):
        assert decode(b"\x81\xa1k\xc0") == {"k": None}
    assert fast == 3
    assert decode(b"\x92\x01\x02") == [1, 2]
    assert fast == 4


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_marks, "_MAX_KEPT", 1)
    first = snakehouse.keep(1)
    with pytest.raises(snakehouse.SnakehouseError):
        snakehouse.keep(2)
    first.let_go()
    snakehouse.keep(2).let_go()


def test_an_old_or_pure_msgpack_package_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "msgpack._cmsgpack", None)
    assert _codec.choose().name == "python"


def test_a_packer_does_not_keep_the_room_of_a_large_value() -> None:
    codec = _codec.choose()
    if codec.name != "msgpack":
        pytest.skip("our own keeps nothing")

    def mapped() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    codec.encode({"a": 1})
    before = mapped()
    for value in ({"a": bytes(64 << 20)}, ({"a": bytes(64 << 20)},), [bytes(64 << 20), object()]):
        with contextlib.suppress(UnsupportedValue):
            codec.encode(value)
        del value
    assert mapped() - before < 32 << 20


_WITHIN = """
import resource, sys
from snakehouse import MalformedValue, _codec, _msgpack
decode = {"msgpack": _codec.choose().decode, "python": _msgpack.decode}[sys.argv[1]]
data = eval(sys.argv[2])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
try:
    decode(data)
except MalformedValue as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("b'\\xdd' + (17 << 20).to_bytes(4, 'big') + b'\\x90' * (17 << 20)", "items"),
        ("(b'\\xdd' + (2 << 20).to_bytes(4, 'big')) * 100 + bytes(2 << 20)", "end within"),
        (
            "b'\\xc9' + (500 + (2 << 20)).to_bytes(4, 'big') + b'\\2'"
            " + (b'\\xdd' + (2 << 20).to_bytes(4, 'big')) * 100 + bytes(2 << 20)",
            "end within",
        ),
    ],
    ids=["too many items", "heads that lie", "heads that lie in a tuple"],
)
def test_what_is_over_the_limits_is_refused_before_it_is_built(
    codec: _codec.Codec, data: str, said: str
) -> None:
    """Within a quarter of a gigabyte, which either of these bodies would need many times."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHIN, codec.name, data],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
        timeout=300,
    )
    assert said in done.stdout, done.stderr


def test_a_survey_counts_what_there_is() -> None:
    chance = random.Random(3)
    for _ in range(500):
        value = random_value(chance)
        data = PURE.encode(value)
        assert _limits.survey(data) == _limits.count(value)
        for cut in {chance.randrange(len(data)) for _ in range(3)}:
            with contextlib.suppress(MalformedValue):
                _limits.survey(data[:cut])
