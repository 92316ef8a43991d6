"""What was raised, as it travels: type, message, notes, places, causes and members of groups."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from snakehouse import ToolError, UnsupportedValue, _answer, _failure, _msgpack
from snakehouse._errors import Cancelled
from snakehouse._tool import Tool


def told(error: BaseException) -> dict[str, Any]:
    """The failure of an exception, after its way over the wire."""
    return _msgpack.decode(_failure.encode(_failure.from_exception(error)))


def raised(work: Any) -> BaseException:
    try:
        work()
    except BaseException as error:
        return error
    raise AssertionError


def chain() -> None:
    try:
        try:
            int("x")
        except ValueError as error:
            raise KeyError("from") from error
    except KeyError:
        raise RuntimeError("while") from None


def three() -> None:
    try:
        try:
            int("x")
        except ValueError as error:
            error.add_note("noted")
            raise KeyError("from") from error
    except KeyError:
        raise RuntimeError("while")  # noqa: B904


def test_causes_and_contexts_are_told_apart() -> None:
    told_of = told(raised(three))
    assert (told_of["type"], told_of["message"]) == ("RuntimeError", "while")
    assert told_of["implicit"] is True
    handled = told_of["cause"]
    assert (handled["type"], handled["message"]) == ("KeyError", "'from'")
    assert "implicit" not in handled
    assert handled["cause"]["type"] == "ValueError"
    assert handled["cause"]["notes"] == ["noted"]
    assert handled["cause"]["cause"] is None
    assert told(raised(chain))["cause"] is None


def test_every_place_is_that_of_the_traceback() -> None:
    error = raised(three)
    summary = traceback.extract_tb(error.__traceback__)
    expected = [[f.filename, f.lineno, f.name, f.line] for f in summary]
    frames = told(error)["traceback"]
    assert [[f[0], f[1], f[2].rsplit(".", 1)[-1], f[3]] for f in frames] == expected


def test_a_group_tells_of_its_members() -> None:
    def work() -> None:
        first = raised(three)
        coded = ToolError("no", code="no_city", hint="try Bern")
        inner = BaseExceptionGroup("inner", [Cancelled(), UnsupportedValue("x", "$")])
        raise BaseExceptionGroup("outer", [first, coded, inner])

    group = told(raised(work))
    assert group["type"] == "BaseExceptionGroup"
    assert group["message"] == "outer (3 sub-exceptions)"
    assert group["left_out"] == 0
    first, coded, inner = group["members"]
    assert first["cause"]["cause"]["notes"] == ["noted"]
    assert first["traceback"]
    assert (coded["code"], coded["hint"]) == ("no_city", "try Bern")
    kinds = [(m["kind"], m["code"]) for m in inner["members"]]
    assert kinds == [("cancelled", "cancelled"), ("tool", "unsupported_value")]


def test_how_many_are_told_of_is_bounded_and_the_rest_is_counted() -> None:
    wide = ExceptionGroup("wide", [ValueError(str(n)) for n in range(200)])
    content = told(wide)
    assert len(content["members"]) == _failure.MAX_ERRORS - 1
    assert content["left_out"] == 200 - len(content["members"])

    deep: Any = ValueError("end")
    for _ in range(100):
        deep = ExceptionGroup("deep", [deep])
    content, levels = told(deep), 1
    while content["members"]:
        content, levels = content["members"][0], levels + 1
    assert (levels, content["left_out"]) == (_failure.MAX_CHAIN, 1)


def test_a_chain_that_bites_its_tail_ends() -> None:
    a, b = ValueError("a"), ValueError("b")
    a.__cause__, b.__cause__ = b, a
    content, length = told(a), 1
    while content["cause"]:
        content, length = content["cause"], length + 1
    assert length == _failure.MAX_CHAIN


class Hostile(Exception):
    """Breaks whoever looks at it."""

    def __str__(self) -> str:
        raise RuntimeError

    @property
    def __notes__(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise OSError


class Bare(ToolError):
    """Does not call its base's ``__init__``."""

    def __init__(self) -> None: ...


class Ends(BaseException):
    """What no broad ``except`` catches."""


class Unspeakable(ToolError):
    """Its code raises."""

    @property
    def code(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise Ends


class Ending(Exception):
    """Its message ends more than itself."""

    def __str__(self) -> str:
        raise SystemExit(3)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Bare(), "tool_error", ""),
        (Unspeakable.__new__(Unspeakable), "tool_raised", "<Unspeakable that cannot be looked at>"),
        (Ending(), "tool_raised", "<test_failure.Ending whose message raised SystemExit>"),
    ],
)
def test_whatever_is_raised_is_told(error: BaseException, code: str, message: str) -> None:
    content = told(error)
    assert (content["kind"], content["code"], content["message"]) == ("tool", code, message)
    tool = Tool(told, "function", "told", "")
    assert _msgpack.decode(_answer.failed(tool, error)) == content
    # Whose texts are those of what they were made of.
    assert _msgpack.decode(_answer.failed(tool, TypeError(error)))["code"]
    assert _msgpack.decode(_answer.not_decoded(ValueError(error)))["code"]


def test_an_exception_that_breaks_when_looked_at_is_still_told() -> None:
    content = told(Hostile())
    assert content["message"] == "<test_failure.Hostile whose message raised RuntimeError>"
    assert content["notes"] == ["<notes that raised OSError>"]


@pytest.mark.parametrize("size", [1 << 16, 1 << 22])
def test_a_failure_fits_into_a_frame(size: int) -> None:
    errors = [ValueError("x" * size) for _ in range(50)]
    group = ExceptionGroup("y" * size, errors)
    group.add_note("z" * size)
    data = _failure.encode(_failure.from_exception(group))
    assert len(data) <= 1 << 20
    assert _msgpack.decode(data)["message"].startswith("yyy")
