"""Schemas from type hints."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypedDict

import pytest

from snakehouse import _schema

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers


class Point(TypedDict):
    x: int
    y: int
    name: NotRequired[str]


class Tree(TypedDict):
    label: str
    left: Tree
    right: Tree
    others: list[Tree]


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (None, {"type": "null"}),
        (bool, {"type": "boolean"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (str, {"type": "string"}),
        (bytes, {"type": "string", "contentEncoding": "base64", "pythonType": "bytes"}),
        (list, {"type": "array"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (Sequence[str], {"type": "array", "items": {"type": "string"}}),
        (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
        (
            Mapping[int, str],
            {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "pythonKeys": {"type": "integer"},
            },
        ),
        (
            tuple[int, str],
            {
                "type": "array",
                "pythonType": "tuple",
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "items": False,
                "minItems": 2,
            },
        ),
        (
            tuple[int, ...],
            {"type": "array", "pythonType": "tuple", "items": {"type": "integer"}},
        ),
        (
            set[str],
            {
                "type": "array",
                "uniqueItems": True,
                "pythonType": "set",
                "items": {"type": "string"},
            },
        ),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (int | Any, {}),
        (Literal["a", 2], {"enum": ["a", 2]}),
        (Annotated[int, "metres"], {"type": "integer"}),
        (
            datetime.datetime,
            {"type": "string", "format": "date-time", "pythonType": "datetime"},
        ),
        (
            Point,
            {
                "type": "object",
                "properties": {
                    "x": {"type": "integer"},
                    "y": {"type": "integer"},
                    "name": {"type": "string"},
                },
                "required": ["x", "y"],
                "additionalProperties": False,
            },
        ),
        (Any, {}),
        (object, {}),
        (["no", "hint"], {}),
    ],
)
def test_a_hint_becomes_a_schema(hint: Any, schema: dict[str, Any]) -> None:
    assert _schema.of_hint(hint) == schema


def test_parameters_are_the_properties_of_an_object() -> None:
    def tool(
        text: str, times: int = 1, *rest: int, flag: bool, data: Any = (), **more: str
    ) -> None: ...

    assert _schema.parameters(tool) == {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "times": {"type": "integer", "default": 1},
            "flag": {"type": "boolean"},
            "data": {},
        },
        "required": ["text", "flag"],
        "additionalProperties": {"type": "string"},
    }


def test_what_has_no_signature_has_no_schema() -> None:
    assert _schema.parameters(iter) is None
    assert _schema.result(iter) == {}


def test_the_result_of_a_generator_is_its_item() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    async def texts() -> AsyncIterator[str]:
        yield ""

    def nothing() -> None: ...

    unknown: Any = eval("lambda: None")

    assert _schema.result(numbers) == {"type": "integer"}
    assert _schema.result(texts) == {"type": "string"}
    assert _schema.result(nothing) == {"type": "null"}
    assert _schema.result(unknown) == {}


def test_a_hint_that_cannot_be_evaluated_is_none() -> None:
    def tool(known: int, other: OnlyForCheckers) -> int:
        return known

    schema = _schema.parameters(tool)
    assert schema == {
        "type": "object",
        "properties": {"known": {"type": "integer"}, "other": {}},
        "required": ["known", "other"],
        "additionalProperties": False,
    }


def test_a_type_that_contains_itself_ends() -> None:
    deep: Any = int
    for _ in range(50):
        deep = list[deep]
    schema = _schema.of_hint(deep)
    levels = 0
    while "items" in schema:
        schema = schema["items"]
        levels += 1
    assert levels < 20


def test_types_that_contain_each_other_in_many_places_stay_small() -> None:
    """Eight levels of six fields would be a million schemas, and minutes before a worker serves."""

    tree = _schema.of_hint(Tree)
    assert tree["properties"]["label"] == {"type": "string"}
    assert tree["properties"]["left"] == {}
    assert tree["properties"]["others"] == {"type": "array"}
    wide: Any = int
    for _ in range(8):
        wide = tuple[wide, wide, wide, wide, wide, wide]
    assert len(str(_schema.of_hint(wide))) < 100_000


def test_a_hint_that_raises_when_looked_at_hurts_nobody() -> None:
    class Hostile(type):
        def __eq__(cls, other: object) -> bool:
            raise RuntimeError("do not look")

        __hash__ = type.__hash__

    class Hint(metaclass=Hostile): ...

    def tool(value: Any) -> None: ...

    tool.__annotations__["value"] = Hint
    assert _schema.describe(tool) == (None, None)
