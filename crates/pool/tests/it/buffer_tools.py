"""Tools that take and give much."""

import os
import socket
import time

import snakehouse
from snakehouse import Array, _buffers, tool

kept = []


@tool
def describe(value):
    """Type, read-only, length, first and last byte of what arrived."""
    if isinstance(value, Array):
        return ["Array", value.dtype, list(value.shape), value.data.readonly, len(value.data)]
    return [type(value).__name__, value.readonly, len(value), value[0], value[-1]]


@tool
def make(kind, size):
    """The same bytes as a type of their own."""
    data = bytes(range(256)) * (size // 256)
    match kind:
        case "bytes":
            return data
        case "bytearray":
            return bytearray(data)
        case "memoryview":
            return memoryview(data)
        case "array":
            return [Array("<u4", (size // 4,), data), {"again": (Array("|u1", (size,), data),)}]
        case "filled":
            view = snakehouse.buffer(size)
            view[:] = data
            return view
        case "part":
            view = snakehouse.buffer(size + 8)
            view[:8] = b"left out"
            view[8:] = data
            return view[8:]


@tool
def keep(size):
    """Returns a view of a slot, and keeps it."""
    view = snakehouse.buffer(size)
    view[:1] = bytes([len(kept)])
    kept.append(view)
    return view


@tool
def deafen():
    """No buffer that is shared from now on arrives."""
    for name in os.listdir("/proc/self/fd"):
        try:
            found = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        if found.type == socket.SOCK_SEQPACKET:
            found.shutdown(socket.SHUT_RDWR)
        found.close()


@tool
def let_go():
    kept.clear()


@tool
def slots():
    """How many the host has, and how many are viewed here."""
    return list(_buffers.current.count())


@tool
def late(path, size):
    """Says that it runs, then gives much, although nobody waits any more."""
    try:
        with open(path, "a") as file:
            file.write("runs\n")
        time.sleep(600)
    except snakehouse.Cancelled:
        pass
    return bytes(size)


@tool
def mapped():
    """Shared buffers that this process has mapped."""
    with open("/proc/self/maps") as maps:
        return sum("snakehouse-shared" in line for line in maps)


@tool
def die_lending(size):
    """Ends the worker while the host has a slot of it."""
    assert _buffers.current.reserve(size)
    os._exit(3)


_much = {}


@tool
def length(value):
    return len(value)


@tool
def hold(path):
    """Says that it runs, and comes back when the file says something else."""
    with open(path, "w") as file:
        file.write("runs\n")
    while open(path).read() != "go":
        time.sleep(0.001)


@tool
def fill(size, how):
    """So many bytes, filled into a slot, lent from ordinary memory, or written into the socket."""
    data = _much.setdefault(size, bytes(range(256)) * (size // 256))
    _buffers.current._is_refused = how == "socket"
    if how != "filled":
        return data
    view = snakehouse.buffer(size)
    view[:] = data
    return view
