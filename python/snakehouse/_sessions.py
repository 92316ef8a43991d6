"""What this worker keeps of sessions: their names, their state, and who is told of their end.

The host says what a session is called before its first call here, and when it is over: then no call
of it is open any more. State is dropped in that moment; the hooks run a little later, between
calls, and have the last look at it.
"""

from __future__ import annotations

import sys
import traceback
from collections import deque
from collections.abc import MutableMapping
from typing import Any

from snakehouse import _msgpack
from snakehouse._errors import MalformedValue, SessionStateFull
from snakehouse._frames import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    Hook = Callable[[str, str, "SessionState"], Any]
    Function = TypeVar("Function", bound=Callable[[str, str, "SessionState"], Any])

_MARK = "__snakehouse_session_end__"
# Sessions that are over, whose numbers late threads and tasks may still ask for.
_REMEMBERED = 1024


class Limits:
    """What the host allows: sessions with state, and for each entries and bytes."""

    __slots__ = ("bytes", "count", "entries", "hook_seconds")

    def __init__(self) -> None:
        self.count = 10_000
        self.entries = 1_000
        self.bytes = 64 << 20
        self.hook_seconds = 5.0


class SessionState(MutableMapping[str, Any]):
    """What the calls of one session leave for each other: text keys, any values.

    It has limits, which are looked at when something is stored: so many entries, and so many bytes.
    Bytes are what ``sys.getsizeof`` says of keys and values, of what built-in containers hold, and
    of the buffers of arrays (``nbytes``); what an object of your own refers to is not followed.
    Raises ``SessionStateFull`` then, and keeps what was there.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._values: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        kind: type = type(key)
        if kind is not str:
            raise TypeError(f"a key of a session's state is a str, not {kind.__name__}")
        limits, sizes = self._limits, self._sizes
        others = len(sizes) - (key in sizes)
        if others >= limits.entries:
            raise SessionStateFull(f"the session's state has {limits.entries} entries already")
        # Summed up each time: a cancel between two lines must not leave a wrong sum behind.
        held = sum(sizes.values()) - sizes.get(key, 0)
        size = measure((key, value), limits.bytes - held)
        if held + size > limits.bytes:
            raise SessionStateFull(f"the session's state may hold {limits.bytes} bytes")
        sizes[key] = size
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[key]
        self._sizes.pop(key, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<session state of {len(self)} entries>"


def measure(value: Any, enough: int) -> int:
    """The bytes of a value, as ``SessionState`` counts them; once above ``enough``, only that."""
    seen: set[int] = set()
    todo: list[Any] = [value]
    total = 0
    while todo and total <= enough:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        total += max(sys.getsizeof(item, 0), _buffer(item))
        if isinstance(item, dict):
            todo.extend(item.keys())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            todo.extend(item.values())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        elif isinstance(item, (list, tuple, set, frozenset, deque)):
            todo.extend(item)  # pyright: ignore[reportUnknownArgumentType]
    return total


def _buffer(item: object) -> int:
    """The bytes that an array or a view shows."""
    try:
        size = getattr(item, "nbytes", 0)
    except Exception:
        return 0
    return size if type(size) is int else 0


class Ended:
    """A session that is over, for the hooks."""

    __slots__ = ("name", "reason", "state")

    def __init__(self, name: str, reason: str, state: SessionState) -> None:
        self.name = name
        self.reason = reason
        self.state = state


class Sessions:
    """Every session that this worker knows of."""

    def __init__(self) -> None:
        self.limits = Limits()
        self.hooks: list[Hook] = []
        # Those whose hooks are still to run.
        self.ended: deque[Ended] = deque()
        self._names: dict[int, str] = {}
        self._states: dict[int, SessionState] = {}
        self._over: deque[int] = deque(maxlen=_REMEMBERED)

    def configure(self, limits: Any) -> None:
        """What the host says in its settings. Raises ``ProtocolError``."""
        try:
            self.limits.count = int(limits["count"])
            self.limits.entries = int(limits["entries"])
            self.limits.bytes = int(limits["bytes"])
            self.limits.hook_seconds = int(limits["hook_micros"]) * 1e-6
        except (TypeError, KeyError, ValueError):
            raise ProtocolError("malformed settings of sessions") from None

    def take(self, payload: memoryview) -> None:
        """A session frame; events that are not known mean nothing. Raises ``ProtocolError``."""
        try:
            event: Any = _msgpack.decode(bytes(payload))
            number, what = event["id"], event["event"]
            if what == "started":
                self._names[number] = event["name"]
            elif what == "ended":
                self._end(number, event["reason"])
        except (MalformedValue, TypeError, KeyError):
            raise ProtocolError("malformed session frame") from None

    def name(self, number: int) -> str:
        """A session's name, or ``#`` and its number."""
        return self._names.get(number) or f"#{number}"

    def state(self, number: int) -> SessionState:
        """A session's state. Raises ``RuntimeError`` and ``SessionStateFull``."""
        state = self._states.get(number)
        if state is None:
            if number in self._over:
                raise RuntimeError("the session is over")
            if len(self._states) >= self.limits.count:
                raise SessionStateFull(f"{self.limits.count} sessions have state already")
            # Two threads may come here at once.
            state = self._states.setdefault(number, SessionState(self.limits))
        return state

    def leave(self) -> None:
        """The worker ends in good order, and every session with it."""
        for number in sorted({*self._names, *self._states}):
            self._end(number, "worker_ended")

    def _end(self, number: int, reason: str) -> None:
        self._over.append(number)
        name = self.name(number)
        self._names.pop(number, None)
        state = self._states.pop(number, None)
        if self.hooks:
            self.ended.append(Ended(name, reason, state or SessionState(self.limits)))


current = Sessions()


def on_session_end(function: Function) -> Function:
    """Have a function called when a session is over that had calls in this worker.

    It is called with the session's name, the reason (``closed``, ``expired``, ``recycled``, or
    ``worker_ended`` when the worker ends in good order) and the session's state, which is dropped
    afterwards. It runs between calls, may be ``async``, and is given up with ``Cancelled`` after
    5 s unless the pool says otherwise. What it raises goes to standard error. Nothing calls it when
    the worker is killed.

    ::

        @snakehouse.on_session_end
        def close(name: str, reason: str, state: snakehouse.SessionState) -> None:
            if "connection" in state:
                state["connection"].close()

    The function stays what it was. Raises ``TypeError`` for what is not a function.
    """
    if getattr(function, "__code__", None) is None:
        raise TypeError(f"a hook must be a plain function, not {type(function).__name__}")
    setattr(function, _MARK, function)
    return function


def find_hooks(namespace: dict[str, Any]) -> Iterable[Hook]:
    """The hooks among the values of a module, in the order of their definition."""
    for value in namespace.values():
        try:
            attributes = object.__getattribute__(value, "__dict__")
        except Exception:  # noqa: S112
            # It has no attributes of its own.
            continue
        if type(attributes) is dict and attributes.get(_MARK) is value:  # pyright: ignore[reportUnknownMemberType]
            yield value


def failed(ended: Ended, hook: Hook) -> None:
    """Tell of a hook that raised what is being handled."""
    try:
        what = f"hook {hook.__name__} of session {ended.name!r}, which is over ({ended.reason})"
        print(f"snakehouse worker: {what} failed:", file=sys.stderr)
        traceback.print_exc()
    except Exception:  # noqa: S110
        # Nobody reads it.
        pass
