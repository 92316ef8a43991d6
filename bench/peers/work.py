"""What every system does: gives its argument back.

The same two kinds of argument as `snakehouse bench pool`: a record of everyday values that is 100
bytes of MessagePack, and plain bytes.
"""

from __future__ import annotations

from typing import Any

RECORD: dict[str, Any] = {
    "id": 1_234_567,
    "text": "a question of exactly forty-two characters",
    "tags": ["tiny", "demo"],
    "score": 0.25,
    "ok": True,
    "cause": None,
}


def payload(size: int) -> Any:
    """The argument of nominally `size` bytes."""
    return RECORD if size == 100 else b"\x07" * size


def echo(value: Any) -> Any:
    """The work."""
    return value
