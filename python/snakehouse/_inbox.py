"""What the frames of the host have brought: calls that may begin, and the items of streams.

Every frame but the plain call in one piece, which the loop takes itself, comes through here. Owned
here: bodies and items that are still arriving, all together within ``MAX_BODY``, bodies of calls
that wait, within as much again, and the channels of streams that are not over. A frame that the
protocol does not know is a ``ProtocolError``; a body that is too large is a call that is refused.
Frames of a stream that has ended may still be on their way: they are dropped, as the numbers of
calls only grow and so tell what is over.
"""

from __future__ import annotations

from collections import deque

from snakehouse import _buffers, _frames, _sessions, _settings
from snakehouse._callbacks import Callbacks
from snakehouse._channel import Channel
from snakehouse._frames import (
    FLAG_MORE,
    FLAG_NESTED,
    FLAG_STREAM,
    KIND_CALLBACK_DATA,
    KIND_CALLBACK_ERROR,
    KIND_CANCEL,
    KIND_CREDIT,
    KIND_DATA,
    KIND_END,
    KIND_GOAWAY,
    KIND_ITEM,
    KIND_LAST,
    KIND_OPEN,
    KIND_PING,
    KIND_PONG,
    KIND_SESSION,
    KIND_SETTINGS,
    MAX_CHUNK,
    MAX_PAYLOAD,
    OPEN,
    OPEN_LENGTH,
    TRACE_AT,
    ProtocolError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MASK = 0xFFFFFFFF
# Calls that wait here, and bodies that are still arriving. A host sends a fraction of it ahead.
_MAX_READY = 4096
# So many bodies that are not longer may wait in any case.
_SMALL = 64 << 10


class Request:
    """A call whose body is complete, or is still arriving.

    ``channel`` is there if it is a stream; ``is_refused`` if its body was too large.
    """

    __slots__ = (
        "arrived",
        "body",
        "channel",
        "is_nested",
        "is_refused",
        "micros",
        "number",
        "place",
        "session",
        "stream",
    )

    def __init__(
        self,
        stream: int,
        number: int,
        arrived: float,
        micros: int,
        session: int,
        place: bytes,
        channel: Channel | None,
    ) -> None:
        self.stream = stream
        self.number = number
        self.arrived = arrived
        self.micros = micros
        self.session = session
        self.place = place
        self.channel = channel
        self.body = bytearray()
        self.is_refused = False
        # It is to be run now, in the middle of a call that waits for the host.
        self.is_nested = False


class Inbox:
    """The host's frames, sorted."""

    def __init__(self, cancel: Callable[[int], None], send: Callable[[bytes], None]) -> None:
        """``cancel`` is told the calls that are given up, ``send`` gets what is to be answered."""
        self._cancel = cancel
        self._send = send
        self._held = 0
        # The stream that was opened last, or 0.
        self._newest = 0
        self.partial: dict[int, Request] = {}
        # Calls from their first frame until whoever runs them has taken note of them.
        self.waiting: set[int] = set()
        self.channels: dict[int, Channel] = {}
        self.ready: deque[Request] = deque()
        # Calls that wait behind those, by their numbers, if somebody took them out of there.
        self.queued: Mapping[int, Request] = {}
        # Calls that are to be run before those, in the middle of what waits for the host.
        self.nested: deque[Request] = deque()
        self.callbacks = Callbacks()
        # The host said goaway: what is ready is still to be run.
        self.is_over = False

    def take(self, kind: int, stream: int, payload: memoryview, arrived: float) -> None:
        """One frame. Raises ``ProtocolError``."""
        if len(payload) > MAX_PAYLOAD:
            raise ProtocolError(f"frame of {len(payload)} bytes is over the cap")
        if kind == KIND_OPEN:
            self._open(stream, payload, arrived)
        elif kind in (KIND_DATA, KIND_LAST) and stream in self.partial:
            self._piece(self.partial[stream], payload, kind == KIND_LAST)
        elif kind in (KIND_DATA, KIND_ITEM) and (channel := self.channels.get(stream)):
            if len(payload) > MAX_CHUNK:
                raise ProtocolError("a piece of an item is over the cap")
            if kind == KIND_DATA and self._unfinished() + len(payload) > _frames.MAX_BODY:
                raise ProtocolError("unfinished items are over the cap")
            channel.receive(payload, kind == KIND_ITEM)
        elif kind == KIND_CREDIT and len(payload) == _frames.CREDIT.size and stream:
            # For a stream that is over it means nothing.
            if channel := self.channels.get(stream):
                channel.grant(_frames.CREDIT.unpack(payload)[0])
        elif kind == KIND_END and not payload and (channel := self.channels.get(stream)):
            channel.receive_end()
        elif kind in (KIND_DATA, KIND_ITEM, KIND_END) and self._is_over(stream):
            pass
        elif kind == KIND_CANCEL and not payload and stream:
            self._cancel(stream)
        elif kind == KIND_PING and len(payload) == 8 and not stream:
            # The host may have filled the socket for descriptors with what no call reads any more.
            _buffers.current.receive()
            self._send(_frames.frame(KIND_PONG, 0, bytes(payload)))
        elif KIND_CALLBACK_DATA <= kind <= KIND_CALLBACK_ERROR and stream:
            self.callbacks.receive(kind, stream, payload)
        elif kind == KIND_GOAWAY and not stream:
            self.is_over = True
        elif kind == KIND_SETTINGS and not stream:
            _settings.apply(payload, self.callbacks)
        elif kind == KIND_SESSION and not stream:
            _sessions.current.take(payload)
        elif kind != KIND_PONG or len(payload) != 8 or stream:
            raise ProtocolError(f"frame of kind {kind} on stream {stream}")

    def end(self, channel: Channel) -> None:
        """A stream is over: what still comes for it is dropped. From any thread."""
        del self.channels[channel.stream]

    def _waiting_bytes(self, latest: Request) -> int:
        """Bytes of complete bodies whose calls wait, with one that comes to them."""
        waiting = [latest, *self.nested, *self.ready, *list(self.queued.values())]
        return sum(len(request.body) for request in waiting)

    def _unfinished(self) -> int:
        """Bytes of bodies and items that are still arriving."""
        # Channels are ended by other threads: what is listed is there.
        return self._held + sum(channel.unfinished for channel in list(self.channels.values()))

    def _is_over(self, stream: int) -> bool:
        """Whether what is no open stream may have been one."""
        is_old = (self._newest - stream) & _MASK < 0x80000000
        return bool(self._newest and stream) and is_old and stream not in self.partial

    def _open(self, stream: int, payload: memoryview, arrived: float) -> None:
        if len(payload) < OPEN_LENGTH or not stream:
            raise ProtocolError("malformed open frame")
        number, flags, micros, session = OPEN.unpack_from(payload)
        if flags & ~(FLAG_MORE | FLAG_STREAM | FLAG_NESTED):
            raise ProtocolError("malformed open frame")
        if stream in self.partial or stream in self.channels:
            raise ProtocolError("open frame for an open body")
        if len(self.partial) >= _MAX_READY:
            raise ProtocolError("more unfinished bodies at once than any host sends")
        channel = None
        if flags & FLAG_STREAM:
            channel = self.channels[stream] = Channel(stream)
            self._newest = stream
        place = bytes(payload[TRACE_AT:OPEN_LENGTH])
        request = Request(stream, number, arrived, micros, session, place, channel)
        request.is_nested = bool(flags & FLAG_NESTED)
        self.partial[stream] = request
        self.waiting.add(stream)
        self._piece(request, payload[OPEN_LENGTH:], not flags & FLAG_MORE)

    def _piece(self, request: Request, piece: memoryview, is_last: bool) -> None:
        if len(piece) > MAX_CHUNK:
            raise ProtocolError("a piece of a body is over the cap")
        if not request.is_refused:
            if self._held + len(piece) > _frames.MAX_BODY:
                self._held -= len(request.body)
                request.body = bytearray()
                request.is_refused = True
            else:
                request.body += piece
                self._held += len(piece)
        if is_last:
            del self.partial[request.stream]
            self._held -= len(request.body)
            queue = self.nested if request.is_nested else self.ready
            if len(queue) + len(self.queued) >= _MAX_READY:
                raise ProtocolError("more calls at once than any host sends")
            if len(request.body) > _SMALL and self._waiting_bytes(request) > _frames.MAX_BODY:
                request.body = bytearray()
                request.is_refused = True
            queue.append(request)
