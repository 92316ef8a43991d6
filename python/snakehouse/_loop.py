"""The worker's one loop: read, run, answer.

One thread, the main one. It reads what is there, runs the calls of it in the order in which their
bodies became complete, and answers each exactly once; ``Writer`` knows what of that is held, and
for how long. Nothing but ``SystemExit`` from a tool, the end of the socket, a goaway or a broken
protocol ends it.
"""

from __future__ import annotations

import os
import select
from contextvars import copy_context
from gc import get_referents
from sys import getrefcount
from threading import get_ident
from time import monotonic

from snakehouse import _answer, _sessions, _telemetry
from snakehouse._buffers import LEND_FROM
from snakehouse._context import current
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
    TRACE_SAMPLED,
    ProtocolError,
    frame,
)
from snakehouse._inbox import Inbox
from snakehouse._limits import MAX_DEPTH
from snakehouse._perform import NO_ARGUMENTS, perform, unready
from snakehouse._plain import BODY, FLAGS, PlainCall, Served
from snakehouse._reader import Reader
from snakehouse._seat import MainSeat
from snakehouse._session_hooks import run_in
from snakehouse._tool import FUNCTION
from snakehouse._writer import BATCH, GROUP, LOST, QUICK, Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from snakehouse._codec import Codec
    from snakehouse._inbox import Request
    from snakehouse._tool import Tool

# An open frame that is not longer has a body that cannot be nested too deep.
_SMALL = OPEN_LENGTH + MAX_DEPTH
# Nested calls that run on top of each other.
_MAX_NESTED = 16


