"""Values that the worker makes up itself, and looks at when they come back."""

import pathlib
import random
import sys

from snakehouse import MalformedValue, UnsupportedValue, _codec, _msgpack, incoming, tool

sys.path.insert(1, str(pathlib.Path(__file__).parents[4] / "python" / "tests"))

from values import equal, random_value  # noqa: E402


@tool
def codec():
    return _codec.choose().name


def _values(seed, count):
    chance = random.Random(seed)
    return [random_value(chance) for _ in range(count)]


@tool
def make_values(seed, count):
    return _values(seed, count)


@tool
def check_values(seed, count, came_back):
    """The first value that is not what it was, as text, or None."""
    for was, came in zip(_values(seed, count), came_back, strict=True):
        if not equal(was, came):
            return f"{was!r} came back as {came!r}"
    return None


def _inner():
    error = ValueError("inner")
    error.add_note("noted")
    raise error


@tool
def raise_much():
    try:
        try:
            _inner()
        except ValueError as error:
            raise KeyError("middle") from error
    except KeyError as error:
        raise ExceptionGroup("outer", [TypeError("member"), error])  # noqa: B904


@tool
def judge(inputs):
    """What each input is, encoded again, or why it is nothing. Both codecs must agree."""
    codecs = _codec.choose(), _codec.Codec("python", _msgpack.encode, _msgpack.decode)
    return [_judge(codecs, data) for data in inputs]


def _judge(codecs, data):
    c, pure = (_verdict(codec, data) for codec in codecs)
    if c == pure or (type(c) is str and type(pure) is str):
        return pure
    # The two known differences, of bytes that no encoder of ours writes.
    if type(pure) is str and ("twice" in pure or "type -1" in pure):
        return pure
    return f"the codecs differ: {c!r}, {pure!r}"


def _verdict(codec, data):
    try:
        value = codec.decode(data)
    except MalformedValue as error:
        return str(error)
    try:
        encoded = codec.encode(value)
    except UnsupportedValue as error:
        return f"is no value: {error}"
    assert equal(codec.decode(encoded), value)
    return encoded


@tool
def echo_items():
    yield from incoming()


@tool
def raise_in_stream():
    raise_much()
    yield 1
