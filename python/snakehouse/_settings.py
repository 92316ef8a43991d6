"""What the host says about itself: a map at any time, each key for a part of the worker."""

from __future__ import annotations

from snakehouse import _msgpack, _sessions, _telemetry
from snakehouse._errors import MalformedValue
from snakehouse._frames import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from snakehouse._callbacks import Callbacks


def apply(payload: memoryview, callbacks: Callbacks) -> None:
    """Do what a settings frame says. Keys that are not known are for others.

    Raises ``ProtocolError``.
    """
    try:
        settings: Any = _msgpack.decode(bytes(payload))
    except MalformedValue as error:
        raise ProtocolError(f"malformed settings: {error}") from None
    if not isinstance(settings, dict):
        raise ProtocolError("malformed settings: not a map")
    if "sessions" in settings:
        _sessions.current.configure(settings["sessions"])  # pyright: ignore[reportUnknownMemberType]
    if "telemetry" in settings:
        _telemetry.current.configure(settings["telemetry"])  # pyright: ignore[reportUnknownMemberType]
    if "host_tools" in settings:
        callbacks.learn(settings["host_tools"])
