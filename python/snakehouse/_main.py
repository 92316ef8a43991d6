"""From the environment to a running loop, and from its end to an exit status."""

from __future__ import annotations

import atexit
import faulthandler
import gc
import io
import os
import socket
import sys
import traceback

from snakehouse import _buffers, _codec, _failure, _load, _schema
from snakehouse._doorbell import Doorbell
from snakehouse._frames import KIND_GOAWAY, KIND_HELLO, PROTOCOL_VERSION, ProtocolError, frame
from snakehouse._modes import Mode
from snakehouse._version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from snakehouse._tool import Tool

EXIT_NOT_LOADED = 69
EXIT_PROTOCOL = 76
EXIT_ENVIRONMENT = 78


def main(
    names: list[str], *, preload: list[str] | None = None, failure: dict[str, Any] | None = None
) -> NoReturn:
    """Serve the tools of these modules, then end this process, whatever its threads do.

    ``preload`` is imported before them. ``failure`` is what a zygote could not import: it is told.
    """
    control: socket.socket | None = None
    try:
        faulthandler.enable()
        control, doorbell, has_page, mode = _take()
        if failure is None:
            failure = preload_all(preload or [])
        status = _serve(control, doorbell, has_page, mode, names, failure)
    except SystemExit as end:
        status = _status(end.code)
    except BaseException:
        traceback.print_exc()
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
    codec = _codec.choose(_buffers.current)
    tools: list[Tool] = []
    server = None
    if failure is None:
        try:
            tools = _load.load(names)
            server = mode.server(control, doorbell, codec, tools)
        except BaseException as error:
            failure = _not_loaded(error)
    try:
        control.sendall(_hello(tools, codec.name, has_page, mode, failure))
        if failure is not None or server is None:
            return EXIT_NOT_LOADED
        doorbell.install()
        # What is there now stays: the collector need not look at it again.
        gc.freeze()
        server.run()
    except ProtocolError as error:
        print(f"snakehouse worker: host broke the protocol: {error}", file=sys.stderr)
        _say_goodbye(control, str(error))
        return EXIT_PROTOCOL
    except (BrokenPipeError, ConnectionResetError):
        pass
    return 0


def _take() -> tuple[socket.socket, Doorbell, bool, Mode]:
    try:
        _buffers.take()
        return _take_socket(), *_take_page(), Mode.take()
    except (ValueError, OSError, KeyError) as error:
        message = f"snakehouse worker: this program is started by a Snakehouse host: {error}"
        print(message, file=sys.stderr)
        raise SystemExit(EXIT_ENVIRONMENT) from error


def _take_socket() -> socket.socket:
    variable = "SNAKEHOUSE_FD"
    fd = int(os.environ.pop(variable))
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


def _take_page() -> tuple[Doorbell, bool]:
    number = os.environ.pop("SNAKEHOUSE_PAGE_FD", None)
    if number is None:
        return Doorbell(None), False
    fd = int(number)
    doorbell = Doorbell(fd)
    # The mapping stays.
    os.close(fd)
    return doorbell, True


def _hello(
    tools: list[Tool], codec: str, has_page: bool, mode: Mode, failure: dict[str, Any] | None
) -> bytes:
    version = ".".join(str(part) for part in sys.version_info[:3])
    content: dict[str, Any] = {
        "protocol": PROTOCOL_VERSION,
        "language": "python",
        "version": __version__,
        "runtime": f"{sys.implementation.name} {version}",
        "pid": os.getpid(),
        "codec": codec,
        "capabilities": ["cancel", "started", "streams"] if has_page else ["streams"],
        "capacity": mode.capacity,
        "tools": [_announce(tool, number) for number, tool in enumerate(tools)],
        "failure": failure,
    }
    return frame(KIND_HELLO, 0, _failure.encode(content))


def _announce(tool: Tool, number: int) -> dict[str, Any]:
    parameters, result = _schema.describe(tool.function)
    return {
        "name": tool.name,
        "kind": tool.kind,
        "number": number,
        "signature": tool.signature(),
        "doc": tool.doc,
        "parameters": parameters,
        "result": result,
    }


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
    print(code, file=sys.stderr)
    return 1


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
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            # There is none, or nobody reads it.
            pass
    os._exit(status)


def _say_goodbye(control: socket.socket, reason: str) -> None:
    try:
        control.sendall(frame(KIND_GOAWAY, 0, reason.encode()))
    except OSError:
        # The host is gone or does not read; the exit status says the rest.
        pass
