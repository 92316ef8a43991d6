"""What the loop says: answers of quick calls in groups, large ones from where they are.

An answer is held while the calls behind it are quick. No call that may take long finds one held,
and what a quick one holds up after all, a timer writes: the interpreter's only one, which is a
tool's as soon as a tool takes it. Then nothing is held any more.
"""

from __future__ import annotations

import signal
import socket
from time import monotonic

from snakehouse import _telemetry
from snakehouse._frames import HEAD, KIND_LAST, in_pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from snakehouse._doorbell import Doorbell
    from snakehouse._plain import Served

# A reply longer than this is written without being copied into a batch. Bytes as long as this are
# not even encoded: MessagePack of them is five bytes and they themselves.
BATCH = 64 << 10
# So much of such bytes is held at most, and so many parts are written without being joined.
_MOST_LARGE = 256 << 10
_MOST_PARTS = 256
# Heads and bodies of answers that are held at most: while the host reads the first of many, the
# worker goes on, and neither ends up waiting for the other.
GROUP = 2 * 24
# A tool is quick after so many short calls in a row.
QUICK = 4
# No answer is held longer (seconds) by a call that the interpreter can interrupt.
_HOLD = 1e-3
# A timer that was set so long ago (seconds) and has not ended is gone: a tool took it.
LOST = 10e-3
# How long (milliseconds) the wait for the host is at most while telemetry waits.
_PATIENCE = round(_telemetry.DELAY * 1e3)


class Writer:
    """What is held, until the socket has it, and the timer that sees to that."""

    __slots__ = (
        "_control",
        "_doorbell",
        "_in_hook",
        "_is_fresh",
        "_large",
        "_may_hold",
        "_overdue",
        "_telemetry",
        "_tools",
        "armed",
        "is_writing",
        "out",
        "patience",
    )

    def __init__(self, control: socket.socket, doorbell: Doorbell, tools: list[Served]) -> None:
        self._control = control
        self._doorbell = doorbell
        self._tools = tools
        self._telemetry = _telemetry.current
        # Parts of whole frames; and how many bytes in them are not to be copied.
        self.out: list[bytes] = []
        self._large = 0
        # How long the next wait for the host may be: for ever, unless telemetry waits as well.
        self.patience: int | None = None
        # The timer's end keeps its hands off as long as this is set.
        self.is_writing = False
        # Whether there was a write since the timer was set.
        self._is_fresh = False
        # When the timer was set, or 0.0.
        self.armed = 0.0
        self._overdue = self._write_overdue
        # Whether the timer is that of a hook.
        self._in_hook = False
        self._may_hold = signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        if self._may_hold:
            signal.signal(signal.SIGALRM, self._overdue)

    def write(self, data: bytes) -> None:
        """Write whole frames, and what was held before them."""
        if self.out:
            self.flush()
        self._control.sendall(data)

    def flush(self) -> None:
        """Write what is held, and the telemetry that is due."""
        telemetry = self._telemetry
        if telemetry.waiting:
            if telemetry.is_due():
                self.out.append(telemetry.take())
            else:
                self.patience = _PATIENCE
        if self.out:
            self.is_writing = True
            if self._large and len(self.out) <= _MOST_PARTS:
                self._flush_large()
            else:
                batch = b"".join(self.out)
                self.out.clear()
                self._control.sendall(batch)
            self.is_writing = False
            self._is_fresh = True

    def _flush_large(self) -> None:
        """Write from where it is what is held."""
        self._large = 0
        sent = self._control.sendmsg(self.out)
        # A signal may cut it short.
        is_whole = sent == sum(map(len, self.out))
        rest = b"" if is_whole else memoryview(b"".join(self.out))[sent:]
        self.out.clear()
        if rest:
            self._control.sendall(rest)

    def tell(self) -> None:
        """Send all telemetry: nothing else has come for long enough, or nothing comes any more."""
        self.patience = None
        while batch := self._telemetry.take():
            self.out.append(batch)
        self.flush()

    def send_large(self, stream: int, payload: bytes) -> None:
        """Write an answer in pieces, as long as it is."""
        self.flush()
        self.is_writing = True
        for head, piece in in_pieces(stream, payload):
            self._send(head, piece)
        self.is_writing = False

    def write_pieces(self, stream: int, payload: bytes, kind: int) -> None:
        """Write an answer, and before each piece of it whatever is held by then."""
        for head, piece in in_pieces(stream, payload, kind):
            self.flush()
            self._send(head, piece)

    def keep_bytes(self, stream: int, result: bytes) -> None:
        """Keep an answer that is bytes as it is: in an encoded body they would be copied twice."""
        length = len(result)
        head = HEAD.pack(5 + length, KIND_LAST, stream) + b"\xc6" + length.to_bytes(4, "big")
        self.out += (head, result)
        self._large += length
        if self._large >= _MOST_LARGE:
            self.flush()

    def _send(self, head: bytes, piece: bytes | memoryview) -> None:
        sent = self._control.sendmsg((head, piece))
        if sent < len(head):
            self._control.sendall(head[sent:])
            sent = len(head)
        if sent < len(head) + len(piece):
            self._control.sendall(piece[sent - len(head) :])

    def make_ready(self, tool: Served) -> None:
        """Before a call: have nothing held that it could hold up, or a timer that ends that."""
        if tool.short < QUICK:
            self.flush()
            if self.armed:
                self.disarm()
        elif not self._arm():
            self.flush()

    def _arm(self) -> bool:
        """Set the timer; false if nothing may be held because the timer is a tool's."""
        if self._may_hold and signal.getsignal(signal.SIGALRM) is self._overdue:
            # Looked at first: the timer may end while this thread waits for its processor.
            armed = monotonic()
            left, interval = signal.setitimer(signal.ITIMER_REAL, _HOLD)
            if not left:
                self.armed = armed
                self._is_fresh = False
                return True
            signal.setitimer(signal.ITIMER_REAL, left, interval)
        self._may_hold = False
        return False

    def disarm(self) -> None:
        """Stop the timer, unless a tool has taken it; then it is the tool's for good."""
        armed, self.armed = self.armed, 0.0
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

    def lose(self) -> None:
        """The timer was set so long ago that a tool must have taken it."""
        self.armed = 0.0
        self._may_hold = False

    def bound(self, seconds: float) -> Callable[[], None]:
        """Have a hook given up after so long, if the timer is not a tool's; gives its end."""
        if not self._may_hold or signal.getsignal(signal.SIGALRM) is not self._overdue:
            return _nothing
        self._in_hook = True
        signal.setitimer(signal.ITIMER_REAL, seconds)
        return self._unbound

    def _unbound(self) -> None:
        self._in_hook = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _write_overdue(self, _signal: int, _frame: FrameType | None) -> None:
        """The timer ended: write what is held, or give up the hook that runs."""
        if self._in_hook:
            self._in_hook = False
            self._doorbell.give_up()
            return
        self.armed = 0.0
        if not self._is_fresh:
            # Something is held for that long: whatever it is, it is not quick any more.
            for tool in self._tools:
                tool.short = 0
        if self.is_writing or not self.out:
            return
        # A cancel must not hit the write: half a frame would be the end of the connection.
        doorbell = self._doorbell
        was_muffled = doorbell.is_muffled
        doorbell.is_muffled = True
        try:
            self.flush()
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

    def leave_to_parent(self) -> None:
        """Forget everything: this is a child that a tool forked."""
        self.armed = 0.0
        self.out.clear()
        self._large = 0


def _nothing() -> None:
    pass
