"""Random values, and equality that sees types and bits."""

from __future__ import annotations

import random
import struct
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

from snakehouse import Array, Arrow, Reference, Unsupported

_INTS = [0, 1, 127, 128, 255, 256, 2**16, 2**31, 2**32, 2**63, 2**64, 2**65, 10**30, 2**500]


def random_value(chance: random.Random, depth: int = 0) -> Any:
    """A value of any supported type, nested a few levels."""
    kind = chance.randrange(14 if depth < 4 else 8)
    match kind:
        case 0:
            return chance.choice([None, True, False])
        case 1:
            return chance.choice([-1, 1]) * chance.choice(_INTS) + chance.randrange(-2, 3)
        case 2:
            return random_float(chance)
        case 3:
            return "".join(chance.choice("aZ é€🐍\0") for _ in range(chance.randrange(40)))
        case 4:
            return chance.randbytes(chance.choice([0, 1, 16, 300]))
        case 5:
            return chance.getrandbits(64)
        case 6:
            return random_time(chance)
        case 7:
            return random_buffer(chance)
        case 8 | 9:
            return [random_value(chance, depth + 1) for _ in range(chance.randrange(20 >> depth))]
        case 10:
            return tuple(
                random_value(chance, depth + 1) for _ in range(chance.randrange(20 >> depth))
            )
        case 11:
            return {random_key(chance) for _ in range(chance.randrange(20 >> depth))}
        case 12:
            return frozenset(random_key(chance) for _ in range(chance.randrange(20 >> depth)))
        case _:
            return {
                random_key(chance): random_value(chance, depth + 1)
                for _ in range(chance.randrange(20 >> depth))
            }


def random_time(chance: random.Random) -> Any:
    year = chance.choice([1, 1970, 2026, 9999])
    day = date(year, chance.randrange(1, 13), chance.randrange(1, 29))
    micros = chance.choice([0, 1, 999_999])
    zone = chance.choice(
        [
            None,
            UTC,
            timezone(timedelta(hours=5, minutes=30)),
            timezone(-timedelta(days=1) + timedelta(microseconds=1)),
        ]
    )
    clock = time(chance.randrange(24), 59, chance.randrange(60), micros, zone, fold=micros & 1)
    match chance.randrange(4):
        case 0:
            return day
        case 1:
            return clock
        case 2:
            return datetime.combine(day, clock)
        case _:
            days = chance.choice([0, -1, 1, -999_999_999, 999_999_998])
            return timedelta(days, chance.randrange(86_400), micros)


def random_buffer(chance: random.Random) -> Any:
    data = chance.randbytes(24)
    match chance.randrange(5):
        case 0:
            return bytearray(data[: chance.randrange(24)])
        case 1:
            dtype, count = chance.choice([("<f4", 6), (">u2", 12), ("|S4", 6), ("<M8[ns]", 3)])
            return Array(dtype, (count // 3, 3), data, chance.choice("CF"))
        case 2:
            return Arrow(data, is_batch=chance.random() < 0.5)
        case 3:
            return Reference(chance.getrandbits(64), chance.getrandbits(64), "some.Model")
        case _:
            return Unsupported("other.Thing")


def random_float(chance: random.Random) -> float:
    return struct.unpack("<d", chance.randbytes(8))[0]


def random_key(chance: random.Random, depth: int = 0) -> Any:
    match chance.randrange(9 if depth < 2 else 7):
        case 0:
            return chance.choice([None, True, False])
        case 1:
            return chance.choice(_INTS)
        case 2:
            return chance.random()
        case 3:
            return "".join(chance.choice("abc🐍") for _ in range(5))
        case 4:
            return chance.randbytes(5)
        case 5:
            return random_time(chance)
        case 6:
            return complex(random_float(chance), chance.choice([0.0, -0.0, 1.5]))
        case 7:
            return frozenset(random_key(chance, depth + 1) for _ in range(3))
        case _:
            return tuple(random_key(chance, depth + 1) for _ in range(3))


def equal(a: Any, b: Any) -> bool:
    """Same types, same content, same order except in sets, floats bit by bit."""
    return shape_of(a) == shape_of(b)


def shape_of(value: Any) -> Any:
    """Something that two values share exactly if they are equal in type and bits."""
    kind: type = type(value)  # pyright: ignore[reportUnknownVariableType]
    match value:
        case float():
            content: Any = struct.pack("<d", value)
        case complex():
            content = struct.pack("<dd", value.real, value.imag)
        case list() | tuple():
            content = [shape_of(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case dict():
            content = [(shape_of(k), shape_of(v)) for k, v in value.items()]  # pyright: ignore[reportUnknownVariableType]
        case set() | frozenset():
            content = sorted(repr(shape_of(item)) for item in value)  # pyright: ignore[reportUnknownVariableType]
        case time() | datetime():
            content = (repr(value), value.fold)
        case Array():
            content = (value.dtype, value.shape, value.order, bytes(value.data))
        case Arrow():
            content = (value.is_batch, bytes(value.data))
        case Reference():
            content = (value.life, value.number, value.type_name)
        case Unsupported():
            content = value.type_name
        case _:
            content = value
    return (kind.__name__, content)
