"""The worker's one loop: read, run, answer.

One thread, the main one. It reads what is there, runs the calls of it in the order in which their
bodies became complete, and answers each exactly once. Answers of quick calls that came together
leave together, up to sixteen; before a call that may take long, everything is written. Nothing but
``SystemExit`` from a tool, the end of the socket, a goaway or a broken protocol ends it.
"""

from __future__ import annotations

import os
import signal
import socket
from time import monotonic

from snakehouse import _failure
from snakehouse._context import current
from snakehouse._doorbell import Doorbell
from snakehouse._errors import Cancelled, MalformedValue, UnsupportedValue
from snakehouse._frames import (
    FLAG_MORE,
    HEAD,
    KIND_CANCEL,
    KIND_CREDIT,
    KIND_DATA,
    KIND_ERROR,
    KIND_GOAWAY,
    KIND_LAST,
    KIND_OPEN,
    KIND_PING,
    KIND_PONG,
    MAX_BODY,
    MAX_CHUNK,
    MAX_PAYLOAD,
    NEVER,
    OPEN,
    OPEN_LENGTH,
    ProtocolError,
    frame,
    reply,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from snakehouse._codec import Codec
    from snakehouse._tool import Tool

_BUFFER = 256 << 10
# A reply longer than this is written without being copied into a batch.
_BATCH = 64 << 10
# Answers in one write. With all of a full window in one, host and worker only work by turns.
_TOGETHER = 16
# A call is short if it takes less (seconds). A tool is quick after so many short calls in a row.
_SHORT = 200e-6
_QUICK = 4
# No answer is held longer (seconds) by a call that the interpreter can interrupt.
_HOLD = 1e-3


class Loop:
    """One connection, served until it ends."""

    def __init__(
        self, control: socket.socket, doorbell: Doorbell, codec: Codec, tools: list[Tool]
    ) -> None:
        self._control = control
        self._doorbell = doorbell
        self._decode = codec.decode
        self._encode = codec.encode
        self._tools = [_Served(tool) for tool in tools]
        # One look at the clock per call: the end of a call is the beginning of the next.
        self._now = 0.0
        self._plain = False
        self._out: list[bytes] = []
        self._partial: dict[int, _Partial] = {}
        self._held = 0
        self._forked = False
        # Whether a tool's code, and no line of the loop, is what a signal interrupts.
        self._inside = False
        # When the timer was set, or 0.0.
        self._armed = 0.0
        self._overdue = self._write_overdue
        self._may_hold = signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        if self._may_hold:
            signal.signal(signal.SIGALRM, self._overdue)
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def run(self) -> None:
        """Serve until the host hangs up or says goaway.

        Raises ``ProtocolError``, ``OSError`` of the socket, and the ``SystemExit`` of a tool.
        """
        control, doorbell = self._control, self._doorbell
        unpack_head, unpack_open = HEAD.unpack_from, OPEN.unpack_from
        buffer = bytearray(_BUFFER)
        view = memoryview(buffer)
        start = end = 0
        while True:
            self._flush()
            got = control.recv_into(view[end:])
            if not got:
                return
            arrived = self._now = monotonic()
            end += got
            missing = 9
            while end - start >= 9:
                length, kind, stream = unpack_head(buffer, start)
                if length > MAX_PAYLOAD:
                    raise ProtocolError(f"frame of {length} bytes is over the cap")
                stop = start + 9 + length
                if stop > end:
                    missing = 9 + length
                    break
                at = start + 9
                start = stop
                if kind == KIND_OPEN:
                    if length < OPEN_LENGTH or not stream:
                        raise ProtocolError("malformed open frame")
                    tool, flags, micros, session = unpack_open(buffer, at)
                    deadline = None if micros == NEVER else arrived + micros * 1e-6
                    body = view[at + OPEN_LENGTH : stop]
                    if flags:
                        self._begin(stream, flags, (tool, deadline, session), body)
                    elif stream in self._partial:
                        raise ProtocolError("open frame for an open body")
                    else:
                        self._call(stream, tool, deadline, session, body)
                elif kind == KIND_CANCEL:
                    if length or not stream:
                        raise ProtocolError("malformed cancel frame")
                    doorbell.ask(stream)
                elif not self._other(kind, stream, view[at:stop]):
                    return
            if start == end:
                start = end = 0
            elif start + missing > len(buffer) or start > _BUFFER // 2:
                rest = bytes(view[start:end])
                if missing > len(buffer):
                    buffer = bytearray(missing + _BUFFER)
                    view = memoryview(buffer)
                end = len(rest)
                start = 0
                view[:end] = rest

    def _call(
        self,
        stream: int,
        number: int,
        deadline: float | None,
        session: int,
        body: memoryview | bytearray,
    ) -> None:
        """Run one call and keep its answer for the next write."""
        doorbell = self._doorbell
        try:
            tool = self._tools[number]
        except IndexError:
            message = f"the worker has no tool number {number}"
            self._refuse(stream, "not_found", "unknown_tool", message)
            return
        if self._out and (tool.short < _QUICK or not (self._armed or self._arm())):
            self._flush()
            self._now = monotonic()
        began = self._now
        if deadline is not None and began >= deadline:
            self._refuse(
                stream, "deadline", "deadline", "the deadline passed before the call began"
            )
            return
        if deadline is not None or session:
            current.set((deadline, session))
            self._plain = False
        elif not self._plain:
            current.set((None, 0))
            self._plain = True
        is_decoded = False
        self._inside = True
        try:
            try:
                doorbell.begin(stream)
                args, kwargs = self._decode(body)
                if type(args) is not list or type(kwargs) is not dict:
                    raise MalformedValue("a call's body is not [args, kwargs]")
                is_decoded = True
                result = tool.function(*args, **kwargs)
            finally:
                doorbell.running = 0
            if self._forked:
                os._exit(70)
            payload = self._encode(result)
        except SystemExit:
            self._inside = False
            self._end_by_exit()
            raise
        except BaseException as error:
            self._inside = False
            if self._forked:
                os._exit(70)
            content = self._failed(tool.tool, error) if is_decoded else _not_decoded(error)
            self._out.append(frame(KIND_ERROR, stream, content))
            # The traceback holds this frame, and this frame the error: free what it holds now.
            error.__traceback__ = None
        else:
            self._inside = False
            if len(payload) <= _BATCH:
                self._out.append(HEAD.pack(len(payload), KIND_LAST, stream) + payload)
            else:
                self._flush()
                for head, piece in reply(stream, payload):
                    self._send(head, piece)
        self._now = now = monotonic()
        tool.short = tool.short + 1 if now - began < _SHORT else 0

    def _failed(self, tool: Tool, error: BaseException) -> bytes:
        traceback = error.__traceback__
        inside = traceback is not None and traceback.tb_next is not None
        if type(error) is TypeError and not inside:
            # Raised by the call itself: the arguments do not fit the parameters.
            content = _failure.failure(
                "invalid_input",
                "bad_arguments",
                str(error),
                hint=f"the tool is {tool.name}{tool.signature()}",
            )
        elif isinstance(error, UnsupportedValue) and _is_ours(error):
            content = _failure.failure(
                "tool", "unsupported_value", f"the result of {tool.name}: {error}"
            )
        else:
            content = _failure.from_exception(error, skip=1)
        return _failure.encode(content)

    def _refuse(self, stream: int, kind: str, code: str, message: str) -> None:
        """Answer a call that never ran."""
        try:
            self._doorbell.begin(stream)
        except Cancelled:
            kind, code, message = "cancelled", "cancelled", "the caller gave up"
        finally:
            self._doorbell.running = 0
        content = _failure.failure(kind, code, message)
        self._out.append(frame(KIND_ERROR, stream, _failure.encode(content)))

    def _other(self, kind: int, stream: int, payload: memoryview) -> bool:
        """Handle a rare frame; false if it ends the connection."""
        if kind in (KIND_DATA, KIND_LAST):
            partial = self._partial.get(stream)
            if partial is None:
                raise ProtocolError("a piece of a body that is not open")
            self._hold(partial, payload)
            if kind == KIND_LAST:
                del self._partial[stream]
                self._held -= len(partial.body)
                if partial.refused:
                    message = f"the body of the call is over {MAX_BODY} bytes"
                    self._refuse(stream, "invalid_input", "body_too_large", message)
                else:
                    self._call(stream, *partial.call, partial.body)
        elif kind == KIND_PING and len(payload) == 8 and not stream:
            self._out.append(frame(KIND_PONG, 0, bytes(payload)))
        elif kind == KIND_GOAWAY and not stream:
            self._flush()
            return False
        elif not (
            (kind == KIND_PONG and len(payload) == 8 and not stream)
            or (kind == KIND_CREDIT and len(payload) == 4 and stream)
        ):
            raise ProtocolError(f"frame of kind {kind} on stream {stream}")
        return True

    def _begin(
        self, stream: int, flags: int, call: tuple[int, float | None, int], piece: memoryview
    ) -> None:
        if flags != FLAG_MORE or stream in self._partial:
            raise ProtocolError("malformed open frame")
        partial = self._partial[stream] = _Partial(call)
        self._hold(partial, piece)

    def _hold(self, partial: _Partial, piece: memoryview) -> None:
        if len(piece) > MAX_CHUNK:
            raise ProtocolError("a piece of a body is over the cap")
        if partial.refused:
            return
        if self._held + len(piece) > MAX_BODY:
            self._held -= len(partial.body)
            partial.body = bytearray()
            partial.refused = True
            return
        partial.body += piece
        self._held += len(piece)

    def _end_by_exit(self) -> None:
        # In a forked child the socket is the parent's.
        if not self._forked:
            self._flush()

    def _flush(self) -> None:
        if self._armed:
            self._disarm()
        if self._out:
            batch = b"".join(self._out)
            self._out.clear()
            self._control.sendall(batch)

    def _arm(self) -> bool:
        """Set the timer; false if nothing may be held because the timer is a tool's."""
        if self._may_hold and signal.getsignal(signal.SIGALRM) is self._overdue:
            # Looked at first: the timer may end while this thread waits for its processor.
            armed = monotonic()
            left, interval = signal.setitimer(signal.ITIMER_REAL, _HOLD)
            if not left:
                self._armed = armed
                return True
            signal.setitimer(signal.ITIMER_REAL, left, interval)
        self._may_hold = False
        return False

    def _disarm(self) -> None:
        """Stop the timer, unless a tool has taken it; then it is the tool's for good."""
        armed, self._armed = self._armed, 0.0
        if signal.getsignal(signal.SIGALRM) is not self._overdue:
            self._may_hold = False
            return
        left, interval = signal.setitimer(signal.ITIMER_REAL, 0.0)
        if left > _HOLD:
            signal.setitimer(signal.ITIMER_REAL, left, interval)
            self._may_hold = False
        elif not left and monotonic() - armed < _HOLD:
            # Stopped, and not by its end.
            self._may_hold = False

    def _write_overdue(self, _signal: int, _frame: FrameType | None) -> None:
        """The timer ended: write what is held, if it is a tool that was interrupted.

        Else the loop was: it may be about to start a tool, so the timer is set again.
        """
        # A cancel must not hit the write: half a frame would be the end of the connection.
        doorbell = self._doorbell
        doorbell.is_muffled = True
        try:
            if self._armed:
                self._armed = monotonic()
                signal.setitimer(signal.ITIMER_REAL, _HOLD)
                if self._inside:
                    self._flush()
        except OSError:
            # The host is gone. The loop finds that out when the call is over.
            pass
        except BaseException:
            # Raised by another handler of the tool's, perhaps within a frame.
            self._control.shutdown(socket.SHUT_RDWR)
            raise
        finally:
            doorbell.is_muffled = False
        doorbell.look()

    def _send(self, head: bytes, piece: bytes | memoryview) -> None:
        sent = self._control.sendmsg((head, piece))
        if sent < len(head):
            self._control.sendall(head[sent:])
            sent = len(head)
        if sent < len(head) + len(piece):
            self._control.sendall(piece[sent - len(head) :])

    def _leave_to_parent(self) -> None:
        # A child that a tool forked must not speak in the worker's name.
        self._forked = True
        self._armed = 0.0
        self._out.clear()
        self._control.close()


class _Served:
    """A tool, and how many calls of it in a row were short."""

    __slots__ = ("function", "short", "tool")

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.function = tool.function
        self.short = 0


class _Partial:
    """A call whose body is still arriving."""

    __slots__ = ("body", "call", "refused")

    def __init__(self, call: tuple[int, float | None, int]) -> None:
        self.call = call
        self.body = bytearray()
        self.refused = False


def _not_decoded(error: BaseException) -> bytes:
    """The failure of a call whose tool never ran."""
    if isinstance(error, Cancelled):
        content = _failure.from_exception(error, skip=1)
    elif isinstance(error, (MalformedValue, TypeError, ValueError)):
        content = _failure.failure("invalid_input", "malformed_value", str(error))
    else:
        message = f"{type(error).__name__} while the call's body was decoded"
        if said := _failure.message_of(error):
            message = f"{message}: {said}"
        content = _failure.failure("invalid_input", "body_not_decoded", message)
    return _failure.encode(content)


def _is_ours(error: UnsupportedValue) -> bool:
    """Whether the codec refused the result, and not the tool something of its own."""
    traceback: Any = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and "snakehouse._" in traceback.tb_frame.f_globals["__name__"]
