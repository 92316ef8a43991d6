"""Arrays and tables in processes that have imported numpy and pyarrow, and in those that have not.

Needs numpy and pyarrow; ``.ci/run`` runs these tests in an environment that has them.
"""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest
from test_buffers import Host

import snakehouse
from snakehouse import Array, Arrow, UnsupportedValue, _buffers, _codec, _msgpack

_packages: dict[str, Any] = {}


def _package(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package that is imported for one test only: the codec looks whether it is."""
    if name not in _packages:
        _packages[name] = pytest.importorskip(name)
        for loaded in ("numpy", "pyarrow"):
            sys.modules.pop(loaded, None)
    monkeypatch.setitem(sys.modules, name, _packages[name])
    return _packages[name]


@pytest.fixture
def numpy(monkeypatch: pytest.MonkeyPatch) -> Any:
    return _package("numpy", monkeypatch)


@pytest.fixture
def pyarrow(monkeypatch: pytest.MonkeyPatch) -> Any:
    return _package("pyarrow", monkeypatch)


PURE = _codec.Codec("python", _msgpack.encode, _msgpack.decode)


@pytest.fixture(params=["msgpack", "python"])
def codec(request: pytest.FixtureRequest) -> _codec.Codec:
    if request.param == "python":
        return PURE
    chosen = _codec.choose()
    if chosen.name != "msgpack":
        pytest.skip("msgpack is not installed")
    return chosen


def same(numpy: Any, a: Any, b: Any) -> bool:
    return (
        type(a) is type(b) is numpy.ndarray
        and (a.dtype, a.shape) == (b.dtype, b.shape)
        and a.tobytes() == b.tobytes()
    )


def random_array(numpy: Any, chance: random.Random) -> Any:
    dtype = chance.choice(
        [
            "?",
            "i1",
            ">i2",
            "<i4",
            "u8",
            "f2",
            "f4",
            ">f8",
            "c8",
            "c16",
            "S5",
            "U3",
            "M8[ns]",
            "m8[D]",
        ]
    )
    shape = tuple(chance.randrange(5) for _ in range(chance.randrange(5)))
    kind = numpy.dtype(dtype)
    count = 1
    for length in shape:
        count *= length
    # Texts hold what is a character; any other bits are a number.
    data = (
        bytes(count * kind.itemsize) if dtype == "U3" else chance.randbytes(count * kind.itemsize)
    )
    array = numpy.frombuffer(data, kind, count).reshape(shape)
    match chance.randrange(4):
        case 0:
            return array.copy("F")
        case 1:
            return array.T
        case 2 if array.ndim:
            return array[..., ::-1]
        case _:
            return array


def test_random_arrays_come_back_equal(codec: _codec.Codec, numpy: Any) -> None:
    chance = random.Random(3)
    for _ in range(2_000):
        array = random_array(numpy, chance)
        sent = [array, {"k": (array,)}]
        data = codec.encode(sent)
        assert data == PURE.encode(sent)
        back = codec.decode(data)
        assert same(numpy, back[0], array), array
        assert same(numpy, back[1]["k"][0], array), array
        in_order_f = array.flags.f_contiguous and not array.flags.c_contiguous
        assert back[0].flags.f_contiguous if in_order_f else back[0].flags.c_contiguous
        assert codec.encode(back) == data


def test_an_array_is_read_only_and_on_the_received_bytes(codec: _codec.Codec, numpy: Any) -> None:
    back = codec.decode(codec.encode(numpy.arange(6.0).reshape(2, 3)))
    assert not back.flags.writeable
    assert not back.flags.owndata
    assert back.sum() == 15.0


def test_arrays_that_do_not_travel_are_named(codec: _codec.Codec, numpy: Any) -> None:
    cases: list[tuple[Any, str]] = [
        (numpy.array([object()]), "an array of dtype object cannot travel"),
        (numpy.zeros(2, "i4,f8"), "cannot travel"),
        (numpy.float64(1.0), "a value of type numpy.float64 cannot travel"),
        (numpy.ma.masked_array([1]), "MaskedArray cannot travel"),
        (numpy.zeros((1,) * 33), "33 dimensions cannot travel"),
    ]
    for value, message in cases:
        with pytest.raises(UnsupportedValue, match=message):
            codec.encode(value)


def test_tables_and_batches_come_back_equal(codec: _codec.Codec, pyarrow: Any) -> None:
    table = pyarrow.table({"n": [1, None, 3], "t": ["a", "é", None]})
    batch = table.to_batches()[0]
    for value in (table, batch, table.slice(1, 1), table.slice(0, 0)):
        back = codec.decode(codec.encode([value]))[0]
        assert type(back) is type(value)
        assert back.equals(value)
        assert back.schema.equals(value.schema, check_metadata=True)


def test_without_the_packages_they_are_what_they_were_made_of(codec: _codec.Codec) -> None:
    program = """
import sys
from snakehouse import Array, Arrow, _codec
value = _codec.choose().decode(bytes.fromhex(sys.argv[1]))
assert "numpy" not in sys.modules and "pyarrow" not in sys.modules
assert type(value[0]) is Array and type(value[1]) is Arrow, value
sys.stdout.write(_codec.choose().encode(value).hex())
"""
    data = PURE.encode([Array("<i4", (2, 2), bytes(16), "F"), Arrow(b"abc", is_batch=True)])
    done = subprocess.run(
        [sys.executable, "-c", program, data.hex()], check=True, capture_output=True, text=True
    )
    assert done.stdout == data.hex()


def test_an_array_made_in_a_slot_is_lent_as_it_is(
    numpy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host()
    monkeypatch.setattr(_buffers, "current", host.buffers)
    codec = _codec.choose(host.buffers)
    made = snakehouse.empty((4, _buffers.LEND_FROM), "f4")
    made[:] = 1.5
    for value, is_copied in [
        (made, False),
        (made[1:3], False),
        (made.T, False),
        (made[:, ::2], True),
        (made.copy(), True),
    ]:
        body = codec.encode_result([value])
        order = "C" if value.flags.c_contiguous or not value.flags.f_contiguous else "F"
        expected = value.tobytes(order)
        assert host.read(body) == [expected]
        # The host sees what is written afterwards only if nothing was copied.
        made[1, 0] = 2.5
        assert (host.take(body) == [expected]) is is_copied
        made[1, 0] = 1.5
    del made, value
    assert host.buffers.count() == (0, 0)
    assert snakehouse.empty(3).shape == (3,)
    host.close()
