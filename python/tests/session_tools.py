"""Tools and hooks of sessions, for a worker that runs one call at a time, or calls in threads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import snakehouse


@snakehouse.tool
def who() -> str | None:
    return snakehouse.session()


@snakehouse.tool
def add(key: str, amount: int) -> int:
    state = snakehouse.session_state()
    state[key] = state.get(key, 0) + amount
    return int(state[key])


@snakehouse.tool
def keep(key: str, value: Any) -> list[str]:
    state = snakehouse.session_state()
    state[key] = value
    return sorted(state)


@snakehouse.tool
def keys() -> list[str]:
    return sorted(snakehouse.session_state())


@snakehouse.tool
def nap(seconds: float) -> None:
    time.sleep(seconds)


@snakehouse.on_session_end
def note(name: str, reason: str, state: snakehouse.SessionState) -> None:
    if "file" in state:
        where = snakehouse.session()
        with Path(state["file"]).open("a") as file:
            file.write(f"{name} {reason} {sorted(state)} {where}\n")
    if "raise" in state:
        raise ValueError(state["raise"])
    if "hang" in state:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.001)


@snakehouse.on_session_end
async def note_again(name: str, reason: str, state: snakehouse.SessionState) -> None:
    if "file" in state:
        with Path(state["file"]).open("a") as file:
            file.write(f"again {name} {reason}\n")
