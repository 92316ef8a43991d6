"""Generators, and tools that read what the host sends them."""

import os
import time

from snakehouse import incoming, tool

closed = []


@tool
def count(most, delay=0.0):
    """Gives the numbers below a number, and their count at the end."""
    for number in range(most):
        yield number
        if delay:
            time.sleep(delay)
    return most


@tool
def echo():
    """Gives back what comes."""
    taken = 0
    for item in incoming():
        taken += 1
        yield item
    return taken


@tool
def total():
    """A plain function that reads what the host sends."""
    return sum(incoming())


@tool
def first(most):
    """Takes a few and ends, whatever still comes."""
    return [item for item, _ in zip(incoming(), range(most))]


@tool
def blobs(count, size):
    for number in range(count):
        yield bytes([number % 256]) * size


@tool
def fails_after(most):
    yield from range(most)
    raise ValueError("no more")


@tool
def cannot_travel():
    yield 1
    yield object()
    yield 3


@tool
def dies_after(most):
    yield from range(most)
    # What was given is on its way before this.
    os._exit(9)


@tool
def closes(name):
    """Says when it was closed."""
    try:
        while True:
            yield name
    finally:
        closed.append(name)


@tool
def waits_for_items(name):
    """The same, while it waits for an item."""
    try:
        for item in incoming():
            yield item
    finally:
        closed.append(name)


@tool
def was_closed():
    return list(closed)


@tool
def pid():
    return os.getpid()
