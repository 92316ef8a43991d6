"""From the environment to a running loop, and from its end to an exit status."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import io
import os
import socket
import sys
import traceback

from snakehouse import _buffers, _codec, _debugger, _failure, _load, _schema, _sessions
from snakehouse._doorbell import Doorbell
from snakehouse._frames import (
    KIND_GOAWAY,
    KIND_HELLO,
    LAST_WORDS,
    PROTOCOL_VERSION,
    ProtocolError,
    frame,
)
from snakehouse._modes import Mode
from snakehouse._version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Any, NoReturn

    from snakehouse._tool import Tool

# Where the lifeline is, as ``_birth`` has it, which a worker need not import.
LIFELINE = 4
EXIT_NOT_LOADED = 69
EXIT_PROTOCOL = 76
EXIT_ENVIRONMENT = 78


def main(
    names: list[str],
    *,
    preload: list[str] | None = None,
    variables: dict[str, str] | None = None,
    failure: dict[str, Any] | None = None,
) -> NoReturn:
    """Serve the tools of these modules, then end this process, whatever its threads do.

    ``preload`` is imported before them. ``variables`` are those that belong in the environment and
    are not there yet. ``failure`` is what a zygote could not import: it is told.
    """
    control: socket.socket | None = None
    try:
        faulthandler.enable()
        control, doorbell, has_page, mode = _take(os.environ if variables is None else variables)
        # What was taken out of these was never in there: each variable costs shared pages.
        os.environ.update(variables or {})
        if failure is None:
            failure = preload_all(preload or [])
        status = _serve(control, doorbell, has_page, mode, names, failure)
    except SystemExit as end:
        status = _status(end.code)
    except BaseException:
        _say(None)
        status = 1
    _leave(control, status)


def preload_all(names: list[str]) -> dict[str, Any] | None:
    """Import modules whose tools are not asked for; why that failed."""
    try:
        for name in names:
            _load.import_module(name)
    except BaseException as error:
        return _not_loaded(error)
    return None


def _not_loaded(error: BaseException) -> dict[str, Any]:
    if isinstance(error, _load.LoadError):
        return _failure.failure("environment", error.code, str(error), hint=error.hint)
    failure = _failure.from_exception(error, skip=_own_frames(error))
    failure["code"] = "import_failed"
    failure["hint"] = "import the module with the same interpreter to see it fail"
    return failure


def _serve(
    control: socket.socket,
    doorbell: Doorbell,
    has_page: bool,
    mode: Mode,
    names: list[str],
    failure: dict[str, Any] | None,
) -> int:
    """Until there is nothing more to serve; gives the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A line is worth more in the log now than in a buffer that dies with the process.
        sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportUnknownMemberType]
    _buffers.current.shield = doorbell.shield
    codec = _codec.choose(_buffers.current)
    tools: list[Tool] = []
    server = None
    if failure is None:
        try:
            tools = _load.load(names)
            _sessions.current.hooks = _load.hooks(names)
            server = mode.server(control, doorbell, codec, tools)
        except BaseException as error:
            failure = _not_loaded(error)
    try:
        hello, is_served = _hello(tools, codec.name, has_page, mode, failure)
        control.sendall(frame(KIND_HELLO, 0, hello))
        if not is_served or server is None:
            return EXIT_NOT_LOADED
        doorbell.install()
        # What is there now stays: the collector need not look at it again.
        gc.freeze()
        server.run()
    except ProtocolError as error:
        _say(f"snakehouse worker: host broke the protocol: {error}")
        _say_goodbye(control, str(error))
        return EXIT_PROTOCOL
    except (BrokenPipeError, ConnectionResetError):
        pass
    return 0


def _take(variables: MutableMapping[str, str]) -> tuple[socket.socket, Doorbell, bool, Mode]:
    try:
        _keep_lifeline()
        _buffers.take(variables)
        _debugger.install(variables)
        return _take_socket(variables), *_take_page(variables), Mode.take(variables)
    except (ValueError, OSError, KeyError) as error:
        _say(f"snakehouse worker: this program is started by a Snakehouse host: {error}")
        raise SystemExit(EXIT_ENVIRONMENT) from error


def _keep_lifeline() -> None:
    """It comes through exec, and goes no further."""
    try:
        os.set_inheritable(LIFELINE, False)
    except OSError:
        # Whoever started this worker gave it none.
        pass


def _take_socket(variables: MutableMapping[str, str]) -> socket.socket:
    variable = "SNAKEHOUSE_FD"
    fd = int(variables.pop(variable))
    if fd == 0:
        # What a tool reads from standard input is the end of a file, never our frames.
        fd = os.dup(0)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
    os.set_inheritable(fd, False)
    control = socket.socket(fileno=fd)
    if control.family != socket.AF_UNIX or control.type != socket.SOCK_STREAM:
        raise ValueError(f"{variable} is not a Unix stream socket")
    control.setblocking(True)
    return control


