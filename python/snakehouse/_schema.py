"""What a tool takes and gives, as JSON Schema, from its type hints.

The schema says what the hints say and nothing more: a parameter without a hint, or with one that
has no counterpart, is the schema ``{}``, which everything fits. Types that JSON does not tell apart
carry the keyword ``pythonType`` (``tuple``, ``bytes``, ``set``, ``datetime``, ...). Hints that
cannot be evaluated (a name that is imported only for type checkers) are no hints.
"""

from __future__ import annotations

import inspect
import types
import typing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Schema = dict[str, Any]

# Levels of a schema, and the schemas in that of one parameter: types may contain each other.
_MAX_DEPTH = 8
_MAX_SCHEMAS = 512

_PLAIN: dict[object, Schema] = {
    None: {"type": "null"},
    type(None): {"type": "null"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
}
# Named, so that describing a tool imports nothing that its module did not.
_NAMED: dict[tuple[str, str], Schema] = {
    ("builtins", "bytes"): {"type": "string", "contentEncoding": "base64", "pythonType": "bytes"},
    ("builtins", "bytearray"): {
        "type": "string",
        "contentEncoding": "base64",
        "pythonType": "bytearray",
    },
    ("datetime", "datetime"): {
        "type": "string",
        "format": "date-time",
        "pythonType": "datetime",
    },
    ("datetime", "date"): {"type": "string", "format": "date", "pythonType": "date"},
    ("datetime", "time"): {"type": "string", "format": "time", "pythonType": "time"},
    ("datetime", "timedelta"): {
        "type": "string",
        "format": "duration",
        "pythonType": "timedelta",
    },
    ("numpy", "ndarray"): {"pythonType": "ndarray"},
}


def describe(function: Callable[..., Any]) -> tuple[Schema | None, Schema | None]:
    """The schemas of the parameters and of the result; None for what cannot be known.

    Never raises: a hint is the user's own object and may do anything when it is looked at.
    """
    try:
        return parameters(function), result(function)
    except Exception:
        return None, None


def parameters(function: Callable[..., Any]) -> Schema | None:
    """The schema of the object whose keys are the parameters; None if they cannot be known.

    A parameter's order and kind stand in the signature. ``*args`` is left out; ``**kwargs`` becomes
    ``additionalProperties``.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    hints = _hints(function)
    properties: Schema = {}
    required: list[str] = []
    rest: Schema | bool = False
    for name, parameter in signature.parameters.items():
        schema = of_hint(hints[name]) if name in hints else {}
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            rest = schema or True
            continue
        if parameter.default is parameter.empty:
            required.append(name)
        elif _is_json(parameter.default):
            schema = {**schema, "default": parameter.default}
        properties[name] = schema
    whole: Schema = {"type": "object", "properties": properties, "additionalProperties": rest}
    return {**whole, "required": required} if required else whole


def result(function: Callable[..., Any]) -> Schema:
    """The schema of what the function returns, or of each item that a generator yields."""
    hint = _hints(function).get("return", inspect.Parameter.empty)
    if hint is inspect.Parameter.empty:
        return {}
    origin = typing.get_origin(hint)
    if getattr(origin, "__module__", "") == "collections.abc" and getattr(
        origin, "__name__", ""
    ) in ("Iterator", "Iterable", "Generator", "AsyncIterator", "AsyncIterable", "AsyncGenerator"):
        arguments = typing.get_args(hint)
        return of_hint(arguments[0]) if arguments else {}
    return of_hint(hint)


class _Place:
    """Where in a hint the reading is, and how much more of it may be read."""

    __slots__ = ("_depth", "_room", "within")

    def __init__(
        self, depth: int = 0, within: tuple[object, ...] = (), room: list[int] | None = None
    ) -> None:
        self._depth = depth
        self._room = [_MAX_SCHEMAS] if room is None else room
        # The typed dicts that it is in.
        self.within = within

    def below(self, *within: object) -> _Place:
        """One level deeper, perhaps in a typed dict."""
        return _Place(self._depth + 1, (*self.within, *within), self._room)

    def enter(self) -> bool:
        """Read one hint here; false if that is too much."""
        self._room[0] -= 1
        return self._depth <= _MAX_DEPTH and self._room[0] >= 0


def of_hint(hint: Any, place: _Place | None = None) -> Schema:
    """The schema of one type hint; ``{}`` if it says nothing that a schema can say.

    A typed dict within itself is ``{}`` there, and so is what is too deep, or too much.
    """
    place = place or _Place()
    if not place.enter():
        return {}
    try:
        plain = _PLAIN.get(hint)
    except TypeError:
        return {}
    if plain is not None:
        return dict(plain)
    if isinstance(hint, type):
        named = _NAMED.get((hint.__module__, hint.__qualname__))
        if named is not None:
            return dict(named)
    if typing.is_typeddict(hint):
        # One with six fields of its own type would have millions of schemas.
        return {} if hint in place.within else _typed_dict(hint, place.below(hint))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union([of_hint(one, place.below()) for one in arguments])
    if origin is typing.Literal:
        return {"enum": list(arguments)} if all(map(_is_json, arguments)) else {}
    if origin is typing.Annotated:
        return of_hint(arguments[0], place)
    return _container(origin or hint, arguments, place)


def _container(kind: Any, arguments: tuple[Any, ...], place: _Place) -> Schema:
    name = getattr(kind, "__name__", "")
    items = of_hint(arguments[0], place.below()) if arguments else {}
    if kind is list or name in ("Sequence", "MutableSequence"):
        return {"type": "array", **({"items": items} if items else {})}
    if kind in (set, frozenset):
        schema: Schema = {"type": "array", "uniqueItems": True, "pythonType": name}
        return {**schema, "items": items} if items else schema
    if kind is tuple:
        return _tuple(arguments, place)
    if kind is dict or name in ("Mapping", "MutableMapping"):
        values = of_hint(arguments[1], place.below()) if len(arguments) == 2 else {}
        schema = {"type": "object", **({"additionalProperties": values} if values else {})}
        # Only text can be a key of a JSON object; others are said in our own word.
        if arguments and arguments[0] is not str:
            schema["pythonKeys"] = items
        return schema
    return {}


def _tuple(arguments: tuple[Any, ...], place: _Place) -> Schema:
    schema: Schema = {"type": "array", "pythonType": "tuple"}
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        items = of_hint(arguments[0], place.below())
        return {**schema, "items": items} if items else schema
    if not arguments:
        return schema
    places = [of_hint(one, place.below()) for one in arguments]
    return {**schema, "prefixItems": places, "items": False, "minItems": len(places)}


def _typed_dict(hint: Any, place: _Place) -> Schema:
    try:
        fields = typing.get_type_hints(hint, include_extras=True)
    except Exception:
        return {"type": "object"}
    # Where annotations are text, __required_keys__ has not seen through them.
    marks = {name: typing.get_origin(one) for name, one in fields.items()}
    required = [
        name
        for name, mark in marks.items()
        if mark is typing.Required or (hint.__total__ and mark is not typing.NotRequired)
    ]
    inner = {
        name: typing.get_args(one)[0]
        if marks[name] in (typing.Required, typing.NotRequired)
        else one
        for name, one in fields.items()
    }
    return {
        "type": "object",
        "properties": {name: of_hint(one, place) for name, one in inner.items()},
        "required": sorted(required),
        "additionalProperties": False,
    }


def _union(choices: list[Schema]) -> Schema:
    # A choice that everything fits makes the whole say nothing.
    return {"anyOf": choices} if all(choices) else {}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:
        # One name that exists only for type checkers is enough for that: look at each alone.
        hints: dict[str, Any] = {}
        for name, hint in getattr(function, "__annotations__", {}).items():
            alone = types.SimpleNamespace(__annotations__={name: hint})
            try:
                hints |= typing.get_type_hints(alone, getattr(function, "__globals__", {}))
            except Exception:
                # No hint, then.
                hints.pop(name, None)
        return hints


def _is_json(value: object) -> bool:
    return value is None or type(value) in (bool, int, float, str)