class Loop:
    """One connection, served until it ends."""

    def __init__(
        self, control: socket.socket, doorbell: Doorbell, codec: Codec, tools: list[Tool]
    ) -> None:
        self._control = control
        self._doorbell = doorbell
        self._codec = codec
        self._decode = codec.decode
        self._tools = [Served(tool) for tool in tools]
        # Plain functions have the lowest numbers.
        self._plain = sum(tool.kind == FUNCTION for tool in tools)
        self._writer = writer = Writer(control, doorbell, self._tools)
        self._reader = Reader(control)
        # Before each read. Who waits in the read itself is woken for nothing whenever the host
        # takes answers, since that makes room to write.
        poll = select.poll()
        poll.register(control, select.POLLIN)
        self._wait = poll.poll
        # What a plain call is told about itself; changed for each, and the same object for all.
        self._current = PlainCall(self._reader)
        self._base = copy_context()
        self._inbox = inbox = Inbox(doorbell.ask, writer.out.append)
        self._seat = MainSeat(
            control, doorbell, self._pump, writer.write, inbox.callbacks, codec, self._catch_up
        )
        self._current.port = self._seat.port
        doorbell.is_arriving = inbox.waiting.__contains__
        # What ended the connection while a call ran.
        self._broken: Exception | None = None
        _telemetry.current.serve(tools, self._speak, self._take_functions)
        self._is_gone = self._forked = False
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
        self._writer.tell()

    def _serve(self) -> bool:
        """Serve; true if the context is worn out, false at the end.

        A plain call in one frame, which nearly every call is, is served in this one function,
        without a call of our own: those would cost as much as all else that is done for it.
        ``perform`` does the same for all others.
        """
        control, doorbell, reader, codec = self._control, self._doorbell, self._reader, self._codec
        decode, encode, unpack_body = self._decode, codec.encode_result, codec.unpack
        tools, plain, revive, writer = self._tools, self._plain, codec.revive, self._writer
        out, flush, wait = writer.out, writer.flush, self._wait
        wanted, words, running, base = doorbell.wanted, doorbell.words, self._current, self._base
        unpack, pack, partial = OPENING.unpack_from, HEAD.pack, self._inbox.partial
        # The reader's, in variables of our own: whoever else reads finds them put back.
        buffer, view, room = reader.buffer, reader.view, reader.room
        start, end = reader.start, reader.end
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
                if tool.short < QUICK or (out and not writer.armed):
                    writer.make_ready(tool)
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
                                view[at + BODY : stop], ext_hook=revive, strict_map_key=False
                            )
                        else:
                            args, kwargs = decode(view[at + BODY : stop])
                        if type(args) is not list or type(kwargs) is not dict:
                            raise MalformedValue(NO_ARGUMENTS)
                        is_decoded = True
                        function = tool.plain
                        # Of many calls few are recorded: the others do not pass by a function more.
                        if tool.traced is not None and buffer[at + FLAGS] & TRACE_SAMPLED:
                            function = tool.traced
                        # Two stars are dear, also before nothing.
                        result = function(*args, **kwargs) if kwargs else function(*args)
                        doorbell.running = 0
                    except BaseException:
                        doorbell.running = doorbell.open = 0
                        raise
                    if self._forked:
                        os._exit(70)
                    is_apart = type(result) is bytes and BATCH <= len(result) < LEND_FROM
                    payload = None if is_apart else encode(result)
                except SystemExit:
                    self._end_by_exit()
                    raise
                except BaseException as error:
                    self._raised(stream, tool.tool, error, is_decoded, view[at + BODY : stop])
                else:
                    if payload is None:
                        writer.keep_bytes(stream, result)
                    elif len(payload) <= BATCH:
                        out.append(pack(len(payload), KIND_LAST, stream))
                        out.append(payload)
                        if len(out) >= GROUP:
                            flush()
                    else:
                        writer.send_large(stream, payload)
                if tool.short < QUICK:
                    tool.took(monotonic() - now)
                if running.at < 0:
                    # It called the host: what has come meanwhile was read, and taken.
                    buffer, view, room = reader.buffer, reader.view, reader.room
                    start, end = reader.start, reader.end
                    if not self._run_ready():
                        return False
                    late = (monotonic() - running.arrived) * 1e6
                is_worn = (
                    getrefcount(shared) != holders
                    or getrefcount(running) != known
                    # It is kept, so nothing else can be in its place.
                    or get_referents(copy_context())[0] is not shared
                )
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
                flush()
            if not wait(writer.patience):
                writer.tell()
                wait()
            got = control.recv_into(view[end:room])
            if not got:
                return False
            running.arrived = now = monotonic()
            late = 0.0
            if writer.armed and now - writer.armed > LOST:
                writer.lose()
            end += got
            reader.end = end

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
            self._writer.flush()
            if self._writer.armed:
                self._writer.disarm()
            if inbox.nested:
                self._perform_nested(inbox.nested.popleft())
                continue
            if not inbox.ready:
                self._end_sessions()
                continue
            request = inbox.ready.popleft()
            content = unready(request, len(self._tools))
            if content is None:
                self._perform(request, self._tools[request.number].tool)
            else:
                inbox.waiting.discard(request.stream)
                self._refuse(request.stream, content)
            if request.channel is not None:
                inbox.end(request.channel)
            if self._broken is not None:
                break
        self._raise_broken()
        if inbox.is_over or self._is_gone:
            self._writer.flush()
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
            self._writer.flush()
            raise self._broken

    def _bound(self, seconds: float) -> Callable[[], None]:
        """Have a hook given up after so long, if the timer is not a tool's."""
        self._seat.begin_hook()
        return self._writer.bound(seconds)

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
            self._writer.send_large(request.stream, payload)
        else:
            self._writer.out.append(frame(kind, request.stream, payload))

    def _perform_nested(self, request: Request) -> None:
        """Run a call in the middle of the one that waits for the host, and answer it."""
        seat, tools = self._seat, self._tools
        self._inbox.waiting.discard(request.stream)
        content = unready(request, len(tools))
        if content is None and seat.depth == _MAX_NESTED:
            message = f"{_MAX_NESTED} nested calls run in this worker already"
            content = _answer.refused("saturated", "too_deep", message)
        if content is not None:
            self._writer.write(frame(KIND_ERROR, request.stream, content))
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
            self._writer.write_pieces(request.stream, payload, kind)
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
            self._writer.flush()
            while self._inbox.nested:
                self._perform_nested(self._inbox.nested.popleft())
        except (ProtocolError, OSError) as error:
            self._broken = error
        if self._is_gone or self._broken is not None:
            self._seat.stop_reading()
            self._doorbell.ask(self._doorbell.open)

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
        self._writer.out.append(frame(KIND_ERROR, stream, content))
        # The traceback holds the loop's frame, and that frame the error: free what it holds now.
        error.__traceback__ = None

    def _refuse(self, stream: int, content: bytes) -> None:
        """Answer a call that never ran."""
        doorbell = self._doorbell
        doorbell.words[WORD_STARTED] = stream
        if stream in doorbell.wanted:
            doorbell.wanted.discard(stream)
            content = _answer.given_up()
        self._writer.out.append(frame(KIND_ERROR, stream, content))

    def _end_by_exit(self) -> None:
        # In a forked child the socket is the parent's.
        if not self._forked:
            self._writer.flush()

    def _take_functions(self) -> None:
        for served in self._tools:
            served.choose()

    def _speak(self) -> None:
        """Send what telemetry is due: a tool says so, which may be in a thread of its own."""
        if get_ident() == self._seat.ident and not self._writer.is_writing:
            self._doorbell.shield(self._writer.flush)

    def _leave_to_parent(self) -> None:
        # A child that a tool forked must not speak in the worker's name.
        self._forked = True
        self._writer.leave_to_parent()
        self._control.close()
