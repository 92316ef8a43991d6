"""Tools and hooks of sessions, for a worker whose calls are tasks of one event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import snakehouse


@snakehouse.tool
async def who() -> str | None:
    return snakehouse.session()


@snakehouse.tool
async def add(key: str, amount: int) -> int:
    state = snakehouse.session_state()
    state[key] = state.get(key, 0) + amount
    return int(state[key])


@snakehouse.tool
async def keep(key: str, value: Any) -> list[str]:
    state = snakehouse.session_state()
    state[key] = value
    return sorted(state)


@snakehouse.tool
async def keys() -> list[str]:
    return sorted(snakehouse.session_state())


@snakehouse.on_session_end
async def note(name: str, reason: str, state: snakehouse.SessionState) -> None:
    if "file" in state:
        where = snakehouse.session()
        with Path(state["file"]).open("a") as file:
            file.write(f"{name} {reason} {sorted(state)} {where}\n")
    if "raise" in state:
        raise ValueError(state["raise"])
    if "hang" in state:
        await asyncio.sleep(60)


@snakehouse.on_session_end
def note_again(name: str, reason: str, state: snakehouse.SessionState) -> None:
    if "file" in state:
        with Path(state["file"]).open("a") as file:
            file.write(f"again {name} {reason}\n")
