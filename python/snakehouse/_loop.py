"""The worker's one loop: read, run, answer.

One thread, the main one. It reads what is there, runs the calls of it in the order in which their
bodies became complete, and answers each exactly once. Answers of quick calls that came together
leave in groups; before a call that may take long, everything is written, and what a quick one holds
up after all, a timer writes. Nothing but
``SystemExit`` from a tool, the end of the socket, a goaway or a broken protocol ends it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from contextvars import copy_context
from gc import get_referents
from sys import getrefcount
from threading import get_ident
from time import monotonic

from snakehouse import _answer, _sessions, _telemetry
from snakehouse._buffers import LEND_FROM
from snakehouse._context import Call, current
from snakehouse._doorbell import WORD_RECALL, WORD_STARTED, Doorbell
from snakehouse._errors import Cancelled, MalformedValue
from snakehouse._frames import (
    HEAD,
    KIND_ERROR,
    KIND_LAST,
    KIND_OPEN,
    MAX_PAYLOAD,
    OPEN_LENGTH,
    OPENING,
    TRACE_AT,
    ProtocolError,
    frame,
    in_pieces,
)
from snakehouse._inbox import Inbox
from snakehouse._limits import MAX_DEPTH
from snakehouse._perform import NO_ARGUMENTS, perform, unready
from snakehouse._reader import Reader
from snakehouse._seat import MainSeat
from snakehouse._session_hooks import run_in
from snakehouse._tool import FUNCTION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from snakehouse._codec import Codec
    from snakehouse._inbox import Request
    from snakehouse._tool import Tool

# A reply longer than this is written without being copied into a batch. Bytes as long as this are
# not even encoded: MessagePack of them is five bytes and they themselves.
_BATCH = 64 << 10
# So much of such bytes is held at most, and so many parts are written without being joined.
_MOST_LARGE = 256 << 10
_MOST_PARTS = 256
# Heads and bodies of answers that are held at most: while the host reads the first of many, the
# worker goes on, and neither ends up waiting for the other.
_GROUP = 2 * 24
# A call is short if it takes less (seconds). A tool is quick after so many short calls in a row.
_SHORT = 200e-6
_QUICK = 4
# No answer is held longer (seconds) by a call that the interpreter can interrupt.
_HOLD = 1e-3
# A timer that was set so long ago (seconds) and has not ended is gone: a tool took it.
_LOST = 10e-3
# How long (milliseconds) the wait for the host is at most while telemetry waits.
_PATIENCE = round(_telemetry.DELAY * 1e3)
# An open frame that is not longer has a body that cannot be nested too deep.
_SMALL = OPEN_LENGTH + MAX_DEPTH
# Nested calls that run on top of each other.
_MAX_NESTED = 16
# Where in its frame a call's body begins, and what says where it stands in its trace.
_BODY = HEAD.size + OPEN_LENGTH
_PLACE = HEAD.size + TRACE_AT


class Loop:
    """One connection, served until it ends."""

    def __init__(
        self, control: socket.socket, doorbell: Doorbell, codec: Codec, tools: list[Tool]
    ) -> None:
        self._control = control
        self._doorbell = doorbell
        self._codec = codec
        self._decode = codec.decode
        self._encode = codec.encode_result
        self._tools = [_Served(tool) for tool in tools]
        # Plain functions have the lowest numbers.
        self._plain = sum(tool.kind == FUNCTION for tool in tools)
        self._out: list[bytes] = []
        # Bytes in it that are not to be copied.
        self._large = 0
        # What a plain call is told about itself; changed for each, and the same object for all.
        self._reader = Reader(control)
        # Before each read. Who waits in the read itself is woken for nothing whenever the host
        # takes answers, since that makes room to write.
        poll = select.poll()
        poll.register(control, select.POLLIN)
        self._wait = poll.poll
        self._current = _PlainCall(self._reader)
        self._base = copy_context()
        self._inbox = Inbox(doorbell.ask, self._out.append)
        callbacks = self._inbox.callbacks
        self._seat = MainSeat(
            control, doorbell, self._pump, self._write, callbacks, codec, self._catch_up
        )
        self._current.port = self._seat.port
        doorbell.is_arriving = self._inbox.waiting.__contains__
        # What ended the connection while a call ran.
        self._broken: Exception | None = None
        self._telemetry = _telemetry.current
        self._telemetry.serve(tools, self._speak, self._take_functions)
        # How long the next wait for the host may be: for ever, unless telemetry waits as well.
        self._patience: int | None = None
        self._is_gone = False
        self._forked = False
        self._writing = False
        # Whether there was a write since the timer was set.
        self._is_fresh = False
        # When the timer was set, or 0.0.
        self._armed = 0.0
        self._overdue = self._write_overdue
        # Whether the timer is that of a hook.
        self._in_hook = False
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
        # Calls share a context until one of them changes it, or somebody else has it as well; the
        # next begins in a new one.
        while base.copy().run(self._serve):
            self._current = self._current.next()
            base.run(current.set, self._current)
        self._tell()

    def _serve(self) -> bool:
        """Serve; true if the context is worn out, false at the end.

        A plain call in one frame, which nearly every call is, is served in this one function,
        without a call of our own: those would cost as much as all else that is done for it.
        ``perform`` does the same for all others.
        """
        control, doorbell, out, reader = self._control, self._doorbell, self._out, self._reader
        decode, encode, tools, plain = self._decode, self._encode, self._tools, self._plain
        unpack_body, revive = self._codec.unpack, self._codec.revive
        wanted, words, running, base = doorbell.wanted, doorbell.words, self._current, self._base
        unpack, pack, partial = OPENING.unpack_from, HEAD.pack, self._inbox.partial
        # The reader's, in variables of our own: whoever else reads finds them put back.
        buffer, view, room = reader.buffer, reader.view, reader.room
        start, end = reader.start, reader.end
        wait = self._wait
        # What a context holds. A copy of a context shares it, and a change makes another one, with
        # the same values but for one: a change shows, and whether somebody keeps a copy.
        (shared,) = get_referents(base)
        holders, known = getrefcount(shared), getrefcount(running)
        now = monotonic()
        # The clock is looked at where much time may have passed, and not for each call.
        late = (now - running.arrived) * 1e6
        number: int
        args = kwargs = result = payload = None
        while True:
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
                    or number >= plain
                    or (partial and stream in partial)
                ):
                    reader.start, reader.end = start, end
                    if not self._rare(kind, stream, view[at + 9 : stop]):
                        return False
                    buffer, view, room = reader.buffer, reader.view, reader.room
                    start, end = reader.start, reader.end
                    late = (monotonic() - running.arrived) * 1e6
                    continue
                tool = tools[number]
                if tool.short < _QUICK or (out and not self._armed):
                    self._make_ready(tool)
                    now = monotonic()
                    late = (now - running.arrived) * 1e6
                if micros <= late:
                    self._refuse(stream, _answer.too_late())
                    continue
                running.micros = micros
                running.session = session
                running.at = at
                is_decoded = False
                try:
                    try:
                        # From here on it may be interrupted, and the host sees that it has begun.
                        doorbell.running = stream
                        words[WORD_STARTED] = stream
                        if words[WORD_RECALL] and doorbell.is_recalled(stream):
                            raise _answer.Recalled
                        if wanted and stream in wanted:
                            wanted.discard(stream)
                            raise Cancelled
                        if length <= _SMALL:
                            # One call less than in ``decode``.
                            args, kwargs = unpack_body(
                                view[at + _BODY : stop], ext_hook=revive, strict_map_key=False
                            )
                        else:
                            args, kwargs = decode(view[at + _BODY : stop])
                        if type(args) is not list or type(kwargs) is not dict:
                            raise MalformedValue(NO_ARGUMENTS)
                        is_decoded = True
                        # Two stars are dear, also before nothing.
                        result = tool.function(*args, **kwargs) if kwargs else tool.function(*args)
                        doorbell.running = 0
                    except BaseException:
                        doorbell.running = doorbell.open = 0
                        raise
                    if self._forked:
                        os._exit(70)
                    is_apart = type(result) is bytes and _BATCH <= len(result) < LEND_FROM
                    payload = None if is_apart else encode(result)
                except SystemExit:
                    self._end_by_exit()
                    raise
                except BaseException as error:
                    self._raised(stream, tool.tool, error, is_decoded, view[at + _BODY : stop])
                else:
                    if payload is None:
                        self._keep_bytes(stream, result)
                    elif len(payload) <= _BATCH:
                        out.append(pack(len(payload), KIND_LAST, stream))
                        out.append(payload)
                        if len(out) >= _GROUP:
                            self._flush()
                    else:
                        self._send_large(stream, payload)
                if tool.short < _QUICK:
                    tool.short = tool.short + 1 if monotonic() - now < _SHORT else 0
                if running.at < 0:
                    # It called the host: what has come meanwhile was read, and taken.
                    buffer, view, room = reader.buffer, reader.view, reader.room
                    start, end = reader.start, reader.end
                    if not self._run_ready():
                        return False
                    late = (monotonic() - running.arrived) * 1e6
                try:
                    is_worn = (
                        getrefcount(shared) != holders
                        or getrefcount(running) != known
                        or copy_context() != base
                    )
                except SystemExit:
                    self._end_by_exit()
                    raise
                except BaseException:
                    # A variable was set to what cannot be compared, which an array cannot.
                    is_worn = True
                if is_worn:
                    reader.start, reader.end = start, end
                    return True
            # An idle worker keeps nothing of its last call.
            args = kwargs = result = payload = None
            if start == end:
                start = end = 0
            else:
                reader.start, reader.end = start, end
                reader.make_room()
                buffer, view, room = reader.buffer, reader.view, reader.room
                start, end = reader.start, reader.end
            if out:
                self._flush()
            if not wait(self._patience):
                self._tell()
                wait()
            got = control.recv_into(view[end:room])
            if not got:
                return False
            running.arrived = now = monotonic()
            late = 0.0
            if self._armed and now - self._armed > _LOST:
                self._armed = 0.0
                self._may_hold = False
            end += got
            reader.end = end

    def _make_ready(self, tool: _Served) -> None:
        """Before a call: have nothing held that it could hold up, or a timer that ends that."""
        if tool.short < _QUICK:
            self._flush()
            if self._armed:
                self._disarm()
        elif not self._arm():
            self._flush()

    def _rare(self, kind: int, stream: int, payload: memoryview) -> bool:
        """Handle any frame, and run the calls that it makes ready; false at the end."""
        inbox = self._inbox
        inbox.take(kind, stream, payload, self._current.arrived)
        if inbox.ready or inbox.nested:
            # Whoever reads while a call runs waits for the socket: what was read is taken before.
            self._reader.take_all(inbox, self._current.arrived)
        return self._run_ready()

    def _run_ready(self) -> bool:
        """Run the calls that were taken and not begun; false at the end."""
        inbox = self._inbox
        while inbox.nested or self._has_more():
            self._flush()
            if self._armed:
                self._disarm()
            if inbox.nested:
                self._perform_nested(inbox.nested.popleft())
                continue
            if not inbox.ready:
                self._end_sessions()
                continue
            request = inbox.ready.popleft()
            tools = self._tools
            content = unready(request, len(tools))
            if content is None:
                self._perform(request, tools[request.number].tool)
            else:
                inbox.waiting.discard(request.stream)
                self._refuse(request.stream, content)
            if request.channel is not None:
                inbox.end(request.channel)
            if self._broken is not None:
                break
        self._raise_broken()
        if inbox.is_over or self._is_gone:
            self._flush()
            return False
        return True

    def _has_more(self) -> bool:
        """Whether there are calls to run, or sessions whose end is to be told."""
        sessions = _sessions.current
        if self._inbox.is_over and not self._inbox.ready:
            sessions.leave()
        return bool(self._inbox.ready or sessions.ended)

    def _end_sessions(self) -> None:
        """Run the hooks of sessions that are over, between calls."""
        try:
            run_in(self._seat, self._bound)
        except SystemExit:
            self._end_by_exit()
            raise
        finally:
            self._seat.end()
        self._raise_broken()

    def _raise_broken(self) -> None:
        """What ended the connection while something ran."""
        if self._broken is not None:
            self._flush()
            raise self._broken

    def _bound(self, seconds: float) -> Callable[[], None]:
        """Have a hook given up after so long, if the timer is not a tool's."""
        self._seat.begin_hook()
        if not self._may_hold or signal.getsignal(signal.SIGALRM) is not self._overdue:
            return _nothing
        self._in_hook = True
        signal.setitimer(signal.ITIMER_REAL, seconds)
        return self._unbound

    def _unbound(self) -> None:
        self._in_hook = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _perform(self, request: Request, tool: Tool) -> None:
        seat = self._seat
        seat.begin(request.stream)
        self._inbox.waiting.discard(request.stream)
        try:
            if self._doorbell.is_recalled(request.stream):
                kind, payload = KIND_ERROR, _answer.recalled()
            else:
                kind, payload = perform(seat, request, tool, self._codec)
        except SystemExit:
            self._end_by_exit()
            raise
        finally:
            seat.end()
        if kind == KIND_LAST:
            self._send_large(request.stream, payload)
        else:
            self._out.append(frame(kind, request.stream, payload))

    def _perform_nested(self, request: Request) -> None:
        """Run a call in the middle of the one that waits for the host, and answer it."""
        seat, tools = self._seat, self._tools
        self._inbox.waiting.discard(request.stream)
        content = unready(request, len(tools))
        if content is None and seat.depth == _MAX_NESTED:
            message = f"{_MAX_NESTED} nested calls run in this worker already"
            content = _answer.refused("saturated", "too_deep", message)
        if content is not None:
            self._write(frame(KIND_ERROR, request.stream, content))
        else:
            tool = tools[request.number].tool
            run = self._base.copy().run
            try:
                kind, payload = seat.nest(
                    request.stream, lambda: run(perform, seat, request, tool, self._codec)
                )
            except SystemExit:
                self._end_by_exit()
                raise
            for head, piece in in_pieces(request.stream, payload, kind):
                self._flush()
                self._send(head, piece)
        if request.channel is not None:
            self._inbox.end(request.channel)

    def _catch_up(self) -> None:
        """The plain call that runs is about to read the socket itself."""
        running, reader = self._current, self._reader
        if running.at >= 0:
            # Behind its frame is what was not looked at.
            length: int = HEAD.unpack_from(reader.buffer, running.at)[0]
            reader.start = running.at + HEAD.size + length
            running.keep()
            reader.take_all(self._inbox, running.arrived)

    def _pump(self) -> None:
        """Read once and take the frames, while a call runs.

        What ends the connection gives the call up first, and is raised when it is over.
        """
        reader = self._reader
        try:
            if not reader.fill():
                self._is_gone = True
            reader.take_all(self._inbox, monotonic())
            self._flush()
            while self._inbox.nested:
                self._perform_nested(self._inbox.nested.popleft())
        except (ProtocolError, OSError) as error:
            self._broken = error
        if self._is_gone or self._broken is not None:
            self._seat.stop_reading()
            self._doorbell.ask(self._doorbell.open)

    def _write(self, data: bytes) -> None:
        """Write whole frames, and what was held before them."""
        if self._out:
            self._flush()
        self._control.sendall(data)

    def _raised(
        self, stream: int, tool: Tool, error: BaseException, is_decoded: bool, body: memoryview
    ) -> None:
        """Keep the answer of a call that failed."""
        if self._forked:
            os._exit(70)
        if not is_decoded and isinstance(error, (TypeError, ValueError, OverflowError)):
            # What read it may have been quick and short of words.
            try:
                self._decode(body)
            except Exception as better:
                error = better
        content = _answer.failed(tool, error) if is_decoded else _answer.not_decoded(error)
        self._out.append(frame(KIND_ERROR, stream, content))
        # The traceback holds the loop's frame, and that frame the error: free what it holds now.
        error.__traceback__ = None

    def _refuse(self, stream: int, content: bytes) -> None:
        """Answer a call that never ran."""
        doorbell = self._doorbell
        doorbell.words[WORD_STARTED] = stream
        if stream in doorbell.wanted:
            doorbell.wanted.discard(stream)
            content = _answer.given_up()
        self._out.append(frame(KIND_ERROR, stream, content))

    def _end_by_exit(self) -> None:
        # In a forked child the socket is the parent's.
        if not self._forked:
            self._flush()

    def _take_functions(self) -> None:
        for served in self._tools:
            served.function = served.tool.function

    def _speak(self) -> None:
        """Send what telemetry is due: a tool says so, which may be in a thread of its own."""
        if get_ident() == self._seat.ident and not self._writing:
            self._doorbell.shield(self._flush)

    def _tell(self) -> None:
        """Send all telemetry: nothing else has come for long enough, or nothing comes any more."""
        self._patience = None
        while batch := self._telemetry.take():
            self._out.append(batch)
        self._flush()

    def _flush(self) -> None:
        telemetry = self._telemetry
        if telemetry.waiting:
            if telemetry.is_due():
                self._out.append(telemetry.take())
            else:
                self._patience = _PATIENCE
        if self._out:
            # The timer's end keeps its hands off as long as this is set.
            self._writing = True
            if self._large and len(self._out) <= _MOST_PARTS:
                self._flush_large()
            else:
                batch = b"".join(self._out)
                self._out.clear()
                self._control.sendall(batch)
            self._writing = False
            self._is_fresh = True

    def _flush_large(self) -> None:
        """Write from where it is what is held."""
        self._large = 0
        sent = self._control.sendmsg(self._out)
        # A signal may cut it short.
        is_whole = sent == sum(map(len, self._out))
        rest = b"" if is_whole else memoryview(b"".join(self._out))[sent:]
        self._out.clear()
        if rest:
            self._control.sendall(rest)

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
        """The timer ended: write what is held, or give up the hook that runs."""
        if self._in_hook:
            self._in_hook = False
            self._doorbell.give_up()
            return
        self._armed = 0.0
        if not self._is_fresh:
            # Something is held for that long: whatever it is, it is not quick any more.
            for tool in self._tools:
                tool.short = 0
        if self._writing or not self._out:
            return
        # A cancel must not hit the write: half a frame would be the end of the connection.
        doorbell = self._doorbell
        was_muffled = doorbell.is_muffled
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
            doorbell.is_muffled = was_muffled
        if not was_muffled:
            doorbell.look()

    def _send_large(self, stream: int, payload: bytes) -> None:
        self._flush()
        self._writing = True
        for head, piece in in_pieces(stream, payload):
            self._send(head, piece)
        self._writing = False

    def _keep_bytes(self, stream: int, result: bytes) -> None:
        """Keep an answer that is bytes as it is: in an encoded body they would be copied twice."""
        length = len(result)
        head = HEAD.pack(5 + length, KIND_LAST, stream) + b"\xc6" + length.to_bytes(4, "big")
        self._out += (head, result)
        self._large += length
        if self._large >= _MOST_LARGE:
            self._flush()

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
        self._large = 0
        self._control.close()


class _PlainCall(Call):
    """The call that runs, in one frame at ``at`` of what was read."""

    __slots__ = ("_reader", "at")

    def __init__(self, reader: Reader) -> None:
        super().__init__(0.0, 0, 0, b"")
        self._reader = reader
        self.at = 0

    def where(self) -> bytes:
        """See ``Call``: read only if somebody asks."""
        if self.at < 0:
            return self.place
        return bytes(self._reader.view[self.at + _PLACE : self.at + _BODY])

    def next(self) -> _PlainCall:
        """For the calls to come; whoever still has this one sees it as it was."""
        self.keep()
        call = _PlainCall(self._reader)
        call.arrived = self.arrived
        call.port, self.port = self.port, None
        return call

    def keep(self) -> None:
        """What was read is about to be read over."""
        self.place = self.where()
        self.at = -1


def _nothing() -> None:
    pass


class _Served:
    """A tool, and how many calls of it in a row were short."""

    __slots__ = ("function", "short", "tool")

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.function = tool.function
        self.short = 0
