"""Large values: read without a copy, returned without one."""

from snakehouse import buffer, tool


@tool
def checksum(data: memoryview) -> int:
    """`data` shows the caller's memory, read-only."""
    return sum(data[::65536])


@tool
def ramp(size: int) -> memoryview:
    """Fills memory that the host reads directly."""
    view = buffer(size)
    view[:] = bytes(range(256)) * (size // 256)
    return view
