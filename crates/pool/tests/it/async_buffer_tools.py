"""Tools of one event loop, for large bytes."""

import time

from snakehouse import tool


@tool
async def length_soon(value):
    return len(value)


@tool
async def hold_all(path):
    """Says that it runs, and lets nothing else run until the file says something else."""
    with open(path, "w") as file:
        file.write("runs\n")
    while open(path).read() != "go":
        time.sleep(0.001)
