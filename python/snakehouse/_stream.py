"""Both directions of a streaming call that runs in synchronous code.

``send_items`` sends what a generator yields, each item at once, as long as there is credit; when
the call ends in any other way than by the generator's own return, the generator is closed.
``Incoming`` is what ``snakehouse.incoming()`` gives: the items that the host sends.
"""

from __future__ import annotations

import threading
import traceback

from snakehouse._answer import BadItem
from snakehouse._errors import Cancelled, UnsupportedValue
from snakehouse._frames import CREDIT_UNIT, HEAD, KIND_ITEM, MAX_CHUNK, in_pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator
    from contextvars import Context
    from typing import Any

    from snakehouse._channel import Channel
    from snakehouse._seat import Seat


def item_frames(stream: int, payload: bytes) -> bytes:
    """One item, in as many frames as it needs."""
    if len(payload) <= MAX_CHUNK:
        return HEAD.pack(len(payload), KIND_ITEM, stream) + payload
    return b"".join(part for pair in in_pieces(stream, payload, KIND_ITEM) for part in pair)


def send_items(
    seat: Seat,
    channel: Channel,
    generator: Generator[Any, Any, Any],
    context: Context,
    encode: Callable[[object], bytes],
) -> Any:
    """Run a generator to its end and give what it returns.

    Raises what it raises, ``Cancelled``, and ``BadItem`` if it yields what cannot travel.
    """
    step, run = generator.__next__, context.run
    resume, pause, send, pack = seat.resume, seat.pause, seat.send, HEAD.pack
    stream = channel.stream
    try:
        while True:
            # As ``guard`` does it, without the call.
            try:
                resume()
                item = run(step)
            except StopIteration as end:
                pause()
                return end.value
            except BaseException:
                pause()
                raise
            pause()
            if seat.was_hit:
                # It was told, and goes on all the same.
                raise Cancelled
            try:
                payload = encode(item)
            except UnsupportedValue as error:
                raise BadItem from error
            length = len(payload)
            if channel.granted <= channel.spent:
                while not channel.may_send():
                    seat.wait(channel)
            channel.spent += 1 + length // CREDIT_UNIT
            if length <= MAX_CHUNK:
                send(pack(length, KIND_ITEM, stream) + payload)
            else:
                send(item_frames(stream, payload))
    finally:
        close(generator, context)


def close(generator: Generator[Any, Any, Any], context: Context) -> None:
    """Let a generator's cleaning up run. What that raises is printed: the call has its answer."""
    try:
        context.run(generator.close)
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()


class Incoming:
    """The items that the host sends to a streaming call, in their order, until it sends no more.

    An iterator in synchronous tools, an asynchronous iterator in async tools. Only the code that
    runs the call may use it: no other thread.
    """

    def __init__(
        self, seat: Seat, channel: Channel, decode: Callable[[bytes | bytearray], Any]
    ) -> None:
        self._seat = seat
        self._channel = channel
        self._decode = decode

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        seat, channel = self._seat, self._channel
        if seat.ident != threading.get_ident():
            raise RuntimeError("items from the host are for the thread that runs the call")
        seat.pause()
        try:
            while not channel.items:
                if channel.is_ended:
                    raise StopIteration
                seat.wait(channel)
            body = channel.items.popleft()
            if credit := channel.return_credit(len(body)):
                seat.send(credit)
        finally:
            seat.resume()
        return self._decode(body)

    def __aiter__(self) -> AsyncIterator[Any]:
        raise TypeError("this tool is not async: use 'for', not 'async for'")
