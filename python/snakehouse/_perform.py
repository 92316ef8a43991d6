"""One call from its body to its last frame, in whatever seat.

The loop of a worker that runs one call at a time does the same for plain calls in its own lines,
for speed; every other call comes through here.
"""

from __future__ import annotations

import os
from contextvars import copy_context
from time import monotonic

from snakehouse import _answer, _frames
from snakehouse._context import Call, current
from snakehouse._errors import MalformedValue
from snakehouse._frames import KIND_ERROR, KIND_LAST
from snakehouse._stream import Incoming, send_items
from snakehouse._tool import ASYNC_GENERATOR, FUNCTION, GENERATOR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from snakehouse._codec import Codec
    from snakehouse._inbox import Request
    from snakehouse._seat import Seat
    from snakehouse._tool import Tool

NO_ARGUMENTS = "a call's body is not [args, kwargs]"


def unready(request: Request, tools: int) -> bytes | None:
    """The failure of a call that must not run, if it must not."""
    if request.number >= tools:
        return _answer.no_tool(request.number)
    if request.is_refused:
        return _answer.too_large(_frames.MAX_BODY)
    if request.micros <= (monotonic() - request.arrived) * 1e6:
        return _answer.too_late()
    return None


def perform(seat: Seat, request: Request, tool: Tool, codec: Codec) -> tuple[int, bytes]:
    """Run a call; gives the kind of its last frame, and that frame's body.

    Items of a stream are sent before. Raises the ``SystemExit`` of a tool and nothing else.
    """
    pid = os.getpid()
    is_decoded = False
    try:
        body = seat.guard(codec.decode, request.body)
        args, kwargs = body
        if type(args) is not list or type(kwargs) is not dict:
            raise MalformedValue(NO_ARGUMENTS)
        is_decoded = True
        payload = codec.encode_result(_run(seat, request, tool, codec, *body))
    except SystemExit:
        raise
    except BaseException as error:
        kind = KIND_ERROR
        payload = _answer.failed(tool, error) if is_decoded else _answer.not_decoded(error)
        error.__traceback__ = None
    else:
        kind = KIND_LAST
    if os.getpid() != pid:
        # A child that the tool forked must not speak in the worker's name.
        os._exit(70)
    return kind, payload


def _run(
    seat: Seat,
    request: Request,
    tool: Tool,
    codec: Codec,
    args: list[Any],
    kwargs: dict[str, Any],
) -> Any:
    """The call's result: of its function, or of its generator after the last item."""
    channel = request.channel
    call = Call(request.arrived, request.micros, request.session, request.place, request.stream)
    context = copy_context()
    context.run(current.set, call)
    if tool.kind in (GENERATOR, ASYNC_GENERATOR) and channel is None:
        raise _answer.NotAStream
    try:
        if tool.kind in (FUNCTION, GENERATOR):
            call.port = seat.port
            if channel is not None:
                call.incoming = Incoming(seat, channel, codec.decode)
            result = seat.guard(context.run, tool.function, *args, **kwargs)
            if tool.kind == GENERATOR and channel is not None:
                return send_items(seat, channel, result, context, codec.encode)
            return result
        from snakehouse._async import AsyncIncoming, run_tool

        call.port, call.ident = seat.async_port, seat.ident
        if channel is not None:
            call.incoming = AsyncIncoming(channel, codec.decode, seat.send)
        was_hit = lambda: seat.was_hit  # noqa: E731
        coroutine = run_tool(tool, channel, codec, seat.send, was_hit, args, kwargs)
        return seat.complete(coroutine, context)
    finally:
        # What the tool left running has no host any more.
        call.port = None
