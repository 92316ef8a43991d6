"""Both codecs against the golden vectors, against each other, and against garbage."""

from __future__ import annotations

import collections
import enum
import random
from typing import Any, NamedTuple

import pytest

from golden import VECTORS, value_of
from snakehouse import MalformedValue, UnsupportedValue, _codec, _msgpack
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
        ({1, 2}, "a value of type set cannot travel at $"),
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
        ({"n": 1j}, "a value of type complex cannot travel at $['n']"),
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


@pytest.mark.parametrize("value", [bytearray(b"ab"), memoryview(b"ab")])
def test_buffers_travel_as_the_bytes_they_hold(
    codec: _codec.Codec, value: bytearray | memoryview
) -> None:
    assert codec.decode(codec.encode(value)) == b"ab"


def test_an_old_or_pure_msgpack_package_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "msgpack._cmsgpack", None)
    assert _codec.choose().name == "python"
