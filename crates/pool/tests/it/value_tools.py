"""Values that the worker makes up itself, and looks at when they come back."""

import pathlib
import random
import sys

from snakehouse import _codec, tool

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
