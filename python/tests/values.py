"""Random values, and equality that sees types and bits."""

from __future__ import annotations

import random
import struct
from typing import Any

_INTS = [0, 1, 127, 128, 255, 256, 2**16, 2**31, 2**32, 2**63, 2**64, 2**65, 10**30, 2**500]


def random_value(chance: random.Random, depth: int = 0) -> Any:
    """A value of any supported type, nested a few levels."""
    kind = chance.randrange(10 if depth < 4 else 6)
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
        case 6 | 7:
            return [random_value(chance, depth + 1) for _ in range(chance.randrange(20))]
        case 8:
            return tuple(random_value(chance, depth + 1) for _ in range(chance.randrange(20)))
        case _:
            return {
                random_key(chance): random_value(chance, depth + 1)
                for _ in range(chance.randrange(20))
            }


def random_float(chance: random.Random) -> float:
    return struct.unpack("<d", chance.randbytes(8))[0]


def random_key(chance: random.Random, depth: int = 0) -> Any:
    match chance.randrange(7 if depth < 2 else 5):
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
        case _:
            return tuple(random_key(chance, depth + 1) for _ in range(3))


def equal(a: Any, b: Any) -> bool:
    """Same types, same content, same order, floats bit by bit."""
    if type(a) is not type(b):
        return False
    if type(a) is float:
        return struct.pack("<d", a) == struct.pack("<d", b)
    if isinstance(a, list | tuple):
        items: list[Any] = [*a]
        others: list[Any] = [*b]
        return len(items) == len(others) and all(map(equal, items, others))
    if isinstance(a, dict):
        return equal([*a.items()], [*b.items()])  # pyright: ignore[reportUnknownArgumentType]
    return a == b
