"""The vectors that the Rust crate's tests read as well."""

from __future__ import annotations

import json
import struct
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any

from snakehouse import Array, Arrow, Reference, Unsupported

_ROOT = Path(__file__).parents[2]
VECTORS: dict[str, Any] = json.loads(
    (_ROOT / "crates/wire/tests/golden/vectors.json").read_text(encoding="utf-8")
)


def value_of(tagged: Any) -> Any:
    """The value that a tagged JSON form stands for."""
    if tagged is None:
        return None
    ((tag, content),) = tagged.items()
    match tag:
        case "bool" | "str":
            return content
        case "int":
            return int(content)
        case "float":
            return struct.unpack(">d", bytes.fromhex(content))[0]
        case "bytes":
            return bytes.fromhex(content)
        case "list":
            return [value_of(item) for item in content]
        case "tuple":
            return tuple(value_of(item) for item in content)
        case "dict":
            return {value_of(key): value_of(item) for key, item in content}
        case "set":
            return {value_of(item) for item in content}
        case "frozenset":
            return frozenset(value_of(item) for item in content)
        case "bytearray":
            return bytearray.fromhex(content)
        case "complex":
            return complex(*struct.unpack(">dd", bytes.fromhex(content)))
        case "date":
            return date(*content)
        case "time":
            return _time(content)
        case "datetime":
            return datetime.combine(date(*content[:3]), _time(content[3:]))
        case "timedelta":
            return timedelta(*content)
        case "array":
            dtype, order, shape, data = content
            return Array(dtype, shape, bytes.fromhex(data), order)
        case "arrow":
            return Arrow(bytes.fromhex(content[1]), is_batch=content[0] == 1)
        case "reference":
            return Reference(int(content[0]), int(content[1]), content[2])
        case "unsupported":
            return Unsupported(content)
        case _:
            raise ValueError(tag)


def _time(content: list[Any]) -> time:
    hour, minute, second, micros, fold, offset = content
    return time(hour, minute, second, micros, _zone(offset), fold=fold)


def _zone(micros: int | None) -> timezone | None:
    return None if micros is None else timezone(timedelta(microseconds=micros))
