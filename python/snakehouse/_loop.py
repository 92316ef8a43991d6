"""The worker's one loop: read, run, answer.

One thread, the main one. It reads what is there, runs the calls of it in the order in which their
bodies became complete, and answers each exactly once. Answers of quick calls that came together
leave together; before a call that may take long, everything is written, and what a quick one holds
up after all, a timer writes. Nothing but
``SystemExit`` from a tool, the end of the socket, a goaway or a broken protocol ends it.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from contextvars import copy_context
from time import monotonic

from snakehouse import _failure
from snakehouse._context import Call, current
from snakehouse._doorbell import WORD_STARTED, Doorbell
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
# A call is short if it takes less (seconds). A tool is quick after so many short calls in a row.
_SHORT = 200e-6
_QUICK = 4
# No answer is held longer (seconds) by a call that the interpreter can interrupt.
_HOLD = 1e-3
# A timer that was set so long ago (seconds) and has not ended is gone: a tool took it.
_LOST = 10e-3
_NO_ARGUMENTS = "a call's body is not [args, kwargs]"
# The head of a frame and that of a call in one, and where the call's body begins.
_OPENING = struct.Struct("<IBIHHQQ")
_BODY = HEAD.size + OPEN_LENGTH


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
        self._out: list[bytes] = []
        # What a plain call is told about itself; changed for each, and the same object for all.
        self._current = Call(0.0, 0, 0)
        self._base = copy_context()
        self._start = self._end = 0
        self._grow(_BUFFER)
        self._partial: dict[int, _Partial] = {}
        self._held = 0
        self._forked = False
        self._writing = False
        # Whether there was a write since the timer was set.
        self._is_fresh = False
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
        base = self._base = copy_context()
        base.run(current.set, self._current)
        # Calls share a context until one of them changes it; the next begins in a new one.
        while base.copy().run(self._serve):
            pass

    def _serve(self) -> bool:
        """Serve; true if the context is worn out, false at the end.

        A plain call in one frame, which nearly every call is, is served in this one function,
        without a call of our own: those would cost as much as all else that is done for it.
        ``_call`` does the same for the calls that arrive in any other way.
        """
        control, doorbell, out, partial = self._control, self._doorbell, self._out, self._partial
        decode, encode, tools, known = self._decode, self._encode, self._tools, len(self._tools)
        wanted, words, running, base = doorbell.wanted, doorbell.words, self._current, self._base
        unpack, pack = _OPENING.unpack_from, HEAD.pack
        buffer, view, room = self._buffer, self._view, self._room
        start, end = self._start, self._end
        now = monotonic()
        number: int
        args = kwargs = result = payload = None
        while True:
            # The clock is looked at where much time may have passed, and not for each call.
            late = (now - running.arrived) * 1e6
            while True:
                # The longest head is looked at before it is known to be there: the buffer has
                # room for it behind what is read.
                length, kind, stream, number, flags, micros, session = unpack(buffer, start)
                stop = start + 9 + length
                if stop > end:
                    break
                at, start = start, stop
                if (
                    kind != KIND_OPEN
                    or flags
                    or not OPEN_LENGTH <= length <= MAX_PAYLOAD
                    or not stream
                    or number >= known
                    or stream in partial
                ):
                    if not self._rare(kind, stream, view[at + 9 : stop]):
                        return False
                    late = (monotonic() - running.arrived) * 1e6
                    continue
                tool = tools[number]
                if tool.short < _QUICK or (out and not self._armed):
                    self._make_ready(tool)
                    now = monotonic()
                    late = (now - running.arrived) * 1e6
                if micros <= late:
                    self._refuse_late(stream)
                    continue
                running.micros = micros
                running.session = session
                is_decoded = False
                try:
                    try:
                        # From here on it may be interrupted, and the host sees that it has begun.
                        doorbell.running = stream
                        words[WORD_STARTED] = stream
                        if wanted and stream in wanted:
                            wanted.discard(stream)
                            raise Cancelled
                        args, kwargs = decode(view[at + _BODY : stop])
                        if type(args) is not list or type(kwargs) is not dict:
                            raise MalformedValue(_NO_ARGUMENTS)
                        is_decoded = True
                        # Two stars are dear, also before nothing.
                        result = tool.function(*args, **kwargs) if kwargs else tool.function(*args)
                        doorbell.running = 0
                    except BaseException:
                        doorbell.running = 0
                        raise
                    if self._forked:
                        os._exit(70)
                    payload = encode(result)
                except SystemExit:
                    self._end_by_exit()
                    raise
                except BaseException as error:
                    self._raised(stream, tool.tool, error, is_decoded)
                else:
                    if len(payload) <= _BATCH:
                        out.append(pack(len(payload), KIND_LAST, stream))
                        out.append(payload)
                    else:
                        self._send_large(stream, payload)
                if tool.short < _QUICK:
                    tool.short = tool.short + 1 if monotonic() - now < _SHORT else 0
                if copy_context() != base:
                    self._start, self._end = start, end
                    return True
            # An idle worker keeps nothing of its last call.
            args = kwargs = result = payload = None
            if start == end:
                start = end = 0
            else:
                missing = 9
                if end - start >= 9:
                    if length > MAX_PAYLOAD:
                        raise ProtocolError(f"frame of {length} bytes is over the cap")
                    missing += length
                if start + missing > room or start > _BUFFER // 2:
                    rest = bytes(view[start:end])
                    if missing > room:
                        self._grow(missing + _BUFFER)
                        buffer, view, room = self._buffer, self._view, self._room
                    start, end = 0, len(rest)
                    view[:end] = rest
            if out:
                self._flush()
            got = control.recv_into(view[end:room])
            if not got:
                return False
            running.arrived = now = monotonic()
            if self._armed and now - self._armed > _LOST:
                self._armed = 0.0
                self._may_hold = False
            end += got

    def _grow(self, room: int) -> None:
        self._room = room
        self._buffer = bytearray(room + _OPENING.size)
        self._view = memoryview(self._buffer)

    def _make_ready(self, tool: _Served) -> None:
        """Before a call: have nothing held that it could hold up, or a timer that ends that."""
        if tool.short < _QUICK:
            self._flush()
            if self._armed:
                self._disarm()
        elif not self._arm():
            self._flush()

    def _call(
        self,
        stream: int,
        number: int,
        arrived: float,
        micros: int,
        session: int,
        body: memoryview | bytearray,
    ) -> None:
        """Run one call, write what came before it, and keep its answer for the next write."""
        self._flush()
        if self._armed:
            self._disarm()
        if number >= len(self._tools):
            message = f"the worker has no tool number {number}"
            self._refuse(stream, "not_found", "unknown_tool", message)
            return
        if micros <= (monotonic() - arrived) * 1e6:
            self._refuse_late(stream)
            return
        doorbell, tool = self._doorbell, self._tools[number]
        context = copy_context()
        context.run(current.set, Call(arrived, micros, session))
        is_decoded = False
        try:
            try:
                doorbell.begin(stream)
                args, kwargs = self._decode(body)
                if type(args) is not list or type(kwargs) is not dict:
                    raise MalformedValue(_NO_ARGUMENTS)
                is_decoded = True
                result = context.run(tool.function, *args, **kwargs)
                doorbell.running = 0
            except BaseException:
                doorbell.running = 0
                raise
            if self._forked:
                os._exit(70)
            payload = self._encode(result)
        except SystemExit:
            self._end_by_exit()
            raise
        except BaseException as error:
            self._raised(stream, tool.tool, error, is_decoded)
        else:
            self._send_large(stream, payload)

    def _raised(self, stream: int, tool: Tool, error: BaseException, is_decoded: bool) -> None:
        """Keep the answer of a call that failed."""
        if self._forked:
            os._exit(70)
        content = self._failed(tool, error) if is_decoded else _not_decoded(error)
        self._out.append(frame(KIND_ERROR, stream, content))
        # The traceback holds the loop's frame, and that frame the error: free what it holds now.
        error.__traceback__ = None

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

    def _refuse_late(self, stream: int) -> None:
        message = "the deadline passed before the call began"
        self._refuse(stream, "deadline", "deadline", message)

    def _rare(self, kind: int, stream: int, payload: memoryview) -> bool:
        """Handle any frame; false if it ends the connection."""
        if len(payload) > MAX_PAYLOAD:
            raise ProtocolError(f"frame of {len(payload)} bytes is over the cap")
        if kind == KIND_OPEN:
            if len(payload) < OPEN_LENGTH or not stream:
                raise ProtocolError("malformed open frame")
            number, flags, micros, session = OPEN.unpack_from(payload)
            call = (number, self._current.arrived, micros, session)
            body = payload[OPEN_LENGTH:]
            if stream in self._partial:
                raise ProtocolError("open frame for an open body")
            if flags:
                self._begin(stream, flags, call, body)
            else:
                self._call(stream, *call, body)
        elif kind == KIND_CANCEL:
            if len(payload) or not stream:
                raise ProtocolError("malformed cancel frame")
            self._doorbell.ask(stream)
        elif kind in (KIND_DATA, KIND_LAST):
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
        self, stream: int, flags: int, call: tuple[int, float, int, int], piece: memoryview
    ) -> None:
        if flags != FLAG_MORE:
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
        if self._out:
            # The timer's end keeps its hands off as long as this is set.
            self._writing = True
            batch = b"".join(self._out)
            self._out.clear()
            self._control.sendall(batch)
            self._writing = False
            self._is_fresh = True

    def _arm(self) -> bool:
        """Set the timer; false if nothing may be held because the timer is a tool's."""
        if self._may_hold and signal.getsignal(signal.SIGALRM) is self._overdue:
            # Looked at first: the timer may end while this thread waits for its processor.
            armed = monotonic()
            left, interval = signal.setitimer(signal.ITIMER_REAL, _HOLD)
            if not left:
                self._armed = armed
                self._is_fresh = False
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
        """The timer ended: write what is held."""
        self._armed = 0.0
        if not self._is_fresh:
            # Something is held for that long: whatever it is, it is not quick any more.
            for tool in self._tools:
                tool.short = 0
        if self._writing or not self._out:
            return
        # A cancel must not hit the write: half a frame would be the end of the connection.
        doorbell = self._doorbell
        doorbell.is_muffled = True
        try:
            self._flush()
        except (BrokenPipeError, ConnectionResetError):
            # The host is gone. The loop finds that out when the call is over.
            pass
        except BaseException:
            # Raised by another handler of the tool's, perhaps within a frame.
            self._control.shutdown(socket.SHUT_RDWR)
            raise
        finally:
            doorbell.is_muffled = False
        doorbell.look()

    def _send_large(self, stream: int, payload: bytes) -> None:
        self._flush()
        self._writing = True
        for head, piece in reply(stream, payload):
            self._send(head, piece)
        self._writing = False

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

    def __init__(self, call: tuple[int, float, int, int]) -> None:
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