def _take_page(variables: MutableMapping[str, str]) -> tuple[Doorbell, bool]:
    number = variables.pop("SNAKEHOUSE_PAGE_FD", None)
    if number is None:
        return Doorbell(None), False
    fd = int(number)
    doorbell = Doorbell(fd)
    # The mapping stays.
    os.close(fd)
    return doorbell, True


def _hello(
    tools: list[Tool], codec: str, has_page: bool, mode: Mode, failure: dict[str, Any] | None
) -> tuple[bytes, bool]:
    """A hello that fits into a frame, and whether it says that the tools are served."""
    announced = [describe(tool) | {"number": number} for number, tool in enumerate(tools)]
    hello = _said(announced, codec, has_page, mode, failure)
    if len(hello) > _failure.MAX_ENCODED:
        # Calls need none of these.
        bare = {"doc": "", "parameters": None, "result": None}
        hello = _said([tool | bare for tool in announced], codec, has_page, mode, failure)
    if len(hello) > _failure.MAX_ENCODED:
        if failure is None:
            failure = _not_loaded(
                _load.LoadError(
                    f"the names and signatures of {len(tools)} tools do not fit into a hello",
                    code="hello_too_large",
                    hint="serve them from several pools, or give them shorter signatures",
                )
            )
        hello = _said([], codec, has_page, mode, _failure.shortened(failure))
    return hello, failure is None


def _said(
    tools: list[dict[str, Any]],
    codec: str,
    has_page: bool,
    mode: Mode,
    failure: dict[str, Any] | None,
) -> bytes:
    version = ".".join(str(part) for part in sys.version_info[:3])
    always = ["callbacks", "sessions", "streams", "telemetry"]
    content: dict[str, Any] = {
        "protocol": PROTOCOL_VERSION,
        "language": "python",
        "version": __version__,
        "runtime": f"{sys.implementation.name} {version}",
        "pid": os.getpid(),
        "codec": codec,
        "capabilities": ["cancel", "recall", "started", *always] if has_page else always,
        "capacity": mode.capacity,
        "tools": tools,
        "failure": failure,
    }
    return _failure.encode_plain(content)


def describe(tool: Tool) -> dict[str, Any]:
    """What a hello says of a tool, its number apart. Found out once: that is dear."""
    if tool.description is None:
        parameters, result = _schema.describe(tool.function)
        tool.description = {
            "name": tool.name,
            "kind": tool.kind,
            "signature": tool.signature(),
            "doc": tool.doc,
            "parameters": parameters,
            "result": result,
        }
    return tool.description


def _own_frames(error: BaseException) -> int:
    """How many outermost frames of a failed import are ours or the import system's."""
    package = os.path.dirname(os.path.abspath(__file__))
    count = 0
    traceback = error.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if not file.startswith((package, "<frozen importlib")):
            break
        count += 1
        traceback = traceback.tb_next
    return count


def _status(code: object) -> int:
    """What ``sys.exit(code)`` makes of its argument."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    _say(code)
    return 1


def _say(what: object) -> None:
    """To standard error, if there is one that takes it; None is the exception that is handled."""
    # A tool may have closed it, or the thing cannot be shown. Whoever says it is on the way out.
    with contextlib.suppress(BaseException):
        print(traceback.format_exc().rstrip() if what is None else what, file=sys.stderr)


def _leave(control: socket.socket | None, status: int) -> NoReturn:
    """End this process: tell the host, run what is registered for the exit, write what is printed.

    The interpreter's own way out waits for every thread that is no daemon. A thread that a tool
    started would keep a process alive that serves nobody, and its host in doubt.
    """
    if control is not None:
        try:
            control.shutdown(socket.SHUT_RDWR)
        except OSError:
            # Closed already: by the host, or because this is a child that a tool forked.
            pass
    try:
        atexit._run_exitfuncs()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    except BaseException:
        _say(None)
    for name in ("stdout", "stderr"):
        # There may be none, or nobody reads it, or it is a tool's own and broken.
        with contextlib.suppress(BaseException):
            getattr(sys, name).flush()
    os._exit(status)


def _say_goodbye(control: socket.socket, reason: str) -> None:
    try:
        control.settimeout(LAST_WORDS)
        control.sendall(frame(KIND_GOAWAY, 0, reason.encode()))
    except OSError:
        # The host is gone or does not read; the exit status says the rest.
        pass
