"""Call the tools of a running pool: ``snakehouse pool serve`` on the other side.

::

    from snakehouse.client import Client

    with Client("127.0.0.1:8401") as pool:
        assert pool.call("add", 2, b=40) == 42
        for word in pool.stream("words", "to be or not to be"):
            print(word)

Arguments and results are the values that tools have, and come back equal, tuples and large integers
included. What fails is a ``CallFailed`` with a kind, a code and a hint. Needs ``grpcio``, which is
imported when the first ``Client`` is made; nothing else of this package does.
"""

from __future__ import annotations

import importlib
import ipaddress
import json
from typing import NamedTuple

from snakehouse import _codec
from snakehouse._errors import SnakehouseError
from snakehouse._protobuf import Malformed, field, fields, flag, message, number, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Self

__all__ = ["CallFailed", "Client", "Frame", "Stats", "Stream", "Tool"]

_SERVICE = "/snakehouse.v1.Pool/"
_ERROR = "snakehouse-error-bin"
# Longest message. The server's own cap is what counts.
_MOST = 256 << 20


class Frame(NamedTuple):
    """One frame of a tool's traceback."""

    file: str
    line: int
    function: str
    source: str


class CallFailed(SnakehouseError):
    """A call that has no result.

    ``kind`` is the family (``tool``, ``not_found``, ``deadline``, ``worker_died``, ``unavailable``,
    ...) and ``code`` the stable name. ``hint`` says what to do about it, or is None. ``type`` is
    the name of the exception's type if the tool raised one, and ``traceback`` its frames, outermost
    first; what that was raised from is ``__cause__``. ``without_effect`` is whether nothing of the
    call can have run.
    """

    def __init__(
        self,
        text: str,
        *,
        kind: str,
        code: str,
        hint: str | None = None,
        type_name: str = "",
        traceback: tuple[Frame, ...] = (),
        without_effect: bool = False,
    ) -> None:
        super().__init__(text)
        self.kind = kind
        self.code = code
        self.hint = hint
        self.type = type_name
        self.traceback = traceback
        self.without_effect = without_effect


class Tool(NamedTuple):
    """A tool that the pool serves. Schemas are None where they are not known."""

    name: str
    kind: str
    signature: str
    doc: str
    parameters: Any
    result: Any


class Stats(NamedTuple):
    """What the pool did since its start, and what it does now."""

    pool: str
    workers: int
    in_flight: int
    waiting: int
    outcomes: dict[str, int]
    deaths: dict[str, int]
    p50_us: int
    p99_us: int
    max_us: int


