"""The vectors that the Rust crate's tests read as well."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

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
        case _:
            return {value_of(key): value_of(item) for key, item in content}
