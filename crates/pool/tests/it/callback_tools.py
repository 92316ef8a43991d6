"""Tools that call tools of the host."""

import os
import time

import snakehouse
from snakehouse import host, host_async


@snakehouse.tool
def echo(value):
    return host.echo(value)


@snakehouse.tool
def plain(value):
    return value


@snakehouse.tool
def typed(*args, **kwargs):
    return host.lookup(*args, **kwargs)


@snakehouse.tool
def caught(name, *args):
    try:
        return [host[name](*args)]
    except snakehouse.HostToolError as error:
        return [str(error), error.kind, error.code, error.hint]


@snakehouse.tool
def uncaught(name, *args):
    return host[name](*args)


@snakehouse.tool
def chain(levels):
    """Through as many host tools as asked for."""
    return host.again(levels) + 1 if levels else 0


@snakehouse.tool
def asked(count):
    for number in range(count):
        yield host.echo(number)


@snakehouse.tool
async def echo_async(value):
    return await host_async.echo(value)


@snakehouse.tool
async def chain_async(levels):
    return await host_async.again_async(levels) + 1 if levels else 0


@snakehouse.tool
def remaining():
    return snakehouse.remaining()


@snakehouse.tool
def names():
    return [(tool.name, tool.doc, tool.parameters) for tool in snakehouse.host_tools()]


@snakehouse.tool
def pid():
    return os.getpid()


@snakehouse.tool
def fail(message):
    raise ValueError(message)


@snakehouse.tool
def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@snakehouse.tool
def put(key, value):
    _state[key] = value
    return host.echo(value)


@snakehouse.tool
def get(key):
    return _state.get(key)


@snakehouse.tool
def relay(session):
    """The host asks for ``get`` in the same session."""
    _state["relay"] = session
    return host.in_session(session)


@snakehouse.tool
def round_trips(count):
    """Seconds that each of so many callbacks took."""
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        host.echo(1)
        times.append(time.perf_counter() - begin)
    return times


_state = {}