class Client:
    """A connection to a running pool. Safe for threads; use it as a context manager, or close it.

    ``target`` is HOST:PORT. ``token`` is what the server asks for, ``ca`` the PEM text of the
    certificates that vouch for it; without it the connection is plain. A token goes over a plain
    connection to this machine only; ``plaintext`` allows it elsewhere, where something else
    encrypts. ``certificate`` is our own and its key, PEM texts, if the server asks for one.
    """

    def __init__(
        self,
        target: str,
        *,
        token: str | None = None,
        ca: bytes | None = None,
        certificate: tuple[bytes, bytes] | None = None,
        plaintext: bool = False,
    ) -> None:
        if token is not None and ca is None and not plaintext and not _is_here(target):
            raise ValueError(
                f"the token would be readable on the way to {target}: give ca, the certificates "
                "that vouch for the server, or plaintext=True where something else encrypts"
            )
        grpc = _grpc()
        options = [("grpc.max_receive_message_length", _MOST)]
        options.append(("grpc.max_send_message_length", _MOST))
        if ca is None:
            channel = grpc.insecure_channel(target, options)
        else:
            own, key = certificate or (None, None)
            credentials = grpc.ssl_channel_credentials(ca, key, own)
            channel = grpc.secure_channel(target, credentials, options)
        self._channel: Any = channel
        self._metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
        self._timeout: float | None = None
        self._idempotent = False
        self._session = ""
        self._open_session = channel.unary_unary(_SERVICE + "OpenSession")
        self._close_session = channel.unary_unary(_SERVICE + "CloseSession")
        self._call = channel.unary_unary(_SERVICE + "Call")
        self._stream = channel.stream_stream(_SERVICE + "Stream")
        self._list_tools = channel.unary_unary(_SERVICE + "ListTools")
        self._stats = channel.unary_unary(_SERVICE + "Stats")

    def with_options(
        self, *, timeout: float | None = None, idempotent: bool | None = None
    ) -> Client:
        """The same connection with other options.

        ``timeout`` is in seconds, queueing included; the server's default is 300 s for a call
        and 900 s for a stream. ``idempotent`` says that running a call twice does no harm: if its
        worker dies, another one runs it, once. Streams are refused with it, since their items
        cannot be taken back (``stream_not_repeatable``).
        """
        changes: dict[str, object] = {}
        if timeout is not None:
            changes["_timeout"] = timeout
        if idempotent is not None:
            changes["_idempotent"] = idempotent
        return self._with(changes)

    def session(self, name: str, *, recreate: bool = False) -> Client:
        """The same connection, whose calls and streams belong to the session of this name.

        They go to one worker, which keeps the state that they leave. Clients of one server share
        the names; the host's own sessions are apart. A session that is lost with its worker
        stays lost (``session_lost``) until it is made anew with ``recreate``.
        """
        self._ask(self._open_session, field(1, name.encode()) + flag(2, recreate))
        return self._with({"_session": name})

    def close_session(self, name: str) -> bool:
        """End the session of this name: its state is dropped. Whether there was one."""
        answer = self._ask(self._close_session, field(1, name.encode()))
        return any(key == 1 and number(value) for key, value in fields(answer))

    def call(self, tool: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a tool and return its result. Raises ``CallFailed``."""
        codec = _codec.choose()
        request = self._request(codec, tool, args, kwargs)
        answer = self._ask(self._call, request)
        return _value(codec, _first(answer, 1))

    def stream(
        self, tool: str, /, *args: Any, items: Iterable[Any] | None = None, **kwargs: Any
    ) -> Stream:
        """Open a tool as a stream: iterate over what it yields, then read ``result``.

        ``items`` are sent to the tool as it takes them, from a thread of the library. Close a
        stream that is not read to its end: that cancels it.
        """
        codec = _codec.choose()
        first = field(1, self._request(codec, tool, args, kwargs))

        def requests() -> Iterator[bytes]:
            yield first
            sender = _codec.choose()
            for item in items or ():
                yield field(2, field(1, sender.encode(item)))

        answers = self._stream(requests(), timeout=self._timeout, metadata=self._metadata)
        return Stream(answers, codec)

    def tools(self) -> list[Tool]:
        """The tools that the pool serves."""
        answer = self._ask(self._list_tools, b"")
        return [_tool(message(value)) for key, value in fields(answer) if key == 1]

    def stats(self) -> Stats:
        """What the pool did, and does."""
        return _stats(self._ask(self._stats, b""))

    def close(self) -> None:
        """Close the connection; what is under way is cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _with(self, changes: dict[str, object]) -> Client:
        other = object.__new__(Client)
        other.__dict__.update(self.__dict__ | changes)
        return other

    def _request(
        self, codec: _codec.Codec, tool: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bytes:
        arguments = field(1, codec.encode([list(args), kwargs]))
        request = field(1, tool.encode()) + field(2, arguments) + flag(3, self._idempotent)
        return request + field(4, self._session.encode()) if self._session else request

    def _ask(self, method: Callable[..., bytes], request: bytes) -> bytes:
        try:
            return method(request, timeout=self._timeout, metadata=self._metadata)
        except _grpc().RpcError as error:
            raise _failed(error) from _cause(error)


class Stream:
    """What a tool yields. Iterate over it; ``result`` is what the tool returned then.

    Use it as a context manager to cancel what is not read to its end.
    """

    def __init__(self, answers: Any, codec: _codec.Codec) -> None:
        self._answers = answers
        self._codec = codec
        self._result: tuple[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._result is not None:
            raise StopIteration
        try:
            answer = next(self._answers)
        except StopIteration:
            raise CallFailed(
                "the stream ended without a result", kind="unavailable", code="stream_cut"
            ) from None
        except _grpc().RpcError as error:
            raise _failed(error) from _cause(error)
        for key, value in fields(answer):
            if key == 1:
                return _value(self._codec, message(value))
            if key == 2:
                self._result = (_value(self._codec, message(value)),)
        raise StopIteration

    @property
    def result(self) -> Any:
        """What the tool returned. Drops the items that are left. Raises ``CallFailed``."""
        for _ in self:
            pass
        return self._result[0] if self._result is not None else None

    def close(self) -> None:
        """Cancel the stream, unless it is over."""
        self._answers.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_here(target: str) -> bool:
    host = target.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _grpc() -> Any:
    try:
        return importlib.import_module("grpc")
    except ImportError:
        raise ImportError("snakehouse.client needs grpcio: pip install grpcio") from None


def _first(data: bytes, wanted: int) -> bytes:
    return next((message(value) for key, value in fields(data) if key == wanted), b"")


def _value(codec: _codec.Codec, data: bytes) -> Any:
    return codec.decode(_first(data, 1))


def _tool(data: bytes) -> Tool:
    found = {key: text(value) for key, value in fields(data)}
    schemas = [json.loads(found[key]) if found.get(key) else None for key in (5, 6)]
    return Tool(*(found.get(key, "") for key in (1, 2, 3, 4)), *schemas)


def _stats(data: bytes) -> Stats:
    counts: dict[int, int] = {}
    maps: dict[int, dict[str, int]] = {5: {}, 6: {}}
    name = ""
    for key, value in fields(data):
        if key == 1:
            name = text(value)
        elif key in maps:
            pair = dict(fields(message(value)))
            maps[key][text(pair.get(1, b""))] = number(pair.get(2, 0))
        else:
            counts[key] = number(value)
    count = counts.get
    return Stats(
        name, count(2, 0), count(3, 0), count(4, 0), maps[5], maps[6],
        count(7, 0), count(8, 0), count(9, 0),
    )  # fmt: skip


def _trailer(error: Any) -> bytes | None:
    for key, value in error.trailing_metadata() or ():
        if key == _ERROR:
            return value
    return None


def _failed(error: Any) -> CallFailed:
    trailer = _trailer(error)
    if trailer is not None:
        try:
            return _described(trailer)
        except (Malformed, UnicodeDecodeError):
            pass
    # Nobody of ours said it: no connection, or the deadline of the library came first.
    status = str(error.code().name).lower()
    kind = "deadline" if status == "deadline_exceeded" else status
    return CallFailed(error.details() or status, kind=kind, code=kind)


def _cause(error: Any) -> CallFailed | None:
    trailer = _trailer(error)
    try:
        inner = _first(trailer, 7) if trailer is not None else b""
        return _described(inner) if inner else None
    except (Malformed, UnicodeDecodeError):
        return None


def _described(data: bytes) -> CallFailed:
    texts: dict[int, str] = {}
    frames: list[Frame] = []
    effect = True
    for key, value in fields(data):
        if key == 6:
            one = dict(fields(message(value)))
            line = number(one.get(2, 0))
            frames.append(
                Frame(text(one.get(1, b"")), line, text(one.get(3, b"")), text(one.get(4, b"")))
            )
        elif key == 8:
            effect = not number(value)
        elif key != 7:
            texts[key] = text(value)
    return CallFailed(
        texts.get(3, ""),
        kind=texts.get(1, ""),
        code=texts.get(2, ""),
        hint=texts.get(4) or None,
        type_name=texts.get(5, ""),
        traceback=tuple(frames),
        without_effect=not effect,
    )
