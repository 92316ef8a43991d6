"""JSON objects with descriptors, one to a packet, on a sequenced-packet socket.

So the reaper talks with its host, and with its zygotes. Every descriptor that arrives closes on
exec. A message or descriptors that do not fit are never cut in silence: they arrive as a message
that nobody understands.
"""

from __future__ import annotations

import array
import json
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Message = dict[str, Any]

MAX_MESSAGE = 128 * 1024
MAX_FDS = 64


class HangUp(Exception):
    """The other end is closed."""


def send(to: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """One packet, with copies of these descriptors. Raises ``HangUp``."""
    data = json.dumps(message, separators=(",", ":")).encode()
    ancillary: list[tuple[int, int, array.array[int]]] = []
    if fds:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    try:
        to.sendmsg([data], ancillary)
    except OSError as error:
        raise HangUp from error


def receive(of: socket.socket) -> tuple[Message, list[int]]:
    """The next message and its descriptors.

    Raises ``HangUp``, and ``BlockingIOError`` from a socket that does not block.
    """
    space = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
    try:
        data, ancillary, flags, _ = of.recvmsg(MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise
    except OSError as error:
        raise HangUp from error
    fds: array.array[int] = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if not data:
        raise HangUp
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        data = b'{"op":"truncated"}'
    return json.loads(data), list(fds)
